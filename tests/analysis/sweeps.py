"""Simulated sweeps of learning rate and batch around settings that follow known laws."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from analysis.hyper.laws import Rule

LR = Rule("N,D", 1.5, (-0.7, 0.3))
BATCH = Rule("D", 0.6, (0.57,))
SHAPES = tuple((n, d) for n in (1e8, 3e8, 1e9) for d in (2e9, 8e9, 3e10))
STEPS = tuple(2.0**i for i in range(-3, 4))


def cell_of(
    params: float,
    tokens: float,
    *,
    lr_steps: Sequence[float] = STEPS,
    batch_steps: Sequence[float] = STEPS,
    steeper: float = 0.0,
) -> list[dict[str, Any]]:
    """Runs around the best settings; loss is a bowl there, `steeper` above the best rate."""
    sizes = {"params": params, "tokens": tokens}
    lr, batch = (math.exp(rule.log_value(sizes)) for rule in (LR, BATCH))
    rows: list[dict[str, Any]] = []
    for x, y in ((math.log(a), math.log(b)) for a in lr_steps for b in batch_steps):
        bowl = 0.01 * (x * x + y * y - 0.6 * x * y) + steeper * max(x, 0.0) ** 3
        row = {"lr": lr * math.exp(x), "batch_tokens": batch * math.exp(y)}
        rows.append(sizes | row | {"loss": 2.0 + 300 / params**0.3 + bowl})
    return rows


def table(rows: Sequence[dict[str, Any]], *, noise: float = 0.0, seed: int = 0) -> pl.DataFrame:
    wobble = 1 + noise * np.random.default_rng(seed).normal(size=len(rows))
    frame = pl.DataFrame(rows).with_columns(pl.col("loss") * wobble)
    return frame.with_row_index("run_id", offset=1).with_columns(
        pl.format("row {}", "run_id").alias("run_id")
    )


def sweep(*, noise: float = 0.0, seed: int = 0, **how: Any) -> pl.DataFrame:
    rows = [row for n, d in SHAPES for row in cell_of(n, d, **how)]
    return table(rows, noise=noise, seed=seed)

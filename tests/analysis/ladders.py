"""Simulated ladders of runs, and run directories as jobs leave them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

# Besiroglu et al. 2024, arXiv:2404.10102: the refit of Chinchilla's L = E + A/N^alpha + B/D^beta.
E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
# Hoffmann et al. 2022, arXiv:2203.15556, eq. 10.
HOFFMANN = (1.69, 406.4, 410.7, 0.34, 0.28)
# The same exponent on both sides: along a budget the loss is symmetric in log N.
SYMMETRIC = (1.8, 800.0, 800.0, 0.35, 0.35)
CHINCHILLA = (E, A, B, ALPHA, BETA)

Surface = tuple[float, float, float, float, float]


def optimum(budget: float, surface: Surface = CHINCHILLA) -> tuple[float, float, float]:
    """Params, tokens and loss of least loss on 6 N D = budget. Source: Hoffmann et al., eq. 4."""
    e, a, b, alpha, beta = surface
    params = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (budget / 6) ** (
        beta / (alpha + beta)
    )
    tokens = budget / 6 / params
    return params, tokens, e + a / params**alpha + b / tokens**beta


def ladder(
    budgets: Sequence[float],
    *,
    sizes: int = 5,
    spread: float = 4.0,
    noise: float = 0.0,
    seed: int = 0,
    surface: Surface = CHINCHILLA,
    drift: float = 1.0,
    name: str = "run",
) -> pl.DataFrame:
    """Points around each optimum (times `drift`), with relative noise."""
    e, a, b, alpha, beta = surface
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for budget in budgets:
        for factor in np.geomspace(1 / spread, spread, sizes):
            params = optimum(budget, surface)[0] * factor * drift
            tokens = budget / 6 / params
            loss = (e + a / params**alpha + b / tokens**beta) * (1 + noise * rng.normal())
            row = {"run_id": f"{name}{len(rows)}", "design": "isoflop", "budget": budget, "seed": 0}
            rows.append(row | {"params": params, "tokens": tokens, "loss": loss, "state": "DONE"})
    return pl.DataFrame(rows)


def write_run(
    runs: Path,
    run_id: str,
    *,
    spec: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    metrics: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A run directory in the files that jobs write."""
    folder = runs / run_id
    folder.mkdir(parents=True, exist_ok=True)
    content = {"study": "s", "trial": 0, "budget": 1e18, "stage": "pretrain", "parent": None}
    content |= {"seed": 0, "model": {"d_model": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1}}
    content |= {"optim": {"lr": 1e-3}, "batch": {"global_batch_tokens": 4096}, **(spec or {})}
    (folder / "run.json").write_text(json.dumps(content))
    for attempt, lines in (metrics or {}).items():
        (folder / f"attempt.{attempt}.json").write_text(json.dumps({"number": attempt}))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"metrics.{attempt}.jsonl").write_text(text)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if result is not None:
        (folder / "result.json").write_text(json.dumps({**measured(run_id), **result}))
    return folder


def measured(run_id: str) -> dict[str, Any]:
    """A result as train writes it."""
    counts = {"params_total": 1200, "params_non_embedding": 800, "params_active": 1000}
    return {"run_id": run_id, "state": "DONE", "cause": "", "tokens": 40960, "flops": 1e18} | {
        **counts,
        "nats_per_token": 2.5,
        "bits_per_byte": 1.1,
        "seconds": 12.0,
        "gpu_hours": 0.01,
        "tokens_per_second": 3413.0,
        "mfu": None,
        "metrics": {"nats_per_token/code": 2.25},
    }


def step(number: int, loss: float, **more: Any) -> dict[str, Any]:
    """A line of metrics."""
    line = {"step": number, "tokens": number * 4096, "loss": loss, "grad_norm": 1.0, "lr": 1e-3}
    return line | {"tokens_per_second": 3413.0, "seconds": 1.2, **more}

"""What each level of an axis does to the loss: effects paired by seed and budget."""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from analysis.law import Floats

Verdict = Literal["better", "worse", "no difference seen", "not tested"]


@dataclass(frozen=True)
class Effect:
    """Loss of a level minus that of the baseline, over `n` pairs of one seed and one budget.

    `noise` is the standard deviation of a single run, pooled over every level; `p` is corrected
    after Holm over all levels. What cannot be had from the runs is None, and the verdict says so.
    """

    axis: str
    level: str
    difference: float | None
    low: float | None
    high: float | None
    noise: float | None
    p: float | None
    n: int
    verdict: Verdict
    run_ids: tuple[str, ...]


def holm(p_values: list[float]) -> list[float]:
    """Family-wise corrected p values, in the order given.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = worst
    return corrected


def _pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Each run of a level beside the baseline run of the same budget and seed."""
    kept = frame.filter(pl.col("loss").is_not_null() & pl.col("loss").is_finite())
    kept = kept.with_columns(pl.col("level").cast(pl.String))
    block = ["budget", "seed"]
    baseline = kept.filter("baseline").unique(block, keep="first", maintain_order=True)
    levels = kept.filter(~pl.col("baseline")).unique(
        ["axis", "level", *block], keep="first", maintain_order=True
    )
    paired = levels.join(baseline.select(*block, pl.col("loss").alias("base")), on=block)
    return paired.with_columns((pl.col("loss") - pl.col("base")).alias("difference"))


def _noise(pairs: pl.DataFrame, cells: list[tuple[str, str]]) -> tuple[float | None, int]:
    """Standard deviation of one run and its degrees of freedom.

    Residuals of loss = level + block by least squares: blocks (seed and budget) are shared by all
    levels and the baseline, so what a seed does to all of them is not taken for noise.
    """
    blocks = pairs.select("budget", "seed").unique(maintain_order=True).rows()
    base = pairs.unique(["budget", "seed"], keep="first", maintain_order=True)
    rows = [
        (len(cells), blocks.index(b[:2]), b[2]) for b in base[["budget", "seed", "base"]].rows()
    ]
    for axis, level, budget, seed, loss in pairs[
        ["axis", "level", "budget", "seed", "loss"]
    ].rows():
        rows.append((cells.index((axis, level)), blocks.index((budget, seed)), loss))
    treatment, block, loss = (np.array(column) for column in zip(*rows, strict=True))
    matrix: Floats = np.hstack(
        [np.eye(len(cells) + 1)[treatment.astype(int)], np.eye(len(blocks))[block.astype(int)]]
    )
    solution = np.linalg.lstsq(matrix, loss, rcond=None)
    dof = len(loss) - int(solution[2])
    if dof < 1:
        return None, 0
    residual = loss - matrix @ solution[0]
    return math.sqrt(float(residual @ residual) / dof), dof


def _p_value(difference: float, error: float, dof: int) -> float:
    """Two-sided p of a mean difference; where nothing scatters, any difference is one."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, dof))


def _effect(cell: tuple[str, str], pairs: pl.DataFrame) -> Effect:
    """What is known before any noise is: the mean difference and its runs."""
    mean = float(pairs["difference"].to_numpy().mean()) if len(pairs) else None
    runs = tuple(pairs["run_id"].to_list())
    return Effect(*cell, mean, None, None, None, None, len(pairs), "not tested", runs)


def _judged(effect: Effect, noise: float, half_width: float, p: float, alpha: float) -> Effect:
    assert effect.difference is not None
    sign: Verdict = "better" if effect.difference < 0 else "worse"
    return replace(
        effect,
        low=effect.difference - half_width,
        high=effect.difference + half_width,
        noise=noise,
        p=p,
        verdict=sign if p < alpha else "no difference seen",
    )


def effects(frame: pl.DataFrame, *, level: float = 0.95) -> list[Effect]:
    """Every level of every axis against the baseline, in the order of the rows.

    Columns: axis, level, baseline (bool), budget, seed, loss (null where a run failed), run_id. All
    baseline rows are one configuration, whichever axis they stand under. A level without a pair, or
    runs without a replicate to tell noise by, are "not tested".
    """
    variants = frame.filter(~pl.col("baseline")).with_columns(pl.col("level").cast(pl.String))
    cells = variants.select("axis", "level").unique(maintain_order=True).rows()
    pairs = _pairs(frame)
    found = [
        _effect(cell, pairs.filter(pl.col("axis") == cell[0], pl.col("level") == cell[1]))
        for cell in cells
    ]
    noise, dof = _noise(pairs, cells) if len(pairs) else (None, 0)
    if noise is None:
        return found
    tested = [(i, e.difference, e.n) for i, e in enumerate(found) if e.difference is not None]
    errors = [noise * math.sqrt(2 / n) for _, _, n in tested]
    corrected = holm(
        [_p_value(d, error, dof) for (_, d, _), error in zip(tested, errors, strict=True)]
    )
    student = float(stats.t.ppf((1 + level) / 2, dof))
    for (i, _, _), error, p in zip(tested, errors, corrected, strict=True):
        found[i] = _judged(found[i], noise, student * error, p, 1 - level)
    return found

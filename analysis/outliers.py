"""Runs that do not belong to the surface of all others: found by rule, named, kept out."""

import numpy as np
import polars as pl

from analysis.law import Excluded, Floats
from analysis.solve import HUBER_DELTA, polish, solve
from analysis.surface import SURFACES, evaluate, sizes_of

# Robust standard deviations off the surface. Ours, measured: the runs that the authors of public
# sweeps kept reach 10 of them (Chinchilla's smallest budget), those that were dropped begin at 14.
CUTOFF = 12.0
ROUNDS = 10
RUNS_NEEDED = 12


def _scale(residual: Floats) -> float:
    """Robust standard deviation; never finer than the losses are fitted."""
    spread = np.median(np.abs(residual - np.median(residual)))
    return max(float(spread) / 0.6745, HUBER_DELTA)


def screen(rows: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """The rows on the surface, and those further from it than CUTOFF.

    The surface is fitted to those kept until none joins or leaves, so that a run that stands apart
    cannot hide another; its log-Huber loss survives a fifth of diverged runs. Below RUNS_NEEDED
    runs nothing is judged.
    """
    if len(rows) < RUNS_NEEDED or rows["params"].n_unique() < 4:
        return rows, ()
    repeats = (rows["unique_tokens"] < rows["tokens"]).any()
    surface = SURFACES["data-constrained" if repeats else "parametric"]
    sizes, log_y = sizes_of(rows), np.log(rows["loss"].to_numpy())
    theta, _ = solve(surface, sizes, log_y)
    kept = np.ones(len(rows), dtype=bool)
    residual, scale = log_y, np.inf
    for _ in range(ROUNDS):
        residual = log_y - evaluate(surface, sizes, theta[None])[0][0]
        scale = _scale(residual[kept])
        now = np.abs(residual) < CUTOFF * scale
        if (now == kept).all():
            break
        kept = now
        theta, _ = polish(surface, sizes.rows(kept), log_y[kept], theta)
    strange = [
        Excluded(run_id, f"loss {np.expm1(off):+.1%} off the surface, {abs(off) / scale:.0f} sigma")
        for run_id, off in zip(rows["run_id"].to_numpy()[~kept], residual[~kept], strict=True)
    ]
    return rows.filter(pl.Series(kept)), tuple(strange)

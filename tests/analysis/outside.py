"""Rows that studies are given from outside: sweeps of the rate, of mixtures, runs of a task."""

import polars as pl

from tests.analysis import ladders, mixtures, sweeps

SHAPES = ((1e8, 2e9), (1e8, 3e10), (1e9, 8e9))


def lr_sweep() -> pl.DataFrame:
    """Three cells of rates and batches, of two sizes: no compute law goes through them."""
    return sweeps.table([row for n, d in SHAPES for row in sweeps.cell_of(n, d)])


def mixing_study(runs: int = 30) -> pl.DataFrame:
    """Runs of three domains at one size, which the file does not name."""
    return mixtures.study(runs)


def task() -> pl.DataFrame:
    """Runs of a task: nll falls with compute, accuracy follows it."""
    rows = ladders.ladder((1e18, 3e18, 1e19, 3e19, 1e20))
    rows = rows.select("budget", "params", "tokens", "loss", flops="budget")
    rows = rows.with_columns(nll=0.3 + 0.8 * (pl.col("flops") / 1e18) ** -0.1)
    return rows.with_columns(accuracy=0.25 + 0.7 / (1 + (6 * (pl.col("nll") - 0.8)).exp()))

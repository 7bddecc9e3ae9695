"""What an adaptive design buys for a third of a grid's FLOPs, beside the grid."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import next_runs
from analysis.forecast import panel
from analysis.next_runs import Aim, Point
from analysis.runs import prepare
from tests.analysis import ladders
from tests.benchmarks import Bench

NOISE, SEEDS = 0.004, 30
GRID = np.geomspace(1e18, 1e20, 5).tolist()
# The design's defaults: the four cheaper rungs, five sizes each. Wider than the grid, which knows
# where the optima are; a design that has yet to find them looks further out.
START, SIZES, SPREAD = 4, 5, 8.0
LOSS_WITHIN, PARAMS_WITHIN = 0.03, 0.25
TARGET = 60 * GRID[-1]
PARAMS, _, LOSS = ladders.optimum(TARGET)


def around_truth(budgets: list[float], sizes: int, spread: float) -> list[Point]:
    factors = np.geomspace(1 / spread, spread, sizes).tolist()
    return [Point(c, ladders.optimum(c)[0] * f) for c in budgets for f in factors]


def measured(points: list[Point], rng: np.random.Generator) -> pl.DataFrame:
    """The runs with the losses of Chinchilla's surface and log noise."""
    e, a, b, alpha, beta = ladders.CHINCHILLA
    frame = pl.DataFrame(
        {
            "run_id": [f"{rng.integers(2**62)}" for _ in points],
            "budget": [p.budget for p in points],
            "params": [p.params for p in points],
            "noise": rng.normal(0, NOISE, len(points)),
        }
    ).with_columns((pl.col("budget") / 6 / pl.col("params")).alias("tokens"))
    loss = e + a / pl.col("params") ** alpha + b / pl.col("tokens") ** beta
    return frame.with_columns((loss * pl.col("noise").exp()).alias("loss")).drop("noise")


def adaptive(flops: float, rng: np.random.Generator) -> pl.DataFrame:
    """What the adaptive design measures for these FLOPs."""
    made = around_truth(GRID[:START], SIZES, SPREAD)
    rows = measured(made, rng)
    while True:
        runs = prepare(rows)
        drift = next_runs.drift(panel(runs, "parametric", draws=100))
        aim = Aim(TARGET, LOSS_WITHIN, PARAMS_WITHIN, drift)
        local = next_runs.locate(runs)
        left = flops - sum(p.budget for p in made)
        candidates = next_runs.around(local, GRID, SPREAD)
        choice = next_runs.choose(local, made, candidates, aim, batch=8, flops=left)
        if not choice.points:
            return rows
        made = [*made, *choice.points]
        rows = pl.concat([rows, measured(list(choice.points), rng)])


def outcome(rows: pl.DataFrame) -> list[float]:
    """Half-widths and true errors of ln L and ln N* at the target."""
    said = panel(prepare(rows)).at(TARGET)
    return [
        *next_runs.half_widths(said),
        math.log(said.loss / LOSS),
        math.log(said.params / PARAMS),
    ]


@pytest.mark.bench
def test_a_third_of_the_flops_of_a_grid_buys_its_interval(bench: Bench) -> None:
    grid = around_truth(GRID, 7, 4.0)
    cost = sum(p.budget for p in grid)
    found: dict[str, list[list[float]]] = {"grid": [], "adaptive": []}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        found["grid"].append(outcome(measured(grid, rng)))
        found["adaptive"].append(outcome(adaptive(cost / 3, rng)))
    fixed, grown = (np.array(found[name]) for name in ("grid", "adaptive"))
    for i, name in enumerate(("ln L", "ln N*")):
        widths = [float(np.median(rows[:, i])) for rows in (fixed, grown)]
        errors = [float(np.sqrt(np.mean(rows[:, 2 + i] ** 2))) for rows in (fixed, grown)]
        # No larger than two samples of one distribution may differ.
        most = errors[0] * float(np.sqrt(stats.f.ppf(0.95, SEEDS, SEEDS)))
        bench(f"grid of 5 x 7: half-width of {name} at 60x", widths[0])
        bench(f"adaptive, 1/3 of its FLOPs: half-width of {name}", widths[1], high=widths[0])
        bench(f"grid of 5 x 7: rms error of {name}", errors[0])
        bench(f"adaptive, 1/3 of its FLOPs: rms error of {name}", errors[1], high=most)

"""Measured against bound: `python -m pytest tests/analysis -m bench -s`."""

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

NOISE, SEEDS = 0.004, 30
GRID = np.geomspace(1e18, 1e20, 5).tolist()
# The same range in more rungs, most of them cheap.
RUNGS = np.geomspace(1e18, 1e20, 6).tolist()
SPREAD = 8.0
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
    made = around_truth(RUNGS[:5], 4, SPREAD)
    rows = measured(made, rng)
    while True:
        runs = prepare(rows)
        drift = next_runs.drift(panel(runs, "parametric", draws=100))
        aim = Aim(TARGET, 0.04, 0.27, drift)
        local = next_runs.locate(runs)
        left = flops - sum(p.budget for p in made)
        candidates = next_runs.around(local, RUNGS, SPREAD)
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
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_third_of_the_flops_of_a_grid_buys_its_interval() -> None:
    grid = around_truth(GRID, 7, 4.0)
    cost = sum(p.budget for p in grid)
    found: dict[str, list[list[float]]] = {"grid": [], "adaptive": []}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        found["grid"].append(outcome(measured(grid, rng)))
        found["adaptive"].append(outcome(adaptive(cost / 3, rng)))
    fixed, grown = (np.array(found[name]) for name in ("grid", "adaptive"))
    widths = [np.median(rows[:, :2], axis=0) for rows in (fixed, grown)]
    errors = [np.sqrt(np.mean(rows[:, 2:] ** 2, axis=0)) for rows in (fixed, grown)]
    print(f"\n{'1/3 of the FLOPs, 60x':28} {'grid 5x7':>10} {'adaptive':>10}  bound")
    for i, name in enumerate(("ln L", "ln N*")):
        print(f"{'half-width of ' + name:28} {widths[0][i]:10.4f} {widths[1][i]:10.4f}  <= grid")
        print(f"{'rms error of ' + name:28} {errors[0][i]:10.4f} {errors[1][i]:10.4f}  as the grid")
    assert (widths[1] <= widths[0]).all()
    # No larger than two samples of one distribution may differ.
    assert (errors[1] ** 2 / errors[0] ** 2 <= stats.f.ppf(0.95, SEEDS, SEEDS)).all()

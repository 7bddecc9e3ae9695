"""Cells of a learning-rate and batch sweep: their minima, and the refusals of those without."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.hyper import cells as hyper_cells
from analysis.hyper import surface as hyper_surface
from tests.analysis.sweeps import LR, SHAPES, STEPS, cell_of, sweep, table


def refusals_of(points: pl.DataFrame) -> list[str]:
    judged, _ = hyper_cells.cells(points)
    return [cell.refusal.name for cell in judged if cell.refusal]


def test_a_cliff_above_the_best_rate_moves_the_local_minimum_far_less_than_a_wide_one() -> None:
    judged, _ = hyper_cells.cells(sweep(steeper=0.01))
    x, y = (u.ravel() for u in np.meshgrid(np.log(STEPS), np.log(STEPS), indexing="ij"))
    losses = 0.01 * (x * x + y * y - 0.6 * x * y) + 0.01 * np.maximum(x, 0) ** 3
    u = np.stack([x, y], axis=1)
    wide = hyper_surface.turning_point(np.linalg.pinv(hyper_surface.quadratic(u)) @ losses, 2)[0]
    for cell in judged:
        assert cell.optimum is not None
        true = LR.log_value({"params": cell.params, "tokens": cell.tokens})
        assert abs(cell.optimum[0] - true) < abs(wide) / 3


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"lr_steps": (1.0, 2.0), "batch_steps": (0.5, 1.0, 2.0)}, "too_few_points"),
        ({"lr_steps": (0.5, 2.0) * 3, "batch_steps": (0.5, 1.0, 2.0)}, "duplicates"),
        ({"lr_steps": (0.5, 2.0), "batch_steps": STEPS}, "too_few_levels"),
        ({"lr_steps": (2.0, 4.0, 8.0), "batch_steps": STEPS}, "minimum_at_edge"),
        ({"lr_steps": STEPS, "batch_steps": (0.1, 0.2, 0.4)}, "minimum_at_edge"),
    ],
)
def test_a_cell_that_shows_no_minimum_is_refused_by_name(how: Any, name: str) -> None:
    assert refusals_of(table(cell_of(3e8, 8e9, **how))) == [name]


def test_a_saddle_is_no_minimum() -> None:
    rows = cell_of(3e8, 8e9)
    middle = math.log(rows[len(rows) // 2]["lr"])
    for row in rows:
        row["loss"] -= 0.02 * (math.log(row["lr"]) - middle) ** 2
    assert refusals_of(table(rows)) in (["not_convex"], ["minimum_at_edge"])


def test_noise_without_a_bowl_is_no_minimum() -> None:
    flat = [row | {"loss": 2.5} for row in cell_of(3e8, 8e9)]
    names = [refusals_of(table(flat, noise=0.003, seed=seed)) for seed in range(20)]
    assert sum(name != [] for name in names) >= 17


def test_runs_whose_tokens_differ_by_rounding_are_one_cell() -> None:
    points = sweep()
    jitter = np.random.default_rng(0).uniform(0.998, 1.002, len(points))
    judged, _ = hyper_cells.cells(points.with_columns(pl.col("tokens") * jitter))
    assert len(judged) == len(SHAPES)

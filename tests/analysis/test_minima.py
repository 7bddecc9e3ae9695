"""The minimum of one budget: found by every method, or refused by name."""

import numpy as np
import polars as pl
import pytest

from analysis import isoflop
from analysis.minima import METHODS
from analysis.runs import prepare
from tests.analysis import ladders


def budget_of(losses: list[float], sizes: list[float] | None = None) -> pl.DataFrame:
    """One budget of 1e18 FLOPs with these losses at ascending sizes."""
    params = sizes or np.geomspace(1e7, 1e9, len(losses)).tolist()
    rows = [
        {"run_id": f"r{i}", "budget": 1e18, "params": n, "tokens": 1e18 / 6 / n, "loss": loss}
        for i, (n, loss) in enumerate(zip(params, losses, strict=True))
    ]
    return pl.DataFrame(rows)


def refusal_of(points: pl.DataFrame, method: str = "parabola") -> str | None:
    (minimum,) = isoflop.minima(prepare(points), "params", method)
    assert (minimum.optimum is None) == (minimum.refusal is not None)
    return minimum.refusal.name if minimum.refusal else None


@pytest.mark.parametrize("method", METHODS)
def test_a_method_finds_the_minimum_where_the_parabola_was_put(method: str) -> None:
    u = np.linspace(-1, 1, 9)
    points = budget_of((2.5 + 0.3 * (u - 0.2) ** 2).tolist(), (1e8 * np.exp(u)).tolist())
    (minimum,) = isoflop.minima(prepare(points), "params", method)
    # Akima's curve is cubic in ln loss, the parabola is not: 1e-3 of a size apart.
    assert minimum.optimum == pytest.approx(1e8 * np.exp(0.2), rel=2e-2)
    assert minimum.loss == pytest.approx(2.5, rel=1e-4)


def test_a_parabola_is_found_exactly() -> None:
    u = np.linspace(-1, 1, 7)
    points = budget_of((2.5 + 0.3 * (u - 0.2) ** 2).tolist(), (1e8 * np.exp(u)).tolist())
    (minimum,) = isoflop.minima(prepare(points), "params")
    assert minimum.optimum == pytest.approx(1e8 * np.exp(0.2), rel=1e-9)
    assert minimum.loss == pytest.approx(2.5, rel=1e-9)


def test_params_and_tokens_give_one_optimum_where_compute_is_6nd() -> None:
    runs = prepare(ladders.ladder([1e19], noise=0.002))
    (params,), (tokens,) = (isoflop.minima(runs, name) for name in ("params", "tokens"))
    assert params.optimum is not None
    assert tokens.optimum == pytest.approx(1e19 / 6 / params.optimum, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_concave_parabola_is_refused_by_name(method: str) -> None:
    assert refusal_of(budget_of([2.5, 2.6, 2.65, 2.6, 2.5]), method) == "concave_or_flat"


def test_losses_that_do_not_differ_are_refused_as_flat() -> None:
    assert refusal_of(budget_of([2.5] * 6)) == "concave_or_flat"


def test_a_curvature_within_the_scatter_of_the_runs_is_refused_as_flat() -> None:
    assert refusal_of(budget_of([2.52, 2.48, 2.53, 2.47, 2.51, 2.50])) == "concave_or_flat"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("drift", [20.0, 1 / 20])
def test_a_minimum_beyond_the_sizes_tried_is_refused_by_name(drift: float, method: str) -> None:
    assert refusal_of(ladders.ladder([1e19], drift=drift), method) == "minimum_at_edge"


def test_three_runs_are_too_few() -> None:
    assert refusal_of(budget_of([2.6, 2.5, 2.6])) == "too_few_points"


def test_three_sizes_are_too_few_however_many_seeds_repeat_them() -> None:
    points = budget_of([2.6, 2.5, 2.6, 2.61, 2.51, 2.61], [1e7, 1e8, 1e9, 1e7, 1e8, 1e9])
    assert refusal_of(points) == "duplicate_sizes"


def test_akima_takes_runs_of_nearly_one_size_for_one() -> None:
    """Two runs 1 % apart in size and .02 in loss would bend a curve through both into a fold."""
    u = np.sort(np.append(np.linspace(-1, 1, 9), 0.01))
    losses = 2.5 + 0.3 * (u - 0.2) ** 2 + np.where(u == 0.01, 0.02, 0.0)
    (minimum,) = isoflop.minima(
        prepare(budget_of(losses.tolist(), np.exp(u + 18).tolist())), "params", "akima"
    )
    assert minimum.optimum == pytest.approx(np.exp(18.2), rel=0.1)

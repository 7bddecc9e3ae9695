"""Intervals: what they cover on simulated ladders, and what the back-test adds to them."""

import math

import numpy as np
import pytest

from analysis import curves, isoflop, uncertainty
from analysis.law import Floats
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19, 3e19)


def coverage(noise: float, target: float, studies: int) -> dict[str, float]:
    """How often the bootstrap alone holds what the noise-free ladder says at the target."""
    surface = ladders.SYMMETRIC
    truth = isoflop.predict(isoflop.fit(ladders.ladder(BUDGETS, surface=surface)), target)
    held = {"params": 0, "loss": 0}
    for seed in range(studies):
        points = ladders.ladder(BUDGETS, noise=noise, seed=seed, surface=surface)
        fit = isoflop.fit(points, draws=300, seed=seed)
        drawn = curves.evaluate(fit.draws, target)
        for i, name in ((0, "params"), (2, "loss")):
            low, high = np.quantile(drawn[:, i], [0.025, 0.975])
            held[name] += low <= math.log(getattr(truth, name)) <= high
    return {name: count / studies for name, count in held.items()}


@pytest.mark.slow
def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """Nominal 95 %; of 200 studies, 90.5 to 99 % is three standard errors about it."""
    held = coverage(noise=0.003, target=3e20, studies=200)
    assert 0.905 <= held["params"] <= 0.995
    assert 0.905 <= held["loss"] <= 0.995


def test_one_seed_gives_the_same_draws_and_another_gives_others() -> None:
    points = ladders.ladder(BUDGETS, noise=0.003)
    first, again, other = (isoflop.fit(points, draws=50, seed=seed).draws for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_noise_gives_a_wider_interval() -> None:
    quiet, loud = (
        isoflop.predict(isoflop.fit(ladders.ladder(BUDGETS, noise=noise)), 3e19)
        for noise in (0.001, 0.004)
    )
    assert loud.high / loud.low > quiet.high / quiet.low


def test_each_budget_is_predicted_from_the_smaller_ones_alone() -> None:
    asked: list[tuple[list[float], float]] = []

    def predict(budgets: Floats, optima: Floats, budget: float) -> Floats:
        asked.append((budgets.tolist(), budget))
        assert optima.shape == (3, len(budgets))
        return np.array([0.1, -0.2, 0.03])

    rows = uncertainty.backtest(np.array(BUDGETS), np.zeros((3, 4)), predict)
    assert asked == [([1e18, 3e18], 1e19), ([1e18, 3e18, 1e19], 3e19)]
    assert (rows[1].params_error, rows[1].tokens_error, rows[1].loss_error) == (0.1, -0.2, 0.03)
    assert rows[1].decades == pytest.approx(math.log10(3))


def test_laws_that_hold_exactly_have_no_back_test_error() -> None:
    points = ladders.ladder(BUDGETS, surface=ladders.SYMMETRIC)
    assert all(abs(row.params_error) < 1e-9 for row in isoflop.fit(points).backtest)


def test_within_the_budgets_nothing_is_added_for_extrapolation() -> None:
    draws, errors, decades = np.linspace(-0.1, 0.1, 1001), np.array([0.5, 0.5]), np.ones(2)
    interval = uncertainty.widened(0.0, draws, errors, decades, reach=0.0, level=0.95)
    assert (interval.low, interval.high) == pytest.approx((math.exp(-0.095), math.exp(0.095)))
    assert interval.dominant == "runs"


def test_the_back_test_part_is_students_t_times_the_error_over_root_distance() -> None:
    errors, decades = np.array([0.1, -0.1, 0.1, 0.1]), np.ones(4)
    interval = uncertainty.widened(0.0, np.zeros(10), errors, decades, reach=4.0, level=0.95)
    # t of 97.5 % at 4 degrees of freedom is 2.776 in every table.
    assert math.log(interval.high) == pytest.approx(2.776 * 0.1 * 2.0, rel=1e-3)
    assert interval.dominant == "backtest"


def test_farther_targets_have_wider_intervals() -> None:
    fit = isoflop.fit(ladders.ladder(BUDGETS, noise=0.002))
    widths = [math.log(f.high / f.low) for f in (isoflop.predict(fit, c) for c in (1e20, 1e22))]
    assert widths[1] > widths[0]


def test_a_bound_beyond_the_floats_is_infinite() -> None:
    errors, decades = np.array([200.0]), np.ones(1)
    interval = uncertainty.widened(0.0, np.zeros(10), errors, decades, reach=4.0, level=0.95)
    assert (interval.low, interval.high) == (0.0, math.inf)

"""Intervals: what they cover on simulated ladders, and what the back-test adds to them."""

import math

import numpy as np
import pytest

from analysis import isoflop
from analysis.runs import prepare
from analysis.uncertainty import Wander, wander
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19, 3e19)


def coverage(noise: float, target: float, studies: int) -> dict[str, float]:
    """How often the bootstrap alone holds the truth at the target."""
    truth = np.log(ladders.optimum(target))
    held = {"params": 0, "loss": 0}
    for seed in range(studies):
        runs = prepare(ladders.ladder(BUDGETS, noise=noise, seed=seed, sizes=7))
        fit = isoflop.fit(runs, draws=300, seed=seed)
        _, drawn = isoflop.optimum(fit, runs, target)
        for i, name in ((0, "params"), (2, "loss")):
            low, high = np.quantile(drawn[:, i], [0.025, 0.975])
            held[name] += low <= truth[i] <= high
    return {name: count / studies for name, count in held.items()}


@pytest.mark.slow
def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """Nominal 95 %; of 200 studies, 90.5 to 99.5 % is three standard errors about it."""
    held = coverage(noise=0.003, target=3e20, studies=200)
    assert 0.905 <= held["params"] <= 0.995
    assert 0.905 <= held["loss"] <= 0.995


def test_one_seed_gives_the_same_draws_and_another_gives_others() -> None:
    runs = prepare(ladders.ladder(BUDGETS, noise=0.003))
    first, again, other = (isoflop.fit(runs, draws=50, seed=seed).draws for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_errors_that_their_noise_explains_are_no_wandering() -> None:
    errors, noise = np.array([0.01, -0.02, 0.015]), np.full(3, 0.05)
    assert wander(errors, noise, np.full(3, 0.5)) == Wander(0.0, 3)


def test_errors_without_noise_wander_by_their_median_size_over_root_distance() -> None:
    found = wander(np.full(8, 0.3), np.zeros(8), np.full(8, 4.0))
    # The median of chi squared with 8 degrees of freedom is 7.344 in every table.
    assert found.per_root_decade == pytest.approx(0.3 / 2 * math.sqrt(8 / 7.344), rel=1e-3)
    assert found.dof == 8


def test_one_lucky_row_is_little_proof() -> None:
    """One error of a size that its noise explains at half the times counts as wandering."""
    lucky = wander(np.array([0.05]), np.array([0.05]), np.ones(1))
    many = wander(np.full(9, 0.05), np.full(9, 0.05), np.ones(9))
    assert lucky.per_root_decade > many.per_root_decade


def test_an_interval_far_out_is_students_t_times_wander_times_root_distance() -> None:
    # t of 97.5 % at 4 degrees of freedom is 2.776 in every table.
    assert Wander(0.1, 4).half_width(4.0, 0.95) == pytest.approx(2.776 * 0.1 * 2, rel=1e-3)


def test_within_the_budgets_nothing_is_added_for_extrapolation() -> None:
    assert Wander(0.1, 4).half_width(0.0, 0.95) == 0.0
    assert Wander(0.1, 4).half_width(-1.0, 0.95) == 0.0


def test_nothing_tested_gives_no_wander_at_all() -> None:
    nothing = wander(np.zeros(0), np.zeros(0), np.zeros(0))
    assert nothing == Wander(0.0, 0)
    assert nothing.half_width(1.0, 0.95) == 0.0

"""What the next runs are chosen for, on Chinchilla's surface, whose optimum is known."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import next_runs
from analysis.forecast import panel
from analysis.next_runs import Aim, Choice, Drift, Local, Point, around, choose, locate
from analysis.runs import Runs, prepare
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)
TARGET = 6e21
AIM = Aim(TARGET, loss_within=0.03, params_within=0.25)
NO_DRIFT = replace(AIM, drift=Drift(0.0, 0.0))


def start(noise: float = 0.004, seed: int = 0, budgets: tuple[float, ...] = BUDGETS[:3]) -> Runs:
    return prepare(ladders.ladder(budgets, noise=noise, seed=seed))


def points_of(runs: Runs) -> list[Point]:
    return [Point(*row) for row in runs.frame.select("budget", "params").rows()]


@pytest.fixture(scope="module")
def runs() -> Runs:
    return start()


@pytest.fixture(scope="module")
def local(runs: Runs) -> Local:
    return locate(runs)


def chosen(
    runs: Runs,
    local: Local,
    aim: Aim = AIM,
    *,
    more: tuple[Point, ...] = (),
    batch: int = 8,
    flops: float = 1e21,
) -> Choice:
    candidates = around(local, BUDGETS, 4.0)
    return choose(local, [*points_of(runs), *more], candidates, aim, batch=batch, flops=flops)


def test_the_surface_of_a_ladder_without_noise_is_found() -> None:
    found = locate(start(noise=0.0, budgets=BUDGETS))
    assert found.theta[3:] == pytest.approx([ladders.ALPHA, ladders.BETA], abs=0.02)
    for budget in (*BUDGETS, TARGET):
        assert math.exp(found.optimum(budget)) == pytest.approx(ladders.optimum(budget)[0], rel=0.1)


def test_five_noisy_runs_still_have_an_optimum_to_plan_around() -> None:
    for seed in range(5):
        local = locate(start(noise=0.02, seed=seed, budgets=(1e18,)))
        assert math.exp(local.optimum(1e18)) == pytest.approx(ladders.optimum(1e18)[0], rel=1.5)


@pytest.mark.parametrize("tilt", [-1.0, 0.0, 1.0], ids=["smaller", "none", "larger"])
def test_runs_that_contradict_every_law_still_have_an_optimum(tilt: float) -> None:
    rows = ladders.ladder(BUDGETS[:3], noise=0.3, seed=1)
    odd = prepare(rows.with_columns(loss=3.0 * (pl.col("params") / 1e8) ** tilt))
    for budget in (*BUDGETS, TARGET):
        assert math.isfinite(locate(odd).optimum(budget))


def test_the_expected_errors_are_those_that_refits_show() -> None:
    found: list[tuple[float, float]] = []
    expected: list[tuple[float, float]] = []
    for seed in range(40):
        runs = prepare(ladders.ladder(BUDGETS, sizes=7, noise=0.004, seed=seed))
        local = locate(runs)
        best = local.optimum(TARGET)
        value = local.along(np.array([best]), np.array([math.log(TARGET)]))[0][0]
        found.append((float(value), best))
        expected.append(chosen(runs, local, NO_DRIFT, batch=1).before)
    seen, said = np.std(found, axis=0), np.median(expected, axis=0)
    assert seen / said == pytest.approx(np.ones(2), abs=0.5)


def test_candidates_stand_around_the_optimum_fitted_so_far(local: Local) -> None:
    candidates = around(local, BUDGETS, 4.0, sizes=5)
    assert [p.budget for p in candidates] == [b for b in BUDGETS for _ in range(5)]
    for budget in BUDGETS:
        sizes = [p.params for p in candidates if p.budget == budget]
        assert sizes[2] == pytest.approx(math.exp(local.optimum(budget)))
        assert sizes[-1] / sizes[0] == pytest.approx(16)


def test_every_batch_lowers_both_expected_errors(runs: Runs, local: Local) -> None:
    choice = chosen(runs, local)
    assert len(choice.points) == 8
    assert choice.after[0] < choice.before[0]
    assert choice.after[1] < choice.before[1]


def test_runs_in_flight_count_as_if_done(runs: Runs, local: Local) -> None:
    together = chosen(runs, local, batch=6).points
    later = chosen(runs, local, more=together[:3], batch=3).points
    assert later == together[3:]


def gain(runs: Runs, local: Local, point: Point, aim: Aim = AIM) -> float:
    """The fall of both variances, in units of the squares asked for, a FLOP."""
    before, after = (
        choose(local, [*points_of(runs), *more], [point], aim, batch=1, flops=0.0).before
        for more in ([], [point])
    )
    asked = (aim.loss_within, aim.params_within)
    falls = [(b**2 - a**2) / w**2 for b, a, w in zip(before, after, asked, strict=True)]
    return sum(falls) / point.budget


def test_the_first_choice_lowers_the_weighed_variance_most_a_flop(runs: Runs, local: Local) -> None:
    best = max(around(local, BUDGETS, 4.0), key=lambda point: gain(runs, local, point))
    assert chosen(runs, local, batch=1).points == (best,)


def test_a_law_that_may_drift_is_better_measured_near_the_target(runs: Runs, local: Local) -> None:
    def advantage(drift: Drift) -> float:
        """What a run at the top is worth beside one at the bottom."""
        bottom, top = around(local, (BUDGETS[0], BUDGETS[-1]), 4.0, sizes=3)[1::3]
        aim = replace(AIM, drift=drift)
        return gain(runs, local, top, aim) / gain(runs, local, bottom, aim)

    assert advantage(Drift(0.01, 0.25)) > 2 * advantage(Drift(0.0, 0.0))


def test_the_quantity_asked_for_more_tightly_decides(runs: Runs, local: Local) -> None:
    for_loss, for_size = (
        chosen(runs, local, replace(NO_DRIFT, **aside), batch=200, flops=1e20)
        for aside in ({"params_within": 1e3}, {"loss_within": 1e3})
    )
    assert for_loss.after[0] < for_size.after[0]
    assert for_size.after[1] < for_loss.after[1]


def test_one_cheap_point_repeated_is_no_substitute_for_sizes(runs: Runs, local: Local) -> None:
    points = chosen(runs, local, NO_DRIFT, batch=30, flops=1e20).points
    assert len({p.params for p in points}) >= 6


@settings(max_examples=20, deadline=None)
@given(st.floats(min_value=1e17, max_value=1e21), st.integers(min_value=1, max_value=20))
def test_no_choice_costs_more_than_is_left(flops: float, batch: int) -> None:
    runs = start()
    points = chosen(runs, locate(runs), batch=batch, flops=flops).points
    assert sum(p.budget for p in points) <= flops
    assert len(points) <= batch
    assert bool(points) == (flops >= BUDGETS[0])


def test_drift_is_the_prior_until_back_tests_speak() -> None:
    few = prepare(ladders.ladder(BUDGETS[:2], noise=0.002))
    assert next_runs.drift(panel(few, "parametric", draws=20)) == next_runs.PRIOR_DRIFT
    right = panel(start(noise=0.001, budgets=BUDGETS), "parametric", draws=20)
    assert next_runs.drift(right).loss < next_runs.PRIOR_DRIFT.loss
    assert next_runs.drift(panel(few, "tied", draws=20)) == next_runs.PRIOR_DRIFT


def test_half_widths_are_those_of_the_forecast() -> None:
    said = panel(start(0.002, budgets=BUDGETS), draws=50).at(TARGET)
    loss, params = next_runs.half_widths(said)
    assert math.exp(2 * loss) == pytest.approx(said.high / said.low)
    assert math.exp(2 * params) == pytest.approx(said.params_high / said.params_low)
    nowhere = replace(said, params_low=math.nan, params_high=math.nan)
    assert math.isnan(next_runs.half_widths(nowhere)[1])

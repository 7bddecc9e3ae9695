"""Compute multipliers: exact without noise, honest with it, and named doubts where runs are few."""

import math

import numpy as np
import polars as pl
import pytest

from analysis.ablation.multiplier import Multiplier, multipliers
from tests.analysis.ablations import BASE, Law, crossing, ladder, log_multiplier, loss

FOUR = tuple(np.geomspace(1e18, 1e20, 4).tolist())
TARGET = 3e21
# Loses above 1e20: the same floor with a smaller exponent, so that ln m is a straight line.
LATE_LOSER = crossing(1e20, 0.14)


def only(points: pl.DataFrame, target: float = TARGET, **more: int) -> Multiplier:
    (found,) = multipliers(points, target, **more)
    return found


def names(found: Multiplier) -> list[str]:
    return [diagnostic.name for diagnostic in found.diagnostics]


def coverage(
    law: Law, budgets: tuple[float, ...], *, seeds: int, ladders: int, noise: float = 0.003
) -> float:
    """How often the interval at the target holds the truth over simulated ladders."""
    truth, held = log_multiplier(law, TARGET), 0
    for i in range(ladders):
        runs = ladder({"v": law}, budgets=budgets, seeds=seeds, noise=noise, luck=0.005, rng_seed=i)
        target = only(runs, draws=400, seed=i).target
        assert target is not None
        assert target.low is not None
        assert target.high is not None
        held += math.log(target.low) <= truth <= math.log(target.high)
    return held / ladders


def test_without_noise_the_multiplier_is_that_of_the_two_laws() -> None:
    found = only(ladder({"v": LATE_LOSER}, budgets=FOUR))
    truth = [math.exp(log_multiplier(LATE_LOSER, budget)) for budget in FOUR]
    assert [at.multiplier for at in found.measured] == pytest.approx(truth, rel=1e-4)
    assert found.target is not None
    truth_there = math.exp(log_multiplier(LATE_LOSER, TARGET))
    assert found.target.multiplier == pytest.approx(truth_there, rel=1e-3)
    assert found.slope == pytest.approx(0.14 / 0.15 - 1, rel=1e-3)
    assert found.crossover == pytest.approx(1e20, rel=1e-2)


def test_a_variant_that_is_the_baseline_for_half_the_compute_has_multiplier_two() -> None:
    """m = 2 exactly where L(C) = L0(2 C), that is, K' = K 2^-g."""
    twice = (BASE[0], BASE[1] * 2**-0.15, 0.15)
    found = only(ladder({"v": twice}, budgets=FOUR))
    assert [at.multiplier for at in found.measured] == pytest.approx([2.0] * 4, rel=1e-4)
    assert found.slope == pytest.approx(0.0, abs=1e-4)
    assert (found.verdict, found.p_better) == ("better throughout", 1.0)


@pytest.mark.parametrize(
    ("law", "verdict"),
    [
        (LATE_LOSER, "wins small, expected to lose at the target"),
        (crossing(1e20, 0.16), "loses small, expected to win at the target"),
        (crossing(1e18, 0.16), "gains with scale"),
        (crossing(1e18, 0.14), "loses with scale"),
        ((BASE[0], BASE[1] * 0.95, 0.15), "better throughout"),
        ((BASE[0], BASE[1] * 1.05, 0.15), "worse throughout"),
        (BASE, "too close to call"),
    ],
)
def test_what_becomes_of_a_variant_is_said_in_plain_words(law: Law, verdict: str) -> None:
    points = ladder({"v": law}, budgets=FOUR, noise=0.001, luck=0.005)
    assert only(points).verdict == verdict


def test_a_variant_that_is_the_baseline_is_mostly_too_close_to_call() -> None:
    """It is level at 2.5 % on either side and expected at 5 % on either: under 15 % otherwise."""
    said = [
        only(ladder({"v": BASE}, budgets=FOUR, noise=0.003, luck=0.005, rng_seed=i), draws=200)
        for i in range(40)
    ]
    assert sum(found.verdict == "too close to call" for found in said) >= 0.75 * len(said)
    assert all(found.crossover is None for found in said if found.verdict == "too close to call")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "budgets", "seeds"),
    [
        pytest.param(LATE_LOSER, FOUR, 3, id="crossover, four budgets, three seeds"),
        pytest.param(LATE_LOSER, FOUR, 1, id="crossover, four budgets, one seed"),
        pytest.param(BASE, FOUR, 3, id="the same law"),
        pytest.param(crossing(1e20, 0.15, floor=1.82), FOUR, 3, id="another floor"),
        pytest.param(LATE_LOSER, (1e18, 1e19, 1e20), 2, id="crossover, three budgets"),
    ],
)
def test_the_interval_at_the_target_holds_the_truth_as_often_as_it_says(
    law: Law, budgets: tuple[float, ...], seeds: int
) -> None:
    """Nominal 95 %, and more where the interval spans shapes that the truth has not."""
    held = coverage(law, budgets, seeds=seeds, ladders=200)
    assert held >= 0.92


def test_the_interval_widens_with_every_decade() -> None:
    points = ladder({"v": LATE_LOSER}, budgets=FOUR, noise=0.003)
    widths = []
    for target in (1e20, 1e21, 1e22, 1e23):
        at = only(points, target).target
        assert at is not None
        assert at.low is not None
        assert at.high is not None
        widths.append(math.log(at.high / at.low))
    assert widths == sorted(widths)
    assert widths[-1] > 2 * widths[0]


def test_what_a_seed_does_to_both_runs_of_a_pair_does_not_blur_the_measurement() -> None:
    calm, stormy = (
        only(ladder({"v": LATE_LOSER}, budgets=FOUR, noise=0.001, luck=luck))
        for luck in (0.0, 0.01)
    )
    for one, other in zip(calm.measured, stormy.measured, strict=True):
        assert math.log(one.multiplier) == pytest.approx(math.log(other.multiplier), abs=0.03)


def test_replicates_let_two_budgets_carry_a_trend_that_is_named_unchecked() -> None:
    points = ladder({"v": LATE_LOSER}, budgets=FOUR[:2], seeds=3, noise=0.001)
    found = only(points)
    assert found.target is not None
    assert names(found) == ["baseline_exponent_assumed", "trend_unchecked"]


@pytest.mark.parametrize(
    ("budgets", "seeds", "reason"),
    [(FOUR[:2], 1, "two budgets without replicates"), (FOUR[:1], 3, "pairs at one budget")],
)
def test_what_cannot_tell_a_trend_gives_no_target(
    budgets: tuple[float, ...], seeds: int, reason: str
) -> None:
    points = ladder({"v": LATE_LOSER}, budgets=FOUR, seeds=seeds, noise=0.001)
    found = only(points.filter(pl.col("baseline") | pl.col("budget").is_in(budgets)))
    assert (found.target, found.slope, found.p_better) == (None, None, None)
    assert (found.verdict, names(found)) == ("trend not identified", ["trend_unidentified"])
    assert reason in found.diagnostics[0].detail
    assert len(found.measured) == len(budgets)


def test_a_baseline_at_one_budget_prices_nothing() -> None:
    found = only(ladder({"v": LATE_LOSER}, budgets=FOUR[:1]))
    assert (found.verdict, found.measured) == ("not tested", ())
    assert names(found) == ["baseline_at_one_budget"]


def test_a_baseline_that_does_not_fall_with_compute_is_named() -> None:
    rising = ladder({"v": BASE}, budgets=FOUR, base=(1.8, 1e-4, -0.15))
    assert names(only(rising)) == ["baseline_not_falling"]


def test_a_loss_below_the_irreducible_one_goes_by_the_local_slope_and_is_named() -> None:
    found = only(ladder({"v": (1.0, 0.0, 0.15)}, budgets=FOUR))
    assert "below_irreducible" in names(found)
    first = found.measured[0]
    excess = loss(BASE, FOUR[0]) - BASE[0]
    assert math.log(first.multiplier) == pytest.approx((0.8 + excess) / (0.15 * excess), rel=1e-3)


def test_a_bend_that_noise_does_not_explain_is_named_and_widens_the_interval() -> None:
    """A floor and an exponent that are both lower bend ln m against the line."""
    budgets = tuple(np.geomspace(1e18, 1e20, 6).tolist())
    bent = crossing(1e19, 0.12, floor=1.7)
    found = only(ladder({"v": bent}, budgets=budgets, noise=0.0002))
    assert "multiplier_bends" in names(found)
    assert found.target is not None
    assert found.target.low is not None
    assert found.target.high is not None
    truth = math.exp(log_multiplier((1.7, bent[1], 0.12), 1e21))
    at = only(ladder({"v": bent}, budgets=budgets, noise=0.0002), 1e21).target
    assert at is not None
    assert at.low is not None
    assert at.high is not None
    assert at.low <= truth <= at.high


def test_runs_lost_at_a_budget_are_said_and_the_others_go_on() -> None:
    points = ladder({"v": LATE_LOSER, "w": BASE}, budgets=FOUR, noise=0.001)
    failed = (pl.col("level") == "v") & (pl.col("budget") == FOUR[3])
    points = points.with_columns(pl.when(~failed).then("loss").alias("loss"))
    first, second = multipliers(points, TARGET)
    assert names(first) == ["pairs_lost"]
    assert "3 of 12 runs" in first.diagnostics[0].detail
    assert [at.budget for at in first.measured] == pytest.approx(FOUR[:3])
    assert names(second) == []


def test_a_level_without_a_finished_run_is_listed_and_not_tested() -> None:
    points = ladder({"v": LATE_LOSER, "w": BASE}, budgets=FOUR, noise=0.001)
    points = points.with_columns(pl.when(pl.col("level") != "v").then("loss").alias("loss"))
    first, second = multipliers(points, TARGET)
    assert (first.level, first.n, first.verdict) == ("v", 0, "not tested")
    assert second.verdict == "too close to call"


def test_one_seed_gives_the_same_interval_and_another_gives_another() -> None:
    points = ladder({"v": LATE_LOSER}, budgets=FOUR, noise=0.003)
    first, again, other = (only(points, seed=seed, draws=100) for seed in (1, 1, 2))
    assert first == again
    assert first.target != other.target


def test_the_order_of_the_rows_says_nothing() -> None:
    points = ladder({"v": LATE_LOSER}, budgets=FOUR, noise=0.003)
    shuffled = only(points.sample(fraction=1, shuffle=True, seed=0)).target
    ordered = only(points).target
    assert ordered is not None
    assert shuffled is not None
    assert shuffled.multiplier == pytest.approx(ordered.multiplier, rel=1e-9)


@pytest.mark.parametrize("target", [0.0, -1e20, math.inf, math.nan])
def test_a_target_that_is_no_budget_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="is no budget; give FLOPs above zero"):
        multipliers(ladder({"v": BASE}, budgets=FOUR), target)


def test_no_ablation_run_gives_no_multiplier() -> None:
    assert multipliers(ladder({"v": BASE}, budgets=FOUR).clear(), TARGET) == []

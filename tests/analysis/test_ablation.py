"""Effects of an axis: paired, corrected, and silent where the runs say nothing."""

import numpy as np
import polars as pl
import pytest

from analysis.ablation.effects import effects, holm


def table(
    shifts: dict[str, float], *, seeds: int = 3, noise: float = 0.0, rng_seed: int = 0
) -> pl.DataFrame:
    """Runs of a baseline and of levels shifted in loss; a seed moves all of its runs alike."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for seed in range(seeds):
        luck = 0.1 * rng.normal()
        for level, shift in {"base": 0.0, **shifts}.items():
            loss = 3.0 + luck + shift + noise * rng.normal()
            row = {"axis": "position", "level": level, "baseline": level == "base"}
            rows.append(
                row | {"budget": 1e18, "seed": seed, "loss": loss, "run_id": f"{level}{seed}"}
            )
    return pl.DataFrame(rows)


def test_what_a_seed_does_to_every_level_is_not_noise() -> None:
    (effect,) = effects(table({"alibi": -0.02}, noise=0.001))
    assert effect.difference == pytest.approx(-0.02, abs=0.003)
    assert effect.noise is not None
    assert effect.noise < 0.005
    assert effect.verdict == "better"


def test_a_single_level_is_the_paired_t_test() -> None:
    """Student 1908, Biometrika 6(1), the sleep data: mean 1.58, t = 4.0621, p = .00283."""
    extra = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    rows = [
        {"axis": "drug", "level": level, "baseline": level == "1", "budget": 1.0, "seed": i}
        | {"loss": hours, "run_id": f"{level}/{i}"}
        for level, column in (("1", extra), ("2", other))
        for i, hours in enumerate(column)
    ]
    (effect,) = effects(pl.DataFrame(rows))
    assert effect.difference == pytest.approx(1.58)
    assert effect.p == pytest.approx(0.002833, abs=1e-6)
    assert (effect.low, effect.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert (effect.n, effect.verdict) == (10, "worse")


def test_holms_correction_gives_its_textbook_values() -> None:
    """Steps down: .01 x 4, .02 x 3, .03 x 2 and .04 x 1, none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_false_alarms_over_all_levels_stay_at_five_percent() -> None:
    """Of 300 studies of five levels that do nothing; 5 % and three standard errors is 9 %."""
    nothing = dict.fromkeys("abcde", 0.0)
    tables = (table(nothing, noise=0.01, rng_seed=seed) for seed in range(300))
    alarms = [any(e.verdict in ("better", "worse") for e in effects(t)) for t in tables]
    assert sum(alarms) / len(alarms) <= 0.09


def test_a_difference_within_the_noise_is_not_called_one() -> None:
    (effect,) = effects(table({"alibi": -0.001}, noise=0.02))
    assert effect.verdict == "no difference seen"


def test_one_seed_tests_nothing_and_it_is_said() -> None:
    (effect,) = effects(table({"alibi": -0.3}, seeds=1))
    assert effect.difference == pytest.approx(-0.3)
    assert (effect.low, effect.high, effect.p, effect.verdict) == (None, None, None, "not tested")


def test_a_level_whose_runs_all_diverged_is_listed_and_not_tested() -> None:
    failed = pl.when(pl.col("level") == "none").then(None).otherwise("loss").alias("loss")
    points = table({"alibi": -0.02, "none": 0.0}, noise=0.001).with_columns(failed)
    alibi, none = effects(points)
    assert (none.level, none.n, none.difference, none.verdict) == ("none", 0, None, "not tested")
    assert alibi.verdict == "better"


def test_a_level_is_paired_with_the_baseline_of_its_own_seed_only() -> None:
    points = table({"alibi": -0.02}).filter(pl.col("run_id") != "base1")
    (effect,) = effects(points)
    assert effect.run_ids == ("alibi0", "alibi2")


def test_every_axis_is_compared_with_the_one_baseline() -> None:
    other = table({"learned": 0.05}, noise=0.001).filter(~pl.col("baseline"))
    points = pl.concat([table({"alibi": -0.02}, noise=0.001), other.with_columns(axis=pl.lit("x"))])
    assert [(e.axis, e.verdict) for e in effects(points)] == [
        ("position", "better"),
        ("x", "worse"),
    ]


def test_no_ablation_run_gives_no_effect() -> None:
    assert effects(table({"alibi": 0.0}).clear()) == []


def across(
    shifts: dict[float, float], *, seeds: int, noise: float, rng_seed: int = 0
) -> pl.DataFrame:
    """One level whose shift in loss depends on the budget."""
    tables = [
        table({"alibi": shift}, seeds=seeds, noise=noise, rng_seed=rng_seed + i).with_columns(
            budget=pl.lit(budget), run_id=pl.format("{}/{}", "run_id", pl.lit(budget))
        )
        for i, (budget, shift) in enumerate(shifts.items())
    ]
    return pl.concat(tables)


def test_the_effect_is_told_for_each_budget_beside_the_pooled_one() -> None:
    points = across({1e18: -0.03, 1e19: -0.02, 1e20: -0.01}, seeds=3, noise=0.001)
    (effect,) = effects(points)
    assert [at.budget for at in effect.budgets] == [1e18, 1e19, 1e20]
    assert [at.n for at in effect.budgets] == [3, 3, 3]
    assert [at.difference for at in effect.budgets] == pytest.approx(
        [-0.03, -0.02, -0.01], abs=0.003
    )
    for at in effect.budgets:
        assert at.low is not None
        assert at.high is not None
        assert at.low < at.difference < at.high
    assert effect.difference == pytest.approx(-0.02, abs=0.003)


def test_an_effect_that_changes_with_the_budget_is_named() -> None:
    points = across({1e18: -0.03, 1e19: -0.02, 1e20: -0.01}, seeds=3, noise=0.001)
    (effect,) = effects(points)
    assert effect.trend == pytest.approx(0.01, abs=0.002)
    assert [d.name for d in effect.diagnostics] == ["effect_changes_with_budget"]
    assert effect.noise is not None
    assert effect.noise < 0.003


def test_an_effect_that_does_not_change_with_the_budget_has_no_doubt() -> None:
    """Of 100 levels with one effect at all budgets; 5 % and three standard errors is 11.5 %."""
    same = {1e18: -0.02, 1e19: -0.02, 1e20: -0.02}
    named = [
        bool(effects(across(same, seeds=2, noise=0.005, rng_seed=10 * i))[0].diagnostics)
        for i in range(100)
    ]
    assert sum(named) <= 11


def test_one_budget_has_no_trend() -> None:
    (effect,) = effects(table({"alibi": -0.02}, noise=0.001))
    assert (effect.trend, effect.trend_p, len(effect.budgets)) == (None, None, 1)


def test_budgets_without_replicates_tell_the_noise_by_the_trend_through_them() -> None:
    budgets = [10.0**power for power in (17, 18, 19, 20, 21, 22)]
    shifts = {budget: 0.01 * i for i, budget in enumerate(budgets)}
    (effect,) = effects(across(shifts, seeds=1, noise=0.001))
    assert effect.noise == pytest.approx(0.001, abs=0.0008)
    assert effect.trend == pytest.approx(0.01, abs=0.001)
    assert [d.name for d in effect.diagnostics] == ["effect_changes_with_budget"]


def test_runs_that_a_level_lost_are_named() -> None:
    points = table({"alibi": -0.02}, noise=0.001)
    failed = pl.when(pl.col("run_id") != "alibi1").then("loss").alias("loss")
    (effect,) = effects(points.with_columns(failed))
    assert effect.n == 2
    assert [d.name for d in effect.diagnostics] == ["pairs_lost"]
    assert "1 of 3 runs" in effect.diagnostics[0].detail


def test_runs_without_a_seed_are_paired_by_budget() -> None:
    unseeded = pl.lit(None, pl.Int64).alias("seed")
    points = table({"alibi": -0.02}, seeds=1).with_columns(unseeded)
    (effect,) = effects(points)
    assert effect.difference == pytest.approx(-0.02)

"""Runs made ready: rungs of compute, the measured FLOPs, and who is left out."""

import numpy as np
import polars as pl
import pytest

from analysis.runs import prepare
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19)


def test_a_run_without_a_budget_stands_on_the_first_rung_that_pays_for_it() -> None:
    ladder = ladders.ladder(BUDGETS, sizes=2)
    extra = ladder.head(3).with_columns(
        run_id=pl.Series(["small", "middle", "large"]),
        budget=pl.lit(None, pl.Float64),
        tokens=pl.Series([0.5e18, 2e18, 5e19]) / 6 / pl.col("params").head(3),
    )
    rows = prepare(pl.concat([ladder, extra])).frame
    rung = dict(rows.select("run_id", "rung").iter_rows())
    assert (rung["small"], rung["middle"]) == (1e18, 3e18)
    # Above the ladder, and where there is none, rungs are half decades.
    assert rung["large"] == pytest.approx(1e20)


def test_runs_without_any_budget_stand_on_half_decades() -> None:
    points = ladders.ladder(BUDGETS).with_columns(budget=pl.lit(None, pl.Float64))
    assert prepare(points).rungs == pytest.approx((1e18, 1e19**0.5 * 1e9, 1e19))


def test_up_to_a_rung_are_the_runs_of_it_and_those_below() -> None:
    runs = prepare(ladders.ladder(BUDGETS))
    assert runs.upto(3e18).rungs == (1e18, 3e18)


def test_a_ratio_that_falls_with_size_is_foreseen_to_fall_towards_six() -> None:
    points = ladders.ladder(BUDGETS, sizes=9).with_columns(
        flops=6 * (1 + 1e3 / pl.col("params").sqrt()) * pl.col("params") * pl.col("tokens")
    )
    runs = prepare(points)
    for size in (1e7, 1e9, 1e13):
        said = float(np.exp(runs.ratio.log(np.log([size])))[0])
        assert said == pytest.approx(6 * (1 + 1e3 / size**0.5), rel=1e-6)
    assert runs.notes[0].name == "flops_ratio"


def test_a_ratio_that_scatters_without_falling_is_its_median() -> None:
    rng = np.random.default_rng(0)
    ladder = ladders.ladder(BUDGETS, sizes=9)
    points = ladder.with_columns(
        flops=pl.Series(rng.uniform(5.5, 6.5, len(ladder))) * pl.col("params") * pl.col("tokens")
    )
    ratio = prepare(points).ratio
    assert ratio.slope == 0
    assert ratio.floor == pytest.approx(6, abs=0.2)


def test_six_flops_for_a_parameter_and_token_need_no_word() -> None:
    runs = prepare(ladders.ladder(BUDGETS))
    assert runs.notes == ()
    assert np.exp(runs.ratio.log(np.log([1e9]))) == pytest.approx(6)


def test_very_many_runs_are_stood_for_by_some_and_that_is_said() -> None:
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(16, 23, 50_000)), np.exp(rng.uniform(19, 26, 50_000))
    e, a, b, alpha, beta = ladders.CHINCHILLA
    points = pl.DataFrame(
        {"run_id": [str(i) for i in range(50_000)], "budget": [None] * 50_000, "params": n}
        | {"tokens": d, "loss": e + a / n**alpha + b / d**beta},
        schema_overrides={"budget": pl.Float64},
    )
    runs = prepare(points)
    assert len(runs.frame) == 20_000
    assert runs.notes[0].name == "runs_sampled"

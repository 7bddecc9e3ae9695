"""The rows that figures draw."""

import math

import polars as pl
import pytest

from analysis import figures, isoflop, run_figures, store, style
from analysis.ablation import Effect
from tests.analysis import ladders
from tests.analysis.conftest import Study

BUDGETS = (1e18, 3e18, 1e19, 3e19)


def test_the_fan_has_every_run_and_a_minimum_a_budget() -> None:
    points = ladders.ladder(BUDGETS)
    data = figures.isoflop_data(points)
    runs, minima = (data.filter(pl.col("kind") == kind) for kind in ("run", "minimum"))
    assert set(runs["run_id"]) == set(points["run_id"])
    assert minima["budget"].to_list() == list(BUDGETS)
    found = [p.optimum for p in isoflop.parabolas(points, "params")]
    assert minima["params"].to_list() == found


def test_a_refused_budget_is_drawn_without_curve_or_minimum() -> None:
    points = ladders.ladder(BUDGETS).vstack(ladders.ladder([1e21], drift=20.0, name="edge"))
    data = figures.isoflop_data(points).filter(pl.col("budget") == 1e21)
    assert data["kind"].unique().to_list() == ["run"]
    assert data["refusal"].unique().to_list() == ["minimum_at_edge"]


def test_a_run_that_failed_is_not_in_the_fan() -> None:
    failed = pl.when(pl.col("run_id") == "run3").then(pl.lit("FAILED")).otherwise("state")
    points = ladders.ladder(BUDGETS, sizes=7).with_columns(failed.alias("state"))
    assert "run3" not in figures.isoflop_data(points)["run_id"].to_list()


def test_the_laws_run_through_the_minima_to_the_target() -> None:
    points = ladders.ladder(BUDGETS, surface=ladders.SYMMETRIC, spread=2.0)
    fit = isoflop.fit(points, draws=50)
    target = isoflop.predict(fit, 1e21)
    data = figures.laws_data(points, fit, target)
    for name, value in (("params", target.params), ("loss", target.loss)):
        rows = data.filter(pl.col("quantity") == name)
        assert len(rows.filter(pl.col("kind") == "minimum")) == len(BUDGETS)
        assert rows.filter(pl.col("kind") == "target")["value"].to_list() == [value]
    law = data.filter(pl.col("kind") == "law")
    assert law["budget"].max() == pytest.approx(1.5e21)
    assert ((law["low"] <= law["value"]) & (law["value"] <= law["high"])).all()


def test_effects_become_rows_with_their_unknowns() -> None:
    known = Effect("x", "a", -0.1, -0.2, 0.0, 0.01, 0.03, 3, "better", ("r1", "r2"))
    unknown = Effect("x", "b", None, None, None, None, None, 0, "not tested", ())
    data = figures.ablation_data([unknown, known])
    assert data["difference"].to_list() == [None, -0.1]
    assert data["run_ids"].to_list() == [[], ["r1", "r2"]]


def test_training_lines_are_thinned_and_without_what_is_no_number() -> None:
    losses = [math.nan if n == 2 else 3.0 for n in range(1, 1001)]
    rows = [{"run_id": "a", "budget": 1e18, **ladders.step(n + 1, x)} for n, x in enumerate(losses)]
    data = run_figures.training_data(pl.DataFrame(rows), lines=100)
    assert 90 <= len(data) <= 100
    assert data["loss"].is_finite().all()


def test_the_promoted_run_stands_beside_its_forecast() -> None:
    said = {"tokens": 5e6, "loss": 2.0, "low": 1.9, "high": 2.1}
    steps = pl.DataFrame([{"run_id": "a", "budget": 1e18, **ladders.step(1, 3.0)}])
    data = run_figures.promotion_data(said, steps, 4e6, 2.05)
    assert data["kind"].to_list() == ["training", "forecast", "measured"]
    assert data["tokens"].to_list() == [4096.0, 4e6, 4e6]


def test_a_promotion_that_has_not_begun_is_its_forecast_alone() -> None:
    said = {"tokens": 5e6, "loss": 2.0, "low": 1.9, "high": 2.1}
    steps = pl.DataFrame([{"run_id": "a", "budget": 1e18, **ladders.step(1, 3.0)}]).clear()
    data = run_figures.promotion_data(said, steps, None, None)
    assert data["kind"].to_list() == ["forecast"]
    assert data["tokens"].to_list() == [5e6]


def test_every_run_of_the_fan_can_be_followed_by_its_id(study: Study) -> None:
    points = store.points(study(), "tiny")
    drawn = figures.isoflop_figure(figures.isoflop_data(points), "nats_per_token").to_dict()
    ids = {run_id for trace in drawn["data"] for run_id in trace.get("customdata", ())}
    assert ids == {f"run{n}" for n in range(20) if n != 7}


@pytest.mark.parametrize("values", [(1e18, 3e25), (1e18, 1.2e18), (5e3, 2e5), (0.9, 1.1)])
def test_a_logarithmic_axis_has_a_few_round_ticks_within_its_range(
    values: tuple[float, float],
) -> None:
    axis = style.log_axis(values, "compute")
    low, high = axis["range"]
    assert 1 <= len(axis["tickvals"]) <= 9
    assert all(low - 0.1 <= math.log10(tick) <= high + 0.1 for tick in axis["tickvals"])
    assert all(
        float(text) == pytest.approx(tick)
        for text, tick in zip(axis["ticktext"], axis["tickvals"], strict=True)
    )

"""The rows that figures draw."""

import math

import polars as pl
import pytest

from analysis import forecast, isoflop, store
from analysis.panel import Panel
from analysis.report import figures, run_figures, style
from analysis.runs import prepare
from tests.analysis import ladders
from tests.analysis.conftest import Study

BUDGETS = (1e18, 3e18, 1e19, 3e19)


def test_the_fan_has_every_run_and_a_minimum_a_budget() -> None:
    points = ladders.ladder(BUDGETS)
    runs = prepare(points)
    data = figures.isoflop_data(runs)
    drawn, minima = (data.filter(pl.col("kind") == kind) for kind in ("run", "minimum"))
    assert set(drawn["run_id"]) == set(points["run_id"])
    assert minima["budget"].to_list() == list(BUDGETS)
    assert minima["params"].to_list() == [p.optimum for p in isoflop.minima(runs, "params")]


def test_a_refused_budget_is_drawn_without_curve_or_minimum() -> None:
    points = ladders.ladder(BUDGETS).vstack(ladders.ladder([1e21], drift=20.0, name="edge"))
    data = figures.isoflop_data(prepare(points)).filter(pl.col("budget") == 1e21)
    assert data["kind"].unique().to_list() == ["run"]
    assert data["refusal"].unique().to_list() == ["minimum_at_edge"]


def test_a_run_that_failed_is_not_in_the_fan() -> None:
    failed = pl.when(pl.col("run_id") == "run3").then(pl.lit("FAILED")).otherwise("state")
    points = ladders.ladder(BUDGETS, sizes=7).with_columns(failed.alias("state"))
    assert "run3" not in figures.isoflop_data(prepare(points))["run_id"].to_list()


def test_a_turning_point_is_shown_where_the_parabola_errs() -> None:
    steep, even = (
        figures.isoflop_data(prepare(ladders.ladder(BUDGETS, spread=16.0, surface=surface)))
        for surface in (ladders.HOFFMANN, ladders.SYMMETRIC)
    )
    best = [ladders.optimum(budget, ladders.HOFFMANN)[0] for budget in BUDGETS]
    shown = figures.moved(steep)
    assert (shown["params"] / pl.Series(best)).to_list() == pytest.approx([1.068] * 4, abs=0.003)
    minima = steep.filter(pl.col("kind") == "minimum")
    assert minima["params"].to_list() == pytest.approx(best, rel=0.001)
    assert figures.moved(even).is_empty()


@pytest.fixture(scope="module")
def laws() -> Panel:
    points = ladders.ladder(BUDGETS, noise=0.002, surface=ladders.SYMMETRIC, spread=2.0)
    return forecast.panel(prepare(points), draws=50)


def test_the_laws_run_through_the_minima_to_the_target(laws: Panel) -> None:
    target = laws.at(1e21)
    data = figures.laws_data(laws, target)
    for name, value in (("params", target.params), ("loss", target.loss)):
        rows = data.filter(pl.col("quantity") == name)
        assert len(rows.filter(pl.col("kind") == "minimum")) == len(BUDGETS)
        assert rows.filter(pl.col("kind") == "target")["value"].to_list() == [value]
    law = data.filter(pl.col("kind") == "law")
    assert law["budget"].max() == pytest.approx(1.5e21)
    assert ((law["low"] <= law["value"]) & (law["value"] <= law["high"])).all()


def test_every_law_has_a_line_of_what_it_speaks_of(laws: Panel) -> None:
    data = figures.laws_data(laws, None)
    for member in laws.members:
        spoken = set(data.filter(pl.col("kind") == member.law.name)["quantity"])
        silent = {"params", "tokens"} if member.law.name == "envelope" else set[str]()
        assert spoken == {"params", "tokens", "loss"} - silent


def test_a_law_that_runs_away_leaves_the_figure_and_flattens_no_other(laws: Panel) -> None:
    data = figures.laws_data(laws, laws.at(1e21))
    away = (pl.col("kind") == "tied") & (pl.col("quantity") == "params")
    wild = data.with_columns(pl.when(away).then(1e30).otherwise("value").alias("value"))
    axes = [
        figures.laws_figure(rows, "nats_per_token").to_dict()["layout"]["yaxis"]["range"]
        for rows in (data, wild)
    ]
    assert axes[0] == axes[1]


def test_training_lines_are_thinned_and_without_what_is_no_number() -> None:
    losses = [math.nan if n == 2 else 3.0 for n in range(1, 1001)]
    rows = [{"run_id": "a", "budget": 1e18, **ladders.step(n + 1, x)} for n, x in enumerate(losses)]
    data = run_figures.training_data(pl.DataFrame(rows), lines=100)
    assert 90 <= len(data) <= 100
    assert data["loss"].is_finite().all()


def test_of_too_many_runs_those_that_ended_lowest_are_drawn_of_every_budget() -> None:
    rows = [
        {"run_id": f"{budget:g}-{n}", "budget": budget, **ladders.step(step, n + 1.0 / step)}
        for budget in (1e18, 1e19)
        for n in range(5)
        for step in (1, 2)
    ]
    kept = run_figures.drawn(pl.DataFrame(rows), runs=4)
    assert sorted(set(kept["run_id"])) == ["1e+18-0", "1e+18-1", "1e+19-0", "1e+19-1"]
    assert len(kept) == 8


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
    runs = prepare(store.points(study(), "tiny"))
    drawn = figures.isoflop_figure(figures.isoflop_data(runs), "nats_per_token").to_dict()
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

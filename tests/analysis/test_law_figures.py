"""The rows behind the figures that test laws."""

import math
from dataclasses import replace

import polars as pl
import pytest

from analysis import forecast
from analysis.laws import LAWS
from analysis.panel import Member, Panel
from analysis.report import law_figures, style
from analysis.runs import Runs, prepare
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)
POINTS = ladders.ladder(BUDGETS, noise=0.002)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return forecast.panel(prepare(POINTS), draws=100)


@pytest.fixture(scope="module")
def surface(panel: Panel) -> Member:
    found = law_figures.leading_surface(panel, panel.at(1e21))
    assert found is not None
    return found


def spoiled() -> tuple[Runs, pl.DataFrame]:
    """The ladder with one run half as bad again."""
    lost = pl.when(pl.col("run_id") == "run7").then(1.5).otherwise(1.0)
    points = POINTS.with_columns(pl.col("loss") * lost)
    return prepare(points), points


def test_the_leading_surface_is_the_one_with_most_weight(panel: Panel, surface: Member) -> None:
    weights = {one.law: one.loss_weight for one in panel.at(1e21).opinions}
    others = [weights[m.law.name] for m in panel.members if m.law.surface]
    assert weights[surface.law.name] == max(others)


def test_every_run_has_a_residual_as_small_as_its_noise(panel: Panel, surface: Member) -> None:
    data = law_figures.residuals_data(surface, panel.runs, POINTS)
    assert set(data["run_id"]) == set(POINTS["run_id"])
    residual = data["residual"].to_numpy()
    assert residual.std() == pytest.approx(0.002, rel=0.4)
    assert abs(residual.mean()) < 0.001


def test_a_run_kept_out_has_a_residual_and_the_reason(surface: Member) -> None:
    runs, points = spoiled()
    data = law_figures.residuals_data(surface, runs, points)
    row = data.filter(pl.col("kind") == "kept out").row(0, named=True)
    assert row["run_id"] == "run7"
    assert row["residual"] == pytest.approx(math.log(1.5), abs=0.01)
    assert "off the surface" in row["reason"]


def test_a_run_without_a_loss_is_no_cross(surface: Member) -> None:
    diverged = pl.when(pl.col("run_id") == "run7").then(pl.lit("DIVERGED")).otherwise("state")
    lost = pl.when(pl.col("run_id") != "run7").then("loss")
    points = POINTS.with_columns(diverged.alias("state"), lost.alias("loss"))
    data = law_figures.residuals_data(surface, prepare(points), points)
    assert data["kind"].unique().to_list() == ["run"]
    assert "run7" not in data["run_id"].to_list()


def test_a_cross_beyond_the_axis_stands_at_its_edge_and_says_how_far(surface: Member) -> None:
    data = law_figures.residuals_data(surface, *spoiled())
    drawn = law_figures.residuals_figure(data).to_dict()
    crosses = [trace for trace in drawn["data"] if trace["marker"].get("symbol") == "x-thin"]
    edge = drawn["layout"]["yaxis"]["range"][1]
    for trace in crosses:
        assert trace["y"][0] < edge < 0.1
        assert trace["customdata"][0][2] == pytest.approx(math.log(1.5), abs=0.01)


def test_of_very_many_runs_every_so_many_is_drawn(panel: Panel, surface: Member) -> None:
    many = replace(panel.runs, frame=pl.concat([panel.runs.frame] * 300))
    data = law_figures.residuals_data(surface, many, POINTS)
    assert law_figures.DOTS / 2 < len(data) <= law_figures.DOTS


def test_every_back_test_is_a_point_and_the_next_budgets_are_told_apart(panel: Panel) -> None:
    data = law_figures.backtest_data(panel).filter(pl.col("quantity") == "loss")
    for member in panel.members:
        here = data.filter(pl.col("law") == member.law.name)
        errors = [row.loss_error for row in member.backtest if row.loss_error is not None]
        assert here["error"].drop_nulls().to_list() == errors
        origins = {row.upto for row in member.backtest}
        assert len(here.filter(pl.col("kind") == "next")) == len(origins)


def test_a_band_is_what_the_interval_of_its_law_adds(panel: Panel) -> None:
    data = law_figures.backtest_data(panel).filter(pl.col("kind") == "band")
    for member in panel.members:
        here = data.filter(pl.col("law") == member.law.name, pl.col("quantity") == "params")
        for row in here.iter_rows(named=True):
            half = member.wander["params"].half_width(row["decades"], 0.95)
            assert (row["low"], row["high"]) == (-half, half)


def test_a_quantity_that_no_budget_tested_has_no_panel(panel: Panel) -> None:
    losses = law_figures.backtest_data(panel).filter(pl.col("quantity") == "loss")
    both = law_figures.backtest_figure(law_figures.backtest_data(panel)).to_dict()["layout"]
    one = law_figures.backtest_figure(losses).to_dict()["layout"]
    assert ("xaxis2" in both, "xaxis2" in one) == (True, False)


def test_every_law_that_votes_has_a_colour_of_its_own() -> None:
    assert set(style.LAW_COLORS) == {name for name, law in LAWS.items() if law.votes}
    assert len(set(style.LAW_COLORS.values())) == len(style.LAW_COLORS)

"""The rows that an ablation's figures draw, and what is drawn of them."""

import math

import pytest

from analysis.ablation import figures
from analysis.ablation.effects import AtBudget, Effect
from analysis.ablation.multiplier import Multiplier, multipliers
from tests.analysis.ablations import BASE, crossing, ladder

BUDGETS = (1e18, 1e19, 1e20)


@pytest.fixture(scope="module")
def found() -> list[Multiplier]:
    laws = {"late": crossing(1e20, 0.14), "<b>": BASE}
    return multipliers(ladder(laws, budgets=BUDGETS, noise=0.002), 1e21, draws=200)


def test_effects_become_rows_with_their_unknowns() -> None:
    known = Effect("x", "a", -0.1, -0.2, 0.0, 0.01, 0.03, 3, "better", ("r1", "r2"))
    unknown = Effect("x", "b", None, None, None, None, None, 0, "not tested", ())
    data = figures.ablation_data([unknown, known])
    assert data["difference"].to_list() == [None, -0.1]
    assert data["run_ids"].to_list() == [[], ["r1", "r2"]]


def test_an_effect_has_a_row_for_each_of_its_budgets() -> None:
    at = (AtBudget(1e18, -0.2, -0.3, -0.1, 2), AtBudget(1e19, 0.1, None, None, 1))
    effect = Effect("x", "a", -0.1, -0.2, 0.0, 0.01, 0.03, 3, "better", (), at)
    rows = figures.budget_effects_data([effect]).rows()
    assert rows == [("x", "a", 1e18, -0.2, -0.3, -0.1, 2), ("x", "a", 1e19, 0.1, None, None, 1)]


def test_a_multiplier_is_drawn_from_the_smallest_budget_to_the_target(
    found: list[Multiplier],
) -> None:
    data = figures.multiplier_data(found)
    for level in ("late", "<b>"):
        here = data.filter(level=level)
        assert here.filter(kind="measured")["budget"].to_list() == pytest.approx(BUDGETS)
        curve, target = here.filter(kind="curve"), here.filter(kind="target")
        assert (curve["budget"][0], curve["budget"][-1]) == pytest.approx((1e18, 1e21))
        assert curve["multiplier"][-1] == pytest.approx(target["multiplier"][0])
        assert (
            (curve["low"] <= curve["multiplier"]) & (curve["multiplier"] <= curve["high"])
        ).all()


def test_every_level_has_a_panel_with_its_name_made_safe(found: list[Multiplier]) -> None:
    drawn = figures.multiplier_figure(figures.multiplier_data(found)).to_dict()
    titles = [note["text"] for note in drawn["layout"]["annotations"]]
    assert titles == ["position = late", "position = &lt;b&gt;"]
    assert len({trace["xaxis"] for trace in drawn["data"]}) == 2


def test_a_level_whose_trend_is_not_known_shows_what_was_measured(
    found: list[Multiplier],
) -> None:
    bare = multipliers(ladder({"late": BASE}, budgets=BUDGETS[:2], seeds=1), 1e21)
    data = figures.multiplier_data(bare)
    assert data["kind"].unique().to_list() == ["measured"]
    drawn = figures.multiplier_figure(data).to_dict()
    shown = [y for trace in drawn["data"] for y in trace["y"]]
    assert len(shown) == 2
    assert all(math.isfinite(y) for y in shown)


def test_no_level_gives_no_rows() -> None:
    assert figures.multiplier_data([]).is_empty()
    assert figures.budget_effects_data([]).is_empty()

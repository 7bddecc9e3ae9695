"""Back-tests: a law sees only the budgets below, and is judged by what was measured above."""

import math

import pytest

from analysis.backtest import backtest, measured_optima, next_rows
from analysis.laws import LAWS
from analysis.runs import prepare
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)


def test_every_budget_above_an_origin_is_predicted_from_those_up_to_it() -> None:
    runs = prepare(ladders.ladder(BUDGETS, noise=0.002))
    rows = backtest(LAWS["isoflop"], runs, measured_optima(runs))
    pairs = [(row.upto, row.budget) for row in rows]
    assert pairs == [(a, b) for i, a in enumerate(BUDGETS[1:], 1) for b in BUDGETS[i + 1 :]]
    assert rows[0].decades == pytest.approx(math.log10(1e19 / 3e18))


def test_the_runs_above_an_origin_do_not_touch_its_fit() -> None:
    points = ladders.ladder(BUDGETS, noise=0.002)
    optima = measured_optima(prepare(points))
    spoilt = points.with_columns(
        loss=points["loss"] * (1 + 0.05 * (points["budget"] == BUDGETS[-1]).cast(float))
    )
    one, other = (backtest(LAWS["parametric"], prepare(p), optima) for p in (points, spoilt))
    assert [r.loss_error for r in one] == [r.loss_error for r in other]


@pytest.mark.parametrize("name", ["isoflop", "parametric", "farseer"])
def test_a_law_that_holds_exactly_has_no_back_test_error(name: str) -> None:
    runs = prepare(ladders.ladder(BUDGETS, sizes=7))
    for row in backtest(LAWS[name], runs, measured_optima(runs)):
        # Two budgets hardly hold seven coefficients; three carry no floor for L*(C).
        if row.upto > BUDGETS[2]:
            assert row.params_error == pytest.approx(0, abs=2e-3)
            assert row.loss_error == pytest.approx(0, abs=1e-4)


def test_the_next_budget_alone_is_the_nearest_of_every_origin() -> None:
    runs = prepare(ladders.ladder(BUDGETS, noise=0.002))
    rows = next_rows(backtest(LAWS["tied"], runs, measured_optima(runs)))
    assert [row.budget for row in rows] == [1e19, 3e19, 1e20]


def test_where_no_budget_has_a_minimum_a_surface_is_tested_on_the_runs_themselves() -> None:
    """Off-centre ladders: every minimum is refused, yet losses can be predicted."""
    runs = prepare(ladders.ladder(BUDGETS, sizes=7, drift=30.0))
    assert measured_optima(runs) == {}
    rows = backtest(LAWS["parametric"], runs, {})
    assert len(rows) == 6
    assert all(row.params_error is None for row in rows)
    assert all(row.loss_error == pytest.approx(0, abs=1e-2) for row in rows)
    assert backtest(LAWS["isoflop"], runs, {}) == ()

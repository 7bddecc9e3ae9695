"""Forecasts: every law in the table keeps the same promises."""

import json
import math
import time

import numpy as np
import pytest

from analysis import forecast as forecasts
from analysis.law import scientific
from tests.analysis import ladders

BUDGETS = (1e18, 3e18, 1e19, 3e19)


@pytest.fixture(params=sorted(forecasts.LAWS))
def law(request: pytest.FixtureRequest) -> forecasts.Law:
    return forecasts.LAWS[request.param]


def test_a_law_finds_the_optimum_of_a_known_surface(law: forecasts.Law) -> None:
    points = ladders.ladder(BUDGETS, sizes=7, spread=2.0)
    said = law.predict(law.fit(points, draws=50), 1e21)
    params, tokens, loss = ladders.optimum(1e21)
    assert said.params == pytest.approx(params, rel=0.02)
    assert said.tokens == pytest.approx(tokens, rel=0.02)
    assert said.loss == pytest.approx(loss, rel=0.005)


def test_a_law_holds_the_truth_in_its_interval(law: forecasts.Law) -> None:
    points = ladders.ladder(BUDGETS, noise=0.002, seed=3)
    said = law.predict(law.fit(points), 1e21)
    params, tokens, loss = ladders.optimum(1e21)
    assert said.low < loss < said.high
    assert said.params_low < params < said.params_high
    assert said.tokens_low < tokens < said.tokens_high


def test_a_law_draws_one_row_of_coefficients_a_bootstrap(law: forecasts.Law) -> None:
    fit = law.fit(ladders.ladder(BUDGETS, noise=0.002), draws=64)
    assert fit.draws.shape == (64, len(fit.coef))
    assert fit.covariance is not None
    assert fit.covariance.shape == (len(fit.coef), len(fit.coef))
    assert set(fit.intervals) == set(fit.coef)


def test_a_law_names_its_runs_and_its_convention(law: forecasts.Law) -> None:
    points = ladders.ladder(BUDGETS)
    fit = law.fit(points, draws=20, params_convention="params_total")
    assert set(fit.run_ids) == set(points["run_id"])
    assert fit.params_convention == "params_total"


@pytest.mark.parametrize("target", [0.0, -1e20, math.nan, math.inf])
def test_a_target_that_is_no_budget_is_refused(law: forecasts.Law, target: float) -> None:
    fit = law.fit(ladders.ladder(BUDGETS), draws=20)
    with pytest.raises(ValueError, match="is not a positive number of FLOPs"):
        law.predict(fit, target)


def test_extrapolation_is_in_decades_above_the_largest_usable_budget() -> None:
    edge = ladders.ladder([1e21], drift=20.0, name="edge")
    points = ladders.ladder(BUDGETS).vstack(edge)
    assert forecasts.forecast(points, 3e21, draws=20).extrapolation == pytest.approx(2.0)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    points = ladders.ladder(BUDGETS, noise=0.003)
    wide, narrow = (forecasts.forecast(points, 1e20, level=level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.loss < narrow.high < wide.high


def test_a_forecast_is_plain_json_with_all_but_the_draws() -> None:
    said = forecasts.forecast(ladders.ladder(BUDGETS, noise=0.003), 1e20, draws=20)
    plain = json.loads(json.dumps(forecasts.as_json(said)))
    assert plain["loss"] == said.loss
    assert plain["fit"]["coef"] == said.fit.coef
    assert plain["backtest"][0]["budget"] == 1e19
    assert "draws" not in plain["fit"]


def test_the_stored_coefficients_give_back_the_forecast() -> None:
    said = forecasts.forecast(ladders.ladder(BUDGETS, noise=0.003), 1e21, draws=20)
    coef = forecasts.as_json(said)["fit"]["coef"]
    params = coef["params_coefficient"] * 1e21 ** coef["params_exponent"]
    loss = coef["loss_irreducible"] + coef["loss_coefficient"] * 1e21 ** -coef["loss_exponent"]
    assert (params, loss) == (pytest.approx(said.params), pytest.approx(said.loss))


def test_500_draws_of_a_small_study_take_less_than_two_seconds() -> None:
    points = ladders.ladder(BUDGETS, noise=0.003)
    started = time.process_time()
    forecasts.forecast(points, 1e21, draws=500)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e18, "1e18"), (3.16e19, "3.16e19"), (6.0, "6"), (0.0, "0"), (np.inf, "inf"), (2e-7, "2e-7")],
)
def test_budgets_are_written_as_papers_write_them(value: float, text: str) -> None:
    assert scientific(value) == text

"""Forecasts: every law in the table keeps the same promises, and so do all together."""

import json
import math
import time

import numpy as np
import polars as pl
import pytest

from analysis import forecast as forecasts
from analysis.law import Forecast, NotEnough, scientific
from analysis.laws import LAWS
from analysis.panel import predict
from analysis.runs import prepare
from tests.analysis import ladders, reference

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)
TARGET = 3e21


def repeated(points: pl.DataFrame) -> pl.DataFrame:
    """The same runs, some of which are said to see their data twice (which changes no loss)."""
    return points.with_columns(unique_tokens=pl.col("tokens") / (1 + (pl.col("budget") > 2e19)))


def said(points: pl.DataFrame, law: str = "auto", target: float = TARGET, **o: float) -> Forecast:
    level = o.pop("level", 0.95)
    points = repeated(points) if law == "data-constrained" else points
    return forecasts.panel(prepare(points), law, draws=200).at(target, level)


@pytest.mark.parametrize("law", ["auto", *LAWS])
def test_a_law_finds_the_optimum_of_a_known_surface(law: str) -> None:
    """The runs lie on Chinchilla's surface; the laws of another form come close to it."""
    at = said(ladders.ladder(BUDGETS, sizes=9), law)
    params, tokens, loss = ladders.optimum(TARGET)
    assert at.loss == pytest.approx(loss, rel=0.005)
    if law != "envelope":
        assert at.params == pytest.approx(params, rel=0.1)
        assert at.tokens == pytest.approx(tokens, rel=0.1)


# One exponent for both is not this surface's law, and an envelope says nothing of sizes.
RIGHT = ["auto", *sorted(set(LAWS) - {"tied", "envelope", "data-constrained"})]


@pytest.mark.parametrize("law", RIGHT)
def test_a_law_holds_the_truth_in_its_interval(law: str) -> None:
    at = said(ladders.ladder(BUDGETS, sizes=7, noise=0.002, seed=3), law)
    params, tokens, loss = ladders.optimum(TARGET)
    assert at.low < loss < at.high
    assert at.params_low < params < at.params_high
    assert at.tokens_low < tokens < at.tokens_high


@pytest.mark.parametrize("law", LAWS)
def test_a_law_draws_one_row_of_coefficients_a_bootstrap(law: str) -> None:
    points = repeated(ladders.ladder(BUDGETS, noise=0.002))
    fit = LAWS[law].fit(prepare(points, params_convention="params_total"), draws=64, seed=0)
    assert fit.draws.shape == (64, len(fit.theta))
    assert set(fit.intervals) == set(fit.coef) == set(fit.se)
    assert set(fit.run_ids) == set(points["run_id"])
    assert fit.params_convention == "params_total"
    assert fit.law == law


@pytest.mark.parametrize("target", [0.0, -1e20, math.nan, math.inf])
def test_a_target_that_is_no_budget_is_refused(target: float) -> None:
    panel = forecasts.panel(prepare(ladders.ladder(BUDGETS)), "tied", draws=20)
    with pytest.raises(ValueError, match="is not a positive number of FLOPs"):
        panel.at(target)


def test_a_law_by_a_wrong_name_is_refused_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="law='chinchila' is not known; use one of auto, isoflop"):
        forecasts.panel(prepare(ladders.ladder(BUDGETS)), "chinchila")


def test_extrapolation_is_in_decades_above_the_largest_budget() -> None:
    assert said(ladders.ladder(BUDGETS), "isoflop", 1e22).extrapolation == pytest.approx(2.0)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    points = ladders.ladder(BUDGETS, noise=0.003)
    wide, narrow = (said(points, level=level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.loss < narrow.high < wide.high


def test_farther_targets_have_wider_intervals() -> None:
    panel = forecasts.panel(prepare(ladders.ladder(BUDGETS, noise=0.002)), draws=200)
    widths = [math.log(at.high / at.low) for at in map(panel.at, (1e20, 1e21, 1e23))]
    assert widths == sorted(widths)


def test_all_laws_speak_and_their_weights_are_shares() -> None:
    at = said(ladders.ladder(BUDGETS, noise=0.002))
    assert [one.law for one in at.opinions] == [
        n for n, law in LAWS.items() if law.votes and n != "data-constrained"
    ]
    assert sum(one.loss_weight for one in at.opinions) == pytest.approx(1)
    assert sum(one.size_weight for one in at.opinions) == pytest.approx(1)
    assert next(one for one in at.opinions if one.law == "envelope").params is None


def test_a_law_that_predicts_badly_has_little_weight() -> None:
    """Exponents of .2 and .6: one exponent for both is wrong, and its back-tests show it."""
    surface = (1.8, 100.0, 30000.0, 0.2, 0.6)
    at = said(ladders.ladder(BUDGETS, sizes=9, noise=0.002, surface=surface))
    weights = {one.law: one.size_weight for one in at.opinions}
    assert weights["tied"] < 0.05
    assert weights["parametric"] > 0.3
    assert at.params_low < ladders.optimum(TARGET, surface)[0] < at.params_high


def test_laws_that_disagree_by_more_than_they_allow_are_named() -> None:
    """A surface whose exponent of D falls with N: the richer law sees it, the others cannot."""
    points = ladders.ladder(BUDGETS, sizes=9, spread=6.0)
    x, y = points["params"].log() - 20, points["tokens"].log() - 22
    noise = pl.Series(np.exp(0.001 * np.random.default_rng(0).normal(size=len(points))))
    loss = 1.5 + (-0.5 - 0.3 * x).exp() + (-0.7 - 0.4 * y + 0.03 * x * y).exp()
    at = said(points.with_columns(loss=loss * noise), target=1e22)
    doubts = {d.name: d.detail for d in at.diagnostics}
    assert "farseer 1." in doubts["laws_disagree"]
    assert "parametric 1." in doubts["laws_disagree"]
    assert at.dominant == "laws"


def test_data_constrained_votes_only_where_data_repeat() -> None:
    points = ladders.ladder(BUDGETS, noise=0.002)
    plain, twice = (said(p) for p in (points, repeated(points)))
    assert "data-constrained" not in {one.law for one in plain.opinions}
    assert "data-constrained" in {one.law for one in twice.opinions}


def test_a_forecast_without_sizes_cannot_be_promoted() -> None:
    at = said(ladders.ladder(BUDGETS), "envelope")
    with pytest.raises(NotEnough, match="add sizes at every budget"):
        forecasts.promotable(at)


def test_two_budgets_cannot_be_back_tested_and_that_is_said() -> None:
    at = said(ladders.ladder(BUDGETS[:2], sizes=7, noise=0.002))
    assert "not_backtested" in {d.name for d in at.diagnostics}


def test_a_prediction_holds_what_a_run_would_measure() -> None:
    runs = prepare(ladders.ladder(BUDGETS, sizes=7, noise=0.003))
    panel = forecasts.panel(runs, draws=200)
    rng = np.random.default_rng(5)
    n, d = np.exp(rng.uniform(18, 22, 200)), np.exp(rng.uniform(21, 26, 200))
    e, a, b, alpha, beta = ladders.CHINCHILLA
    true = (e + a / n**alpha + b / d**beta) * np.exp(0.003 * rng.normal(size=200))
    found = predict(panel, np.log(n), np.log(d))
    held = [p.low <= loss <= p.high for p, loss in zip(found, true, strict=True)]
    assert 0.9 <= np.mean(held)


def test_a_law_of_optima_predicts_no_other_sizes() -> None:
    panel = forecasts.panel(prepare(ladders.ladder(BUDGETS)), "isoflop", draws=20)
    with pytest.raises(NotEnough, match="predict at given sizes by --law parametric"):
        predict(panel, np.array([20.0]), np.array([23.0]))


def test_chinchillas_forecast_holds_the_published_one() -> None:
    """Hoffmann et al. 2022, tab. A3: 1e24 FLOPs by approach 1 to 3: 52, 175 and 61 B params."""
    at = forecasts.panel(prepare(reference.chinchilla()), draws=200).at(1e24)
    assert at.params_low < 61e9 < at.params_high
    assert 1.8 < at.low < at.loss < at.high < 2.1


@pytest.mark.slow
@pytest.mark.parametrize("data", [reference.chinchilla, reference.llama3])
def test_what_was_left_out_lies_in_the_interval(data: object) -> None:
    """Forecast the top budgets of public sweeps from those at C/3, C/10, C/30 and below."""
    runs = prepare(data())  # pyright: ignore[reportCallIssue]
    optima = forecasts.measured_optima(runs)
    budgets = sorted(optima)
    held: list[bool] = []
    for top in budgets[-4:]:
        for factor in (3, 10, 30):
            known = [c for c in budgets if c <= 1.01 * top / factor]
            if len(known) < 4:
                continue
            at = forecasts.panel(runs.upto(known[-1] * 1.01), draws=200).at(top)
            params, _, loss = np.exp(optima[top][0])
            held += [at.params_low <= params <= at.params_high, at.low <= loss <= at.high]
    assert np.mean(held) >= 0.9


def test_a_forecast_is_plain_json_with_all_but_the_draws() -> None:
    at = said(ladders.ladder(BUDGETS, noise=0.003))
    plain = json.loads(json.dumps(forecasts.as_json(at)))
    assert plain["loss"] == at.loss
    assert plain["fit"]["coef"] == at.fit.coef
    assert plain["opinions"][0]["law"] == "isoflop"
    assert "draws" not in plain["fit"]


def test_a_forecast_of_a_small_study_takes_less_than_five_seconds() -> None:
    points = ladders.ladder(BUDGETS[:4], noise=0.003)
    started = time.process_time()
    forecasts.panel(prepare(points)).at(TARGET)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e18, "1e18"), (3.16e19, "3.16e19"), (6.0, "6"), (0.0, "0"), (np.inf, "inf"), (2e-7, "2e-7")],
)
def test_budgets_are_written_as_papers_write_them(value: float, text: str) -> None:
    assert scientific(value) == text

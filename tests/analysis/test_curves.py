"""Power laws and the loss curve: known coefficients, many resamples at once, bounds."""

import numpy as np
import pytest

from analysis import curves

BUDGETS = np.geomspace(1e18, 1e21, 6)
LOG_C = np.log(BUDGETS)


def test_a_power_law_gives_back_its_coefficients() -> None:
    log_y = np.log(0.3 * BUDGETS**0.54)
    ((coefficient, exponent),) = curves.power_law(LOG_C, log_y[None])
    assert np.exp(coefficient) == pytest.approx(0.3, rel=1e-9)
    assert exponent == pytest.approx(0.54, rel=1e-12)


def test_a_resample_goes_on_without_a_budget_that_it_lacks() -> None:
    log_y = np.log(0.3 * BUDGETS**0.54)
    log_y[2] = np.nan
    assert curves.power_law(LOG_C, log_y[None])[0, 1] == pytest.approx(0.54, rel=1e-12)


def test_a_resample_with_one_budget_has_no_law() -> None:
    log_y = np.full((1, 6), np.nan)
    log_y[0, 3] = 1.0
    assert np.isnan(curves.power_law(LOG_C, log_y)).all()


@pytest.mark.parametrize(("floor", "exponent"), [(1.8, 0.15), (0.5, 0.05), (2.2, 0.4)])
def test_the_loss_curve_gives_back_its_coefficients(floor: float, exponent: float) -> None:
    scale = 0.9 * BUDGETS[0] ** exponent
    log_y = np.log(floor + scale * BUDGETS**-exponent)
    ((e, log_k, g),) = curves.loss_curve(LOG_C, log_y[None])
    assert (e, g) == (pytest.approx(floor, rel=1e-4), pytest.approx(exponent, rel=1e-4))
    assert log_k == pytest.approx(np.log(scale), rel=1e-4)


def test_resamples_are_fitted_together_as_they_are_alone() -> None:
    rng = np.random.default_rng(0)
    log_y = np.log(1.8 + 500 * BUDGETS**-0.15) + 0.003 * rng.normal(size=(20, 6))
    alone = np.concatenate([curves.loss_curve(LOG_C, row[None]) for row in log_y])
    np.testing.assert_allclose(curves.loss_curve(LOG_C, log_y), alone, rtol=1e-9)


def test_a_loss_without_a_floor_is_named() -> None:
    optima = np.stack([LOG_C, LOG_C, np.log(50 - 1.0 * LOG_C)])
    coef = curves.compute_laws(BUDGETS, optima[None])[0]
    assert coef[4] == 0
    assert [d.name for d in curves.bounds(coef, 6)] == ["irreducible_at_bound"]


def test_a_loss_that_rises_with_the_budget_is_named() -> None:
    optima = np.stack([LOG_C, LOG_C, 0.1 * LOG_C])
    coef = curves.compute_laws(BUDGETS, optima[None])[0]
    assert "loss_not_falling" in {d.name for d in curves.bounds(coef, 6)}


def test_a_loss_that_drops_once_and_stays_is_named() -> None:
    optima = np.stack([LOG_C, LOG_C, np.log([3.0, 2.5, 2.5, 2.5, 2.5, 2.5])])
    coef = curves.compute_laws(BUDGETS, optima[None])[0]
    assert "loss_exponent_at_bound" in {d.name for d in curves.bounds(coef, 6)}


def test_three_budgets_carry_a_plain_power_law_and_it_is_said() -> None:
    optima = np.stack([LOG_C, LOG_C, np.log(50 * BUDGETS**-0.06)])[:, :3]
    coef = curves.compute_laws(BUDGETS[:3], optima[None])[0]
    assert coef[4:].tolist() == pytest.approx([0.0, 50.0, 0.06])
    assert [d.name for d in curves.bounds(coef, 3)] == ["plain_power_law"]


def test_evaluating_the_laws_gives_back_what_they_were_fitted_to() -> None:
    truth = np.stack([0.5 * LOG_C, 2 + 0.5 * LOG_C, np.log(1.8 + 500 * BUDGETS**-0.15)])
    coef = curves.compute_laws(BUDGETS, truth[None])
    np.testing.assert_allclose(curves.evaluate(coef, float(BUDGETS[2]))[0], truth[:, 2], rtol=1e-6)

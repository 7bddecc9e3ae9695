"""The models of one loss: every row of the table keeps the same promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.law import Floats
from analysis.mixture import laws as mixing_laws
from analysis.mixture.laws import MODELS, Model
from tests.analysis import mixtures

DOMAINS = ("web", "code", "books", "law")
TRUTH: dict[str, Floats] = {
    "additive": np.array([1.5, 0.9, 0.2, 0.1, 0.3, 0.6, 0.25, 0.3, 0.4]),
    "exponential": np.array([1.5, 0.1, 1.1, 0.9, -0.6]),
    "ridge": np.array([0.9, -0.15, -0.02, 0.01, -0.05]),
}


@pytest.fixture(params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> Model:
    return MODELS[name]


@pytest.fixture
def shares() -> Floats:
    return mixtures.weights(60, domains=len(DOMAINS))


def test_every_model_of_the_table_has_a_known_case(name: str) -> None:
    assert set(TRUTH) == set(MODELS)
    assert len(MODELS[name].names(DOMAINS)) == len(TRUTH[name])


def test_a_model_predicts_new_mixtures_of_its_own_law(
    name: str, model: Model, shares: Floats
) -> None:
    coef, _ = model.fit(shares, model.value(TRUTH[name], shares))
    new = mixtures.weights(40, seed=1, domains=len(DOMAINS))
    # The pull of the exponents and slopes moves even noise-free fits; noise of runs is .5 to 3 %.
    np.testing.assert_allclose(model.value(coef, new), model.value(TRUTH[name], new), atol=2e-3)


def test_the_slopes_are_the_derivatives_of_the_value(
    name: str, model: Model, shares: Floats
) -> None:
    slopes = model.slopes(TRUTH[name], shares)
    for i, step in enumerate(np.eye(len(TRUTH[name])) * 1e-6):
        up, down = (model.value(TRUTH[name] + side * step, shares) for side in (1, -1))
        np.testing.assert_allclose(slopes[:, i], (up - down) / 2e-6, atol=1e-7)


def test_a_complex_step_in_a_share_gives_the_slope_of_the_loss(
    name: str, model: Model, shares: Floats
) -> None:
    step = np.array([1e-6, -1e-6, 0, 0])
    up, down = (model.value(TRUTH[name], shares + side * step) for side in (1, -1))
    exact = model.value(TRUTH[name], shares + 1j * 1e-14 * step).imag / 1e-14
    np.testing.assert_allclose(exact, (up - down) / 2, rtol=1e-5, atol=1e-12)


def test_the_model_that_made_the_losses_is_chosen(name: str, model: Model, shares: Floats) -> None:
    noise = 0.003 * np.random.default_rng(5).normal(size=len(shares))
    log_loss = model.value(TRUTH[name], shares) + noise
    fold = mixing_laws.folds(np.arange(len(shares)), seed=0)
    law = mixing_laws.choose(shares, log_loss, fold)
    assert law.model == name
    assert law.errors[name] == pytest.approx(0.003, rel=0.4)


def test_the_lever_moves_coefficients_as_a_new_fit_does(shares: Floats) -> None:
    model = MODELS["exponential"]
    log_loss = model.value(TRUTH["exponential"], shares)
    coef, penalty = model.fit(shares, log_loss)
    nudge = 1e-4 * np.random.default_rng(2).normal(size=len(shares))
    moved = mixing_laws.lever(model.slopes(coef, shares), penalty) @ nudge
    np.testing.assert_allclose(model.fit(shares, log_loss + nudge)[0] - coef, moved, atol=2e-6)


def test_a_run_that_went_wrong_hardly_moves_the_additive_law(shares: Floats) -> None:
    model = MODELS["additive"]
    log_loss = model.value(TRUTH["additive"], shares)
    spoilt = log_loss.copy()
    spoilt[7] += np.log(2)
    coef, _ = model.fit(shares, spoilt)
    sound = np.arange(len(shares)) != 7
    np.testing.assert_allclose(model.value(coef, shares)[sound], log_loss[sound], atol=0.01)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 2**32 - 1))
def test_replicates_of_a_mixture_are_held_out_together(mixture: list[int], seed: int) -> None:
    _, numbered = np.unique(mixture, return_inverse=True)
    fold = mixing_laws.folds(numbered, seed)
    for one in set(mixture):
        assert len(set(fold[np.array(mixture) == one].tolist())) == 1
    sizes = np.bincount([fold[mixture.index(one)] for one in set(mixture)], minlength=5)
    assert sizes.max() - sizes.min() <= 1

"""Loss surfaces: values, and every derivative."""

import numpy as np
import pytest

from analysis.law import Floats
from analysis.surface import SURFACES, Sizes, Surface, evaluate
from tests.analysis import ladders

THETA = {
    "parametric": [0.5, -0.5, -0.3, 0.3, 0.4],
    "tied": [0.5, -0.5, -0.3, 0.3],
    "farseer": [0.5, -0.5, -0.3, 0.3, 0.4, 0.05, 0.02],
    "data-constrained": [0.5, -0.5, -0.3, 0.3, 0.4, 2.0, 1.5],
}


@pytest.fixture
def sizes() -> Sizes:
    """Fifty runs over many sizes; half of them repeat their data."""
    rng = np.random.default_rng(0)
    log_n, log_d = rng.uniform(18, 24, 50), rng.uniform(20, 26, 50)
    log_u = np.minimum(log_d, rng.uniform(20, 24, 50))
    return Sizes(log_n, log_d, log_u, (21.0, 23.0))


@pytest.mark.parametrize("surface", SURFACES.values(), ids=list(SURFACES))
def test_the_jacobian_is_the_derivative_of_the_value(surface: Surface, sizes: Sizes) -> None:
    theta = np.array([THETA[surface.name]])
    _, jacobian = evaluate(surface, sizes, theta, jacobian=True)
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, i] = 1e-6
        up, down = (evaluate(surface, sizes, theta + s)[0] for s in (step, -step))
        np.testing.assert_allclose(jacobian[..., i], (up - down) / 2e-6, atol=1e-8)


def test_the_parametric_surface_is_e_plus_a_power_of_n_plus_a_power_of_d() -> None:
    e, a, b, alpha, beta = ladders.CHINCHILLA
    log_n, log_d = np.log([1e8, 7e10]), np.log([2e9, 1.4e12])
    theta = np.array([[np.log(e), np.log(a), np.log(b), alpha, beta]])
    said = evaluate(SURFACES["parametric"], Sizes(log_n, log_d, log_d, (0.0, 0.0)), theta)[0]
    loss = e + a * np.exp(-alpha * log_n) + b * np.exp(-beta * log_d)
    np.testing.assert_allclose(np.exp(said[0]), loss, rtol=1e-12)


def at(surface: str, log_n: Floats, log_d: Floats, log_u: Floats) -> Floats:
    theta = np.array([THETA[surface]])
    return evaluate(SURFACES[surface], Sizes(log_n, log_d, log_u, (21.0, 23.0)), theta)[0][0]


def test_repeated_tokens_are_worth_less_than_new_ones_and_never_harm() -> None:
    """Muennighoff et al. 2023: each epoch adds less; many are worth at most R_D more."""
    log_n, unique = np.full(6, 20.0), np.full(6, 22.0)
    log_d = 22.0 + np.log([1, 2, 4, 10, 100, 1000])
    repeated = at("data-constrained", log_n, log_d, unique)
    fresh = at("data-constrained", log_n, log_d, log_d)
    assert (np.diff(repeated) <= 0).all()
    assert (repeated[1:] > fresh[1:]).all()
    assert repeated[-1] == pytest.approx(repeated[-2], abs=1e-3)


def test_without_repeats_the_data_constrained_surface_has_only_its_own_n_to_saturate() -> None:
    log_n, log_d = np.array([19.0, 20.0]), np.array([26.0, 26.0])
    few = at("data-constrained", log_n, log_d, log_d)
    plain = at("parametric", log_n, log_d, log_d)
    np.testing.assert_allclose(few, plain, rtol=1e-12)

"""How one loss depends on the shares of the training data: three models, chosen by what they hold.

All are fitted to ln(loss). Legend: n runs, J data domains, p coefficients. Shares (n, J) are
positive and sum to 1. `slopes` are d ln(loss) / d coefficient, from which bootstrap draws follow.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from analysis.law import Floats

FOLDS = 5
# The exponents of the additive law lean to .3 as if by one run that misses by 2 % for an exponent
# that is off by its own size: ours, so that domains seen in few runs keep a determined exponent.
# Runs of one mixing study scatter by .5 to 3 % about the laws.
GAMMA, LEANING = 0.3, 0.02
GAMMA_BOUNDS = (0.02, 3.0)
# Misses up to about 5 % count by their square, larger ones by their size, so that runs that went
# wrong weigh little: with 10 of 200 RegMix runs multiplied by U(1.02, 2.5) the errors on the others
# stay below 3 %; by squares alone they are 4 to 6 %.
TOLERATED = 0.05
# No t is searched beyond this: e^60 is the end of what a loss could be.
LARGEST_RATE = 60.0
_FLOOR_STARTS = (0.2, 0.5, 0.8, 0.95)
_RIDGES: Floats = np.geomspace(1e-4, 1e3, 15)


@dataclass(frozen=True)
class Model:
    """`fit(shares, log_loss)` gives coefficients (p,) and penalties (p,), roots of a ridge on each;
    `value(coef, shares)` is ln(loss) (n,), also of complex shares; `slopes(coef, shares)` (n, p).
    """  # fmt: skip

    fit: Callable[[Floats, Floats], tuple[Floats, Floats]]
    value: Callable[[Floats, Any], Any]
    slopes: Callable[[Floats, Floats], Floats]
    names: Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, eq=False)
class LossLaw:
    """The chosen model of one loss.

    `errors` are the root mean square relative errors of every model on held-out mixtures,
    `held_out` (n,) the chosen one's ln(loss) there; `lever` (p, n) moves the coefficients with the
    ln(loss) of the runs.
    """

    model: str
    coef: Floats
    errors: dict[str, float]
    held_out: Floats
    lever: Floats

    def __call__(self, shares: Any) -> Any:
        """ln(loss) (n,) at shares (n, J), which may be complex."""
        return MODELS[self.model].value(self.coef, shares)

    def slopes(self, shares: Floats) -> Floats:
        """d ln(loss) / d coefficient (n, p) at shares (n, J)."""
        return MODELS[self.model].slopes(self.coef, shares)


def _descend(
    value: Callable[[Floats, Any], Any],
    slopes: Callable[[Floats, Floats], Floats],
    runs: tuple[Floats, Floats],
    start: Floats,
    bounds: tuple[Floats, Floats],
    leaning: Floats,
) -> tuple[float, Floats]:
    """Cost and coefficients that fit the runs, shares and ln(loss), and lean to the start."""
    shares, log_loss = runs

    def residual(coef: Floats) -> Floats:
        return np.concatenate([value(coef, shares) - log_loss, leaning * (coef - start)])

    def jacobian(coef: Floats) -> Floats:
        return np.vstack([slopes(coef, shares), np.diag(leaning)])

    solve: Any = least_squares
    robust = {"loss": "soft_l1", "f_scale": TOLERATED}
    found = solve(residual, start, jac=jacobian, bounds=bounds, max_nfev=200, **robust)
    coef: Floats = found.x
    return float(found.cost), coef


def _additive_terms(coef: Floats, shares: Any) -> tuple[Any, Any, Any]:
    """s^gamma (n, J), their sum weighed by C (n,), and the loss (n,)."""
    domains = shares.shape[1]
    powers = np.exp(coef[1 + domains :] * np.log(shares))
    total = powers @ coef[1 : 1 + domains]
    return powers, total, coef[0] + 1 / total


def additive(coef: Floats, shares: Any) -> Any:
    """ln L with L = E + 1 / sum_j C_j s_j^gamma_j: every domain helps, the more slowly the more.

    Source: Shukor et al. 2025, arXiv:2507.09404, the additive law at one size and token count.
    """
    return np.log(_additive_terms(coef, shares)[2])


def _additive_slopes(coef: Floats, shares: Floats) -> Floats:
    powers, total, loss = _additive_terms(coef, shares)
    outer = (-1 / total**2 / loss)[:, None]
    weighed = powers * coef[1 : 1 + shares.shape[1]]
    return np.hstack([1 / loss[:, None], outer * powers, outer * weighed * np.log(shares)])


def _additive_fit(shares: Floats, log_loss: Floats) -> tuple[Floats, Floats]:
    domains, loss = shares.shape[1], np.exp(log_loss)
    ones = np.ones(domains)
    # Half of the loss reducible, by all domains alike.
    scale = float(2 / np.median(loss) / np.median((shares**GAMMA).sum(axis=1)))
    start = np.concatenate([[loss.min() / 2], scale * ones, GAMMA * ones])
    low = np.concatenate([[0.0], 1e-9 * scale * ones, GAMMA_BOUNDS[0] * ones])
    high = np.concatenate([[loss.min()], np.inf * ones, GAMMA_BOUNDS[1] * ones])
    leaning = np.concatenate([[0.0], 0 * ones, LEANING / GAMMA * ones])
    runs = (shares, log_loss)
    return _descend(additive, _additive_slopes, runs, start, (low, high), leaning)[1], leaning


def exponential(coef: Floats, shares: Any) -> Any:
    """ln L with L = c + exp(sum_j t_j s_j); the law's factor k is in every t, as shares sum to 1.

    Source: Ye et al. 2024, arXiv:2403.16952, the mixing law of several domains.
    """
    return np.log(coef[0] + np.exp(shares @ coef[1:]))


def _exponential_slopes(coef: Floats, shares: Floats) -> Floats:
    grown = np.exp(shares @ coef[1:])[:, None]
    return np.hstack([np.ones_like(grown), grown * shares]) / (coef[0] + grown)


def _exponential_fit(shares: Floats, log_loss: Floats) -> tuple[Floats, Floats]:
    loss, none = np.exp(log_loss), np.zeros(1 + shares.shape[1])
    low, high = none - LARGEST_RATE, none + LARGEST_RATE
    low[0], high[0] = 0.0, loss.min()
    found: list[tuple[float, Floats]] = []
    for part in _FLOOR_STARTS:
        floor = part * loss.min()
        rates = np.linalg.pinv(shares) @ np.log(loss - floor)
        start: Floats = np.clip(np.append(floor, rates), low, high)
        runs = (shares, log_loss)
        found.append(_descend(exponential, _exponential_slopes, runs, start, (low, high), none))
    return min(found, key=lambda fitted: fitted[0])[1], none


def ridge(coef: Floats, shares: Any) -> Any:
    """ln L = b + sum_j b_j ln s_j."""
    return coef[0] + np.log(shares) @ coef[1:]


def _ridge_slopes(coef: Floats, shares: Floats) -> Floats:
    return np.hstack([np.ones((len(shares), 1)), np.log(shares)])


def _ridge_fit(shares: Floats, log_loss: Floats) -> tuple[Floats, Floats]:
    """The ridge with the least leave-one-out error, on slopes per standard deviation of ln s."""
    matrix = _ridge_slopes(log_loss, shares)
    spread = np.concatenate([[0.0], matrix[:, 1:].std(axis=0)])
    found: list[tuple[float, Floats, Floats]] = []
    for penalty in np.sqrt(_RIDGES)[:, None] * spread:
        solve = lever(matrix, penalty)
        leverage: Floats = np.sum(matrix * solve.T, axis=1)
        coef = solve @ log_loss
        missed = (log_loss - matrix @ coef) / (1 - leverage)
        found.append((float(missed @ missed), coef, penalty))
    return min(found, key=lambda fitted: fitted[0])[1:]


MODELS = {
    "additive": Model(
        fit=_additive_fit,
        value=additive,
        slopes=_additive_slopes,
        names=lambda domains: ["E", *(f"{c}/{d}" for c in ("C", "gamma") for d in domains)],
    ),
    "exponential": Model(
        fit=_exponential_fit,
        value=exponential,
        slopes=_exponential_slopes,
        names=lambda domains: ["c", *(f"t/{d}" for d in domains)],
    ),
    "ridge": Model(
        fit=_ridge_fit,
        value=ridge,
        slopes=_ridge_slopes,
        names=lambda domains: ["b", *(f"b/{d}" for d in domains)],
    ),
}


def lever(slopes: Floats, penalty: Floats) -> Floats:
    """How penalised least squares moves each coefficient with each run: (p, n) of slopes (n, p)."""
    stacked: Floats = np.vstack([slopes, np.diag(penalty)])
    return np.linalg.pinv(stacked)[:, : len(slopes)].astype(np.float64)


def folds(mixture: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """The fold (n,) of each run of a mixture (n,): replicates of one are held out together."""
    order = np.random.default_rng(seed).permutation(int(mixture.max()) + 1)
    return order[mixture] % FOLDS


def _held_out(
    model: Model, shares: Floats, log_loss: Floats, fold: npt.NDArray[np.int64]
) -> Floats:
    """ln(loss) (n,) of every run by a fit to the other folds."""
    said = np.empty_like(log_loss)
    for out in (fold == k for k in range(FOLDS)):
        coef, _ = model.fit(shares[~out], log_loss[~out])
        said[out] = model.value(coef, shares[out])
    return said


def choose(shares: Floats, log_loss: Floats, fold: npt.NDArray[np.int64]) -> LossLaw:
    """The model that predicts ln(loss) (n,) best on held-out mixtures, fitted to all runs."""
    held_out = {name: _held_out(model, shares, log_loss, fold) for name, model in MODELS.items()}
    errors = {
        name: float(np.sqrt(np.mean((said - log_loss) ** 2))) for name, said in held_out.items()
    }
    name = min(errors, key=lambda name: errors[name])
    coef, penalty = MODELS[name].fit(shares, log_loss)
    slopes = MODELS[name].slopes(coef, shares)
    return LossLaw(name, coef, errors, held_out[name], lever(slopes, penalty))

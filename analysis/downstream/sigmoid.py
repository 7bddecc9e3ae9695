"""Accuracy as a sigmoid of the loss on the right answers, fitted once and to many resamples.

accuracy = floor + (ceiling - floor) / (1 + exp(slope (nll - midpoint))); far above the midpoint
this is floor + k exp(-slope nll), as the error is in Gadre et al. 2024, arXiv:2403.08540.
Legend: n runs, m resamples, f coefficients that are free.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import least_squares
from scipy.special import expit

from analysis.law import Floats

COEFS = ("floor", "ceiling", "slope", "midpoint")
# Starts and bounds of slope x range and of (midpoint - least nll) / range: beyond these the runs
# see a line, a step or an exponential.
STARTS = tuple(product((1.0, 2.0, 4.0, 8.0, 16.0, 32.0), np.linspace(-1.0, 1.2, 12).tolist()))
STARTS_POLISHED = 3
SLOPE_BOUNDS = (0.1, 100.0)
MIDPOINT_BOUNDS = (-3.0, 2.0)
REFIT_STEPS = 12
# Accuracies that lie exactly on a curve still carry rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """`theta` (4,) as COEFS, the slope as its log; `free` of them are fitted, the others given.

    `low` and `high` (4,) bound what was searched; `squares` is the sum of squared residuals.
    """

    theta: Floats
    free: npt.NDArray[np.intp]
    low: Floats
    high: Floats
    squares: float

    def at_bound(self) -> list[str]:
        """Free coefficients that stand at an end of what was searched."""
        near = np.minimum(self.theta - self.low, self.high - self.theta) < 1e-6
        return [COEFS[i] for i in self.free if near[i]]


def natural(theta: Floats) -> Floats:
    """Coefficients (..., 4) with the slope itself."""
    return np.concatenate([theta[..., :2], np.exp(theta[..., 2:3]), theta[..., 3:]], axis=-1)


def value(theta: Floats, nll: Floats) -> Floats:
    """Accuracy (..., n) of coefficients (..., 4) at nll (..., n)."""
    floor, ceiling, log_slope, midpoint = (theta[..., i, None] for i in range(4))
    return floor + (ceiling - floor) * expit(np.exp(log_slope) * (midpoint - nll))


def gradient(theta: Floats, nll: Floats) -> Floats:
    """Derivatives (..., n, 4) of `value`."""
    floor, ceiling, log_slope, midpoint = (theta[..., i, None] for i in range(4))
    slope = np.exp(log_slope)
    share = expit(slope * (midpoint - nll))
    bend = (ceiling - floor) * share * (1 - share) * slope
    return np.stack([1 - share, share, bend * (midpoint - nll), bend], axis=-1)


def _bounds(nll: Floats, accuracy: Floats) -> tuple[Floats, Floats]:
    least, extent, mean = float(nll.min()), float(np.ptp(nll)), float(accuracy.mean())
    slopes = [math.log(bound / extent) for bound in SLOPE_BOUNDS]
    middles = [least + bound * extent for bound in MIDPOINT_BOUNDS]
    low, high = zip((0.0, mean), (mean, 1.0), slopes, middles, strict=True)
    return np.array(low), np.array(high)


def _polish(start: Sigmoid, nll: Floats, accuracy: Floats) -> Sigmoid:
    """The least squares curve that is reached from a start."""
    free, low, high = start.free, start.low[start.free], start.high[start.free]

    def whole(x: Floats) -> Floats:
        theta = start.theta.copy()
        theta[free] = x
        return theta

    def residuals(x: Floats) -> Floats:
        return value(whole(x), nll) - accuracy

    def slopes(x: Floats) -> Floats:
        return gradient(whole(x), nll)[:, free]

    inside = np.clip(start.theta[free], low + 1e-6, high - 1e-6)
    solve: Any = least_squares
    found = solve(residuals, inside, jac=slopes, bounds=(low, high), x_scale="jac")
    return replace(start, theta=whole(found.x), squares=2 * float(found.cost))


def _search(nll: Floats, accuracy: Floats, given: Sequence[float | None]) -> Sigmoid:
    """The best curve from the best of many starts; None in `given` is free."""
    low, high = _bounds(nll, accuracy)
    least, extent = float(nll.min()), float(np.ptp(nll))
    ends = [float(accuracy.min()), 0.1 + 0.9 * float(accuracy.max())]
    floor, ceiling = (b if a is None else a for a, b in zip(given[:2], ends, strict=True))
    starts = np.array(
        [(floor, ceiling, math.log(s / extent), least + m * extent) for s, m in STARTS]
    )
    costs = ((value(starts, nll) - accuracy) ** 2).sum(axis=1)
    free = np.flatnonzero([each is None for each in given])
    near = [
        Sigmoid(starts[i], free, low, high, math.inf) for i in np.argsort(costs)[:STARTS_POLISHED]
    ]
    return min((_polish(start, nll, accuracy) for start in near), key=lambda each: each.squares)


def _earns(more: Sigmoid, fewer: Sigmoid, n: int) -> bool:
    """Whether one more free coefficient is needed: an F test at 5 % against the curve without."""
    dof = n - len(more.free)
    if dof < 1:
        return False
    gain = (fewer.squares - more.squares) / max(more.squares / dof, ROUNDING**2)
    return bool(gain > stats.f.ppf(0.95, 1, dof))


def fit(nll: Floats, accuracy: Floats, chance: float | None) -> Sigmoid:
    """Least squares of the sigmoid to runs (n,), with as many coefficients as they identify.

    The floor is `chance` where that is known. A floor or ceiling that the runs do not show is taken
    as 0 or 1; both are free at first, since either may be seen only beside the other.
    """
    given: list[float | None] = [chance, None, None, None]
    best = _search(nll, accuracy, given)
    while unsure := [i for i in (0, 1) if given[i] is None]:
        fewer = [[float(i) if j == i else each for j, each in enumerate(given)] for i in unsure]
        trials = [_search(nll, accuracy, each) for each in fewer]
        least = min(range(len(trials)), key=lambda i: trials[i].squares)
        if _earns(best, trials[least], len(nll)):
            break
        best, given = trials[least], fewer[least]
    return best


def refit(curve: Sigmoid, nll: Floats, accuracy: Floats) -> Floats:
    """Coefficients (m, 4) of resamples `accuracy` (m, n) of the runs at `nll` (n,) or (m, n).

    Levenberg-Marquardt steps from the fitted curve, all resamples at once: one least_squares a
    resample takes a hundred times as long.
    """
    free = curve.free
    theta = np.repeat(curve.theta[None], len(accuracy), axis=0)
    squares = ((accuracy - value(theta, nll)) ** 2).sum(axis=1)
    damping = np.full(len(accuracy), 1e-3)
    for _ in range(REFIT_STEPS):
        slopes = gradient(theta, nll)[..., free]
        normal = np.einsum("mnf,mng->mfg", slopes, slopes)
        size = np.einsum("mff->mf", normal)
        normal += np.eye(len(free)) * (damping[:, None] * size + 1e-12)[:, None, :]
        right = np.einsum("mnf,mn->mf", slopes, accuracy - value(theta, nll))
        trial = theta.copy()
        trial[:, free] += np.linalg.solve(normal, right[..., None])[..., 0]
        trial = np.where(np.isin(np.arange(4), free), np.clip(trial, curve.low, curve.high), trial)
        found = ((accuracy - value(trial, nll)) ** 2).sum(axis=1)
        better = found < squares
        theta, squares = np.where(better[:, None], trial, theta), np.minimum(found, squares)
        damping = np.where(better, damping / 5, damping * 5)
    return theta

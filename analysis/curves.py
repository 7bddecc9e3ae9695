"""Curves over compute, fitted to many resamples at once: power laws, and a loss with a floor.

Everywhere m is the number of resamples, k of budgets; NaN marks a budget that a resample lacks.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import elementwise

from analysis.law import Diagnostic, Floats, scientific

COEFS = (
    "params_coefficient",
    "params_exponent",
    "tokens_coefficient",
    "tokens_exponent",
    "loss_irreducible",
    "loss_coefficient",
    "loss_exponent",
)
COEFFICIENTS = [0, 2, 5]
BUDGETS_FOR_FLOOR = 4
# The range searched for g in E + K C^-g: published loss exponents in compute are .03 to .3.
EXPONENT_BOUNDS = (1e-3, 2.0)
_GRID: Floats = np.log(np.geomspace(*EXPONENT_BOUNDS, 65))


def power_law(log_c: Floats, log_y: Floats) -> Floats:
    """Least squares of log_y (m, k) on log_c (k,): (m, 2) of log coefficient and exponent.

    A resample with fewer than two budgets gives NaN.
    """
    there = np.isfinite(log_y)
    n = there.sum(axis=1)
    y = np.where(there, log_y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_c = (there * log_c).sum(axis=1) / n
        mean_y = y.sum(axis=1) / n
        dx = there * (log_c - mean_c[:, None])
        exponent = (dx * y).sum(axis=1) / (dx**2).sum(axis=1)
    exponent[n < 2] = np.nan
    return np.stack([mean_y - exponent * mean_c, exponent], axis=1)


def _floor_and_scale(phi: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """E >= 0 and K >= 0 of y = E + K phi by relative least squares, and the sum of squares."""
    there = np.isfinite(y)
    a = np.where(there, 1 / y, 0.0)
    b = a * phi
    aa, ab, bb = (a * a).sum(axis=-1), (a * b).sum(axis=-1), (b * b).sum(axis=-1)
    a1, b1 = a.sum(axis=-1), b.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        floor: Floats = np.maximum((a1 * bb - b1 * ab) / (aa * bb - ab**2), 0.0)
        scale: Floats = (b1 - floor * ab) / bb
        rising = scale < 0
        floor, scale = np.where(rising, a1 / aa, floor), np.where(rising, 0.0, scale)
    residual: Floats = there - floor[..., None] * a - scale[..., None] * b
    return floor, scale, (residual**2).sum(axis=-1)


def loss_curve(log_c: Floats, log_y: Floats) -> Floats:
    """Fit L = E + K C^-g to losses exp(log_y) (m, k): (m, 3) of E, log K and g.

    Relative residuals; E and K are linear for a given g (variable projection), so the search is in
    g alone: a grid, then Chandrupatla's bracketing. E = 0 and the ends of EXPONENT_BOUNDS are
    bounds a caller must look for (`bounds`).
    """
    middle = log_c.mean()
    u, y = log_c - middle, np.exp(log_y)

    def misfit(log_g: Floats, row: npt.NDArray[np.int64]) -> Floats:
        phi = np.exp(-np.exp(log_g)[..., None] * u)
        return _floor_and_scale(phi, y[row])[2]

    rows = np.arange(len(y))
    grid = np.stack([misfit(np.full(len(y), log_g), rows) for log_g in _GRID], axis=1)
    best = np.nanargmin(np.nan_to_num(grid, nan=np.inf), axis=1)
    inside = np.clip(best, 1, len(_GRID) - 2)
    bracket = (_GRID[inside - 1], _GRID[inside], _GRID[inside + 1])
    found: Any = elementwise.find_minimum(misfit, bracket, args=(rows,))
    log_g: Floats = np.where(found.success & (best == inside), found.x, _GRID[best])
    floor, scale, _ = _floor_and_scale(np.exp(-np.exp(log_g)[:, None] * u), y)
    with np.errstate(divide="ignore"):
        log_k = np.log(scale) + np.exp(log_g) * middle
    curve = np.stack([floor, log_k, np.exp(log_g)], axis=1)
    curve[np.isfinite(log_y).sum(axis=1) < 3] = np.nan
    return curve


def compute_laws(budgets: Floats, optima: Floats) -> Floats:
    """Coefficients (m, 7), as COEFS, of optima (m, 3, k): logs of N*, D*, L* at k budgets."""
    log_c = np.log(budgets)
    if len(budgets) >= BUDGETS_FOR_FLOOR:
        loss = loss_curve(log_c, optima[:, 2])
    else:
        line = power_law(log_c, optima[:, 2])
        loss = np.stack([np.zeros(len(line)), line[:, 0], -line[:, 1]], axis=1)
    laws = np.concatenate([power_law(log_c, optima[:, i]) for i in (0, 1)] + [loss], axis=1)
    laws[:, COEFFICIENTS] = np.exp(laws[:, COEFFICIENTS])
    return laws


def evaluate(coef: Floats, budget: float) -> Floats:
    """Logs (m, 3) of params, tokens and loss at a budget, of coefficients (m, 7)."""
    log_c = np.log(budget)
    params, tokens = (np.log(coef[:, i]) + coef[:, i + 1] * log_c for i in (0, 2))
    loss = np.log(coef[:, 4] + coef[:, 5] * np.exp(-coef[:, 6] * log_c))
    return np.stack([params, tokens, loss], axis=1)


def bounds(coef: Floats, n_budgets: int) -> list[Diagnostic]:
    """Which form of L* was fitted, and each coefficient (7,) of it that stands at a bound."""
    floor, scale, exponent = coef[4:]
    if n_budgets < BUDGETS_FOR_FLOOR:
        why = f"{n_budgets} usable budgets: L*(C) = K C^-g; a floor E takes {BUDGETS_FOR_FLOOR}"
        return [Diagnostic("plain_power_law", why)]
    found: list[Diagnostic] = []
    if floor == 0:
        why = "E = 0 fits L*(C) = E + K C^-g best: no irreducible loss is seen in these budgets"
        found.append(Diagnostic("irreducible_at_bound", why))
    if scale == 0:
        found.append(Diagnostic("loss_not_falling", "the best loss does not fall with the budget"))
    elif np.isclose(exponent, EXPONENT_BOUNDS, rtol=1e-6).any():
        low, high = EXPONENT_BOUNDS
        why = f"g = {scientific(exponent)} is at the edge of what is searched, {low:g} to {high:g}"
        found.append(Diagnostic("loss_exponent_at_bound", why))
    return found

"""The loss of an ablation's baseline over compute, and what a difference to it is worth in FLOPs.

Everywhere m is the number of resamples, k of budgets, b of blocks (a baseline run each).
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis import curves
from analysis.law import Floats

# Fewer budgets do not tell the exponent g of E + K C^-g, on which the multiplier's trend depends.
# Published laws with a floor have .154 (Hoffmann et al. 2022, arXiv:2203.15556, eq. 10) and .178
# (Besiroglu et al. 2024, arXiv:2404.10102) along the optimum, as alpha beta / (alpha + beta).
BUDGETS_FOR_EXPONENT = curves.BUDGETS_FOR_FLOOR
ASSUMED_EXPONENT, ASSUMED_RANGE = 0.15, (0.08, 0.22)


@dataclass(frozen=True, eq=False)
class Ladder:
    """The baseline runs: `budgets` (k,) ascending, `place` (b,) of each run among them."""

    budgets: Floats
    place: np.ndarray
    loss: Floats
    blocks: tuple[tuple[float, int | None], ...]

    @property
    def log_c(self) -> Floats:
        return np.log(self.budgets)

    def means(self, loss: Floats) -> Floats:
        """Mean loss (m, k) of runs (m, b) at each budget."""
        here = self.place[:, None] == np.arange(len(self.budgets))
        return loss @ (here / here.sum(axis=0))


@dataclass(frozen=True, eq=False)
class Curve:
    """E + K C^-g of m resamples: `floor`, `log_scale` and `exponent`, each (m,)."""

    floor: Floats
    log_scale: Floats
    exponent: Floats

    def excess(self, log_c: Floats) -> Floats:
        """What the loss is above the floor (m, k)."""
        return np.exp(self.log_scale[:, None] - self.exponent[:, None] * log_c)

    def steepness(self, log_c: Floats) -> Floats:
        """Loss that a factor e of compute takes away (m, k)."""
        return self.exponent[:, None] * self.excess(log_c)

    def log_multiplier(self, log_c: Floats, difference: Floats) -> Floats:
        """ln of the FLOPs, per FLOP spent, at which the curve falls to loss + difference (m, k).

        Below the floor there is no such compute; the slope at the budget serves there.
        """
        left = 1 + difference / self.excess(log_c)
        above = left > 0
        exact = -np.log(np.where(above, left, 1.0)) / self.exponent[:, None]
        return np.where(above, exact, -difference / self.steepness(log_c))

    def difference(self, log_c: Floats, log_multiplier: Floats) -> Floats:
        """The difference in loss that a multiplier makes (m, k): `log_multiplier` turned round."""
        return self.excess(log_c) * np.expm1(-self.exponent[:, None] * log_multiplier)

    def usable(self) -> np.ndarray:
        """Which resamples fall with compute at all (m,)."""
        whole = np.isfinite(self.floor) & np.isfinite(self.log_scale) & np.isfinite(self.exponent)
        return whole & (self.exponent > 0)

    def only(self, rows: np.ndarray) -> "Curve":
        return Curve(self.floor[rows], self.log_scale[rows], self.exponent[rows])


def ladder(baseline: pl.DataFrame) -> Ladder:
    """The baseline runs, rows as of `pairs.one_change`."""
    rows = baseline.sort("budget", maintain_order=True)
    budgets, place = np.unique(rows["budget"].to_numpy(), return_inverse=True)
    return Ladder(budgets, place, rows["loss"].to_numpy(), tuple(rows["budget", "seed"].rows()))


def weighted_fit(columns: Floats, y: Floats, weights: Floats) -> Floats:
    """Weighted least squares of y (m, k) on columns (m, k, p): coefficients (m, p)."""
    weighted = columns * weights[..., None]
    normal: Floats = np.einsum("mki,mkj->mij", weighted, columns)
    moment: Floats = np.einsum("mki,mk->mi", weighted, y)
    return np.linalg.solve(normal, moment[..., None])[..., 0].astype(np.float64)


def fit(log_c: Floats, loss: Floats, exponents: Floats) -> Curve:
    """Fit curves to mean losses (m, k); `exponents` (m,) serve where budgets are too few for g."""
    if loss.shape[1] >= BUDGETS_FOR_EXPONENT:
        floor, log_scale, exponent = curves.loss_curve(log_c, np.log(loss)).T
        return Curve(floor, log_scale, exponent)
    middle = log_c.mean()
    falling = np.exp(-exponents[:, None] * (log_c - middle))
    columns = np.stack([np.ones_like(falling), falling], axis=-1)
    floor, scale = weighted_fit(columns, loss, 1 / loss**2).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return Curve(floor, np.log(scale) + exponents * middle, exponents)


def residuals(runs: Ladder, curve: Curve) -> Floats:
    """What the runs (b,) are off the one curve, freed of the degrees of freedom it took."""
    at_budget = curve.floor[:, None] + curve.excess(runs.log_c)
    off = runs.loss - at_budget[0, runs.place]
    taken = 3 if len(runs.budgets) >= BUDGETS_FOR_EXPONENT else 2
    return off * math.sqrt(len(off) / max(len(off) - taken, 1))

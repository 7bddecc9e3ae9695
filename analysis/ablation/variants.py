"""A variant beside its baseline: ln of its compute multiplier, measured, drawn and extrapolated.

ln m is a straight line in ln C where two laws E + K C^-g differ in K and g alone; where their
floors E differ it goes as C^g. A variant whose floor and exponent are both lower, or both higher,
bends the other way: only runs quiet enough to show the bend tell of it.
Everywhere m is the number of resamples, k of the variant's budgets, n of its pairs, b of blocks of
the baseline, g of budgets asked for.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy import stats

from analysis.ablation import baseline
from analysis.ablation.baseline import Curve, Ladder
from analysis.ablation.effects import DOF_ENOUGH
from analysis.ablation.pairs import Cell
from analysis.law import Floats, quantiles

# The exponents that ln m may grow with where floors differ: published loss exponents in compute.
GROWTH_RANGE = (0.03, 0.3)


@dataclass(frozen=True, eq=False)
class Variant:
    """The pairs of a level: `block` (n,) of each among the baseline's, `place` (n,) of its budget.

    `log_c`, `counts` and `log_m`, each (k,), are of its budgets, `line` (k,) goes through log_m;
    both hold for `curve`, the baseline as measured.
    """

    cell: Cell
    run_ids: tuple[str, ...]
    curve: Curve
    block: np.ndarray
    place: np.ndarray
    difference: Floats
    log_c: Floats
    counts: Floats
    log_m: Floats
    line: Floats

    @property
    def mean(self) -> Floats:
        """Mean difference to the baseline at each budget (k,)."""
        return np.bincount(self.place, self.difference) / self.counts

    def weights(self, curve: Curve) -> Floats:
        """How well each budget tells ln m (m, k): the flatter the baseline, the worse."""
        return self.counts * curve.steepness(self.log_c) ** 2


@dataclass(frozen=True, eq=False)
class Redrawn:
    """Resampled studies: the baseline's curve in each, and the noise (m, b) of a pair in a block.

    `refused` counts the resamples whose baseline does not fall with compute.
    """

    curve: Curve
    noise: Floats
    refused: int


@dataclass(frozen=True, eq=False)
class Shape:
    """ln m by one shape at some budgets: the value (g,), its draws (m, g), and its coefficients."""

    value: Floats
    draws: Floats
    coef: Floats
    drawn_coef: Floats


def _columns(shape: str, x: Floats, curve: Curve) -> Floats:
    """The columns (m, g, p) of a shape at x = ln C - middle (g,)."""
    growth = np.exp(np.clip(curve.exponent, *GROWTH_RANGE)[:, None] * x)
    line = np.broadcast_to(x, growth.shape)
    parts = {"line": (line,), "floor": (growth,), "both": (line, growth)}[shape]
    return np.stack([np.ones_like(growth), *parts], axis=-1)


def _coef(shape: str, v: Variant, curve: Curve, log_m: Floats) -> Floats:
    columns = _columns(shape, v.log_c - v.log_c.mean(), curve)
    return baseline.weighted_fit(columns, log_m, v.weights(curve))


def _at(shape: str, v: Variant, curve: Curve, coef: Floats, log_c: Floats) -> Floats:
    columns = _columns(shape, log_c - v.log_c.mean(), curve)
    return (columns * coef[:, None, :]).sum(axis=-1)


def variant(cell: Cell, pairs: pl.DataFrame, runs: Ladder, curve: Curve) -> Variant:
    """The pairs of a level (one at least), rows as of `pairs.paired`, and the line through them."""
    blocks = {block: i for i, block in enumerate(runs.blocks)}
    rows = pairs.sort("budget", maintain_order=True)
    budgets, place, counts = np.unique(
        rows["budget"].to_numpy(), return_inverse=True, return_counts=True
    )
    bare = Variant(
        cell=cell,
        run_ids=tuple(rows["run_id"].to_list()),
        curve=curve,
        block=np.array([blocks[block] for block in rows["budget", "seed"].rows()]),
        place=place,
        difference=rows["difference"].to_numpy(),
        log_c=np.log(budgets),
        counts=counts.astype(np.float64),
        log_m=np.zeros(len(budgets)),
        line=np.zeros(len(budgets)),
    )
    log_m = curve.log_multiplier(bare.log_c, bare.mean[None])
    if len(budgets) < 2:
        return replace(bare, log_m=log_m[0], line=log_m[0])
    line = _at("line", bare, curve, _coef("line", bare, curve, log_m), bare.log_c)
    return replace(bare, log_m=log_m[0], line=line[0])


def _off_means(v: Variant) -> tuple[Floats, Floats]:
    """What each pair is off the mean of its budget, in nats, and the share the mean left free."""
    return v.difference - v.mean[v.place], 1 - 1 / v.counts[v.place]


def _off_line(v: Variant) -> tuple[Floats, Floats]:
    """What each pair is off the line, in nats, and the share of it that the line left free."""
    weights = v.weights(v.curve)[0]
    x = v.log_c - np.average(v.log_c, weights=weights)
    spread = float(weights @ x**2) or math.inf
    leverage = (weights / weights.sum() + weights * x**2 / spread) / v.counts
    off = v.difference - v.curve.difference(v.log_c, v.line[None])[0, v.place]
    return off, 1 - leverage[v.place]


def _noise(variants: Sequence[Variant]) -> tuple[Floats, np.ndarray] | None:
    """The noise of a pair's difference, pooled, and the block that each piece of it comes from.

    Replicates tell it where they leave degrees of freedom enough, else the scatter about the lines;
    stretched by Student's t over the normal, for it is an estimate. None where nothing is free.
    """
    replicates = sum(len(v.place) - len(v.log_c) for v in variants)
    dof = sum(len(v.place) - min(len(v.log_c), 2) for v in variants)
    if dof < 1:
        return None
    off = _off_line
    if replicates >= DOF_ENOUGH:
        off, dof = _off_means, replicates
    parts, free = (np.concatenate(x) for x in zip(*(off(v) for v in variants), strict=True))
    # What a fit must go through says nothing of the noise.
    telling = free > 1e-9
    stretch = float(stats.t.ppf(0.975, dof) / stats.norm.ppf(0.975))
    blocks = np.concatenate([v.block for v in variants])
    return stretch * parts[telling] / np.sqrt(free[telling]), blocks[telling]


def redrawn(runs: Ladder, variants: Sequence[Variant], draws: int, seed: int) -> Redrawn | None:
    """Bootstrap over pairs: a pair lends its difference's noise together with its baseline's.

    None where no pair is left over to tell the noise.
    """
    pool = _noise(variants)
    if pool is None:
        return None
    noise, blocks = pool
    curve = variants[0].curve
    rng = np.random.default_rng(seed)
    shape = (draws, len(runs.loss))
    lender, sign = rng.integers(0, len(noise), size=shape), rng.choice([-1.0, 1.0], size=shape)
    smooth = (curve.floor[:, None] + curve.excess(runs.log_c))[0, runs.place]
    means = runs.means(smooth + sign * baseline.residuals(runs, curve)[blocks][lender])
    exponents = rng.uniform(*baseline.ASSUMED_RANGE, size=draws)
    drawn = baseline.fit(runs.log_c, means, exponents)
    good = drawn.usable()
    return Redrawn(drawn.only(good), (sign * noise[lender])[good], int((~good).sum()))


def drawn_log_m(v: Variant, studies: Redrawn) -> Floats:
    """ln m (m, k) of the resampled studies, whose pairs scatter about the line."""
    here = v.place[:, None] == np.arange(len(v.log_c))
    noise = studies.noise[:, v.block] @ (here / v.counts)
    difference = v.curve.difference(v.log_c, v.line[None]) + noise
    return studies.curve.log_multiplier(v.log_c, difference)


def _shape(name: str, v: Variant, studies: Redrawn, drawn: Floats, log_c: Floats) -> Shape:
    coef = _coef(name, v, v.curve, v.log_m[None])
    value = _at(name, v, v.curve, coef, log_c)[0]
    drawn_coef = _coef(name, v, studies.curve, drawn)
    draws = _at(name, v, studies.curve, drawn_coef, log_c)
    return Shape(value, value + draws - np.median(draws, axis=0), coef[0], drawn_coef)


def shapes(v: Variant, studies: Redrawn, log_c: Floats, level: float) -> dict[str, Shape]:
    """ln m at budgets by each shape that the pairs allow, of two budgets at least.

    The line, and the growth that another floor makes; both at once too, where the pairs bend more
    than noise about a line bends them.
    """
    drawn = drawn_log_m(v, studies)
    found = {name: _shape(name, v, studies, drawn, log_c) for name in ("line", "floor")}
    if len(v.log_c) > 2:
        both = _shape("both", v, studies, drawn, log_c)
        low, high = quantiles(both.drawn_coef[:, 2], level)
        if not low <= both.coef[2] <= high:
            found["both"] = both
    return found

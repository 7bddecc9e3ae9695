"""What each level of an axis does to the loss: effects paired by seed and budget."""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from analysis.ablation.pairs import Cell, cells_of, lost_pairs, of_cell, paired
from analysis.law import Diagnostic, Floats

Verdict = Literal["better", "worse", "no difference seen", "not tested"]

# From here on Student's t is within twice the normal at 97.5 %: a noise that can be worked with.
DOF_ENOUGH = 3


@dataclass(frozen=True)
class AtBudget:
    """The mean difference to the baseline over the `n` pairs of one budget."""

    budget: float
    difference: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Effect:
    """Loss of a level minus that of the baseline, over `n` pairs of one seed and one budget.

    `noise` is the standard deviation of a single run, pooled over every level; `p` is corrected
    after Holm over all levels. `trend` is what a decade of budget adds to the difference, `trend_p`
    corrected over all trends. What cannot be had from the runs is None, and the verdict says so.
    """

    axis: str
    level: str
    difference: float | None
    low: float | None
    high: float | None
    noise: float | None
    p: float | None
    n: int
    verdict: Verdict
    run_ids: tuple[str, ...]
    budgets: tuple[AtBudget, ...] = ()
    trend: float | None = None
    trend_p: float | None = None
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run, from `dof` degrees of freedom."""

    deviation: float
    dof: int

    def p_value(self, difference: float, weight: float) -> float:
        """Two-sided p of a difference with error deviation x weight."""
        error = self.deviation * weight
        if error == 0:  # Where nothing scatters, any difference is one.
            return 1.0 if difference == 0 else 0.0
        return float(2 * stats.t.sf(abs(difference) / error, self.dof))

    def half_width(self, weight: float, level: float) -> float:
        return float(stats.t.ppf((1 + level) / 2, self.dof)) * self.deviation * weight


def holm(p_values: Sequence[float]) -> list[float]:
    """Family-wise corrected p values, in the order given.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = worst
    return corrected


def _one_hot(frame: pl.DataFrame, columns: Sequence[str]) -> Floats:
    """A column of zeros and ones for each different row of `columns`."""
    rows = frame.select(columns).rows()
    places = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    return np.eye(len(places))[[places[row] for row in rows]]


def _scatter(matrix: Floats, loss: Floats) -> Noise | None:
    """What least squares leave of the loss."""
    solution = np.linalg.lstsq(matrix, loss, rcond=None)
    dof = len(loss) - int(solution[2])
    if dof < 1:
        return None
    residual = loss - matrix @ solution[0]
    return Noise(math.sqrt(float(residual @ residual) / dof), dof)


def _noise(pairs: pl.DataFrame) -> Noise | None:
    """The noise of one run, from the residuals of loss = level + block by least squares.

    Blocks (seed and budget) are shared by all levels and the baseline, so what a seed does to all
    of them is not taken for noise. A level has an effect of its own at every budget where
    replicates leave degrees of freedom enough, else a trend over log budget, else one effect.
    """
    if pairs.is_empty():
        return None
    base = pairs.unique(["budget", "seed"], keep="first", maintain_order=True)
    base = base.with_columns(pl.lit(None, pl.String).alias("axis"), pl.col("base").alias("loss"))
    rows = pl.concat([base, pairs])
    block = _one_hot(rows, ["budget", "seed"])
    cell = _one_hot(rows, ["axis", "level"]) * rows["axis"].is_not_null().to_numpy()[:, None]
    log_budget = np.log10(rows["budget"].to_numpy())
    centered = (log_budget - log_budget.mean())[:, None]
    budget = _one_hot(rows, ["budget"])
    at_each: Floats = (cell[:, :, None] * budget[:, None, :]).reshape(len(rows), -1)
    models = (at_each, np.hstack([cell, cell * centered]), cell)
    loss = rows["loss"].to_numpy()
    found = [noise for model in models if (noise := _scatter(np.hstack([model, block]), loss))]
    return max(found, key=lambda noise: min(noise.dof, DOF_ENOUGH), default=None)


def _measured(frame: pl.DataFrame, cell: Cell, pairs: pl.DataFrame) -> Effect:
    """What is known before any noise is: mean differences, their trend, and the runs."""
    lost = lost_pairs(frame, cell, len(pairs))
    runs = tuple(pairs["run_id"].to_list())
    effect = Effect(
        *cell, None, None, None, None, None, len(pairs), "not tested", runs, diagnostics=lost
    )
    if pairs.is_empty():
        return effect
    difference = pairs["difference"].to_numpy()
    budgets = tuple(
        AtBudget(float(budget), float(rows["difference"].to_numpy().mean()), None, None, len(rows))
        for (budget,), rows in pairs.sort("budget").group_by("budget", maintain_order=True)
    )
    effect = replace(effect, difference=float(difference.mean()), budgets=budgets)
    if len(budgets) < 2:
        return effect
    x = _decades(effect)
    at_each = np.array([b.difference * b.n for b in budgets])
    counts = np.array([b.n for b in budgets])
    return replace(effect, trend=float(x @ at_each / (counts @ x**2)))


def _decades(effect: Effect) -> Floats:
    """Decades of each budget from the middle of the pairs."""
    x = np.log10([at.budget for at in effect.budgets])
    return x - np.average(x, weights=[at.n for at in effect.budgets])


def _pair_weight(effect: Effect) -> float:
    """Error of the mean difference per unit of noise."""
    return math.sqrt(2 / effect.n)


def _trend_weight(effect: Effect) -> float:
    """Error of the trend per unit of noise."""
    counts = np.array([at.n for at in effect.budgets])
    return math.sqrt(2 / float(counts @ _decades(effect) ** 2))


def judged(effect: Effect, noise: Noise, weight: float, p: float, level: float) -> Effect:
    """The effect with interval and verdict, where its error is noise x weight and p corrected."""
    assert effect.difference is not None
    half = noise.half_width(weight, level)
    sign: Verdict = "better" if effect.difference < 0 else "worse"
    return replace(
        effect,
        low=effect.difference - half,
        high=effect.difference + half,
        noise=noise.deviation,
        p=p,
        verdict=sign if p < 1 - level else "no difference seen",
    )


def _at_each_budget(effect: Effect, noise: Noise, level: float) -> Effect:
    rows: list[AtBudget] = []
    for at in effect.budgets:
        half = noise.half_width(math.sqrt(2 / at.n), level)
        rows.append(replace(at, low=at.difference - half, high=at.difference + half))
    return replace(effect, budgets=tuple(rows))


def _with_trend(effect: Effect, p: float, level: float) -> Effect:
    if p >= 1 - level:
        return replace(effect, trend_p=p)
    why = (
        f"{effect.axis} = {effect.level}: a decade of budget adds {effect.trend:+.4f} to the "
        f"difference (p = {p:.2g}); the pooled one holds for the budgets tried, not beyond"
    )
    found = (*effect.diagnostics, Diagnostic("effect_changes_with_budget", why))
    return replace(effect, trend_p=p, diagnostics=found)


def effects(frame: pl.DataFrame, *, level: float = 0.95) -> list[Effect]:
    """Every level of every axis against the baseline, in the order of the rows.

    Columns: axis, level, baseline (bool), budget, seed, loss (null where a run failed), run_id. All
    baseline rows are one configuration, whichever axis they stand under. A run has a row for every
    axis that a design varies; runs that change several axes are for `factorial.interactions`. A
    level without a pair, or runs without a replicate to tell noise by, are "not tested".
    """
    pairs = paired(frame)
    found = [_measured(frame, cell, of_cell(pairs, cell)) for cell in cells_of(frame)]
    noise = _noise(pairs)
    if noise is None:
        return found
    tested = {i: e.difference for i, e in enumerate(found) if e.difference is not None}
    p_values = [noise.p_value(d, _pair_weight(found[i])) for i, d in tested.items()]
    for i, p in zip(tested, holm(p_values), strict=True):
        found[i] = judged(found[i], noise, _pair_weight(found[i]), p, level)
        found[i] = _at_each_budget(found[i], noise, level)
    trends = {i: e.trend for i, e in enumerate(found) if e.trend is not None}
    p_values = [noise.p_value(slope, _trend_weight(found[i])) for i, slope in trends.items()]
    for i, p in zip(trends, holm(p_values), strict=True):
        found[i] = _with_trend(found[i], p, level)
    return found

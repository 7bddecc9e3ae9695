"""The compute multiplier of a variant: whose FLOPs buy more, at each budget and at the target.

m(C) is how many times C the baseline must spend to reach the variant's loss at C: above 1 the
variant is worth having. An interval spans every shape that `variants` knows of ln m over ln C, for
the runs of a ladder hardly ever tell them apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from analysis.ablation import baseline
from analysis.ablation.baseline import Curve, Ladder
from analysis.ablation.pairs import cells_of, lost_pairs, of_cell, one_change, paired
from analysis.ablation.variants import (
    Redrawn,
    Shape,
    Variant,
    drawn_log_m,
    redrawn,
    shapes,
)
from analysis.ablation.variants import variant as variant_of
from analysis.law import Diagnostic, Floats, quantiles, scientific

Verdict = Literal[
    "better throughout",
    "wins small, expected to lose at the target",
    "wins small, open at the target",
    "worse throughout",
    "loses small, expected to win at the target",
    "loses small, open at the target",
    "gains with scale",
    "loses with scale",
    "too close to call",
    "trend not identified",
    "not tested",
]
# Where the smallest budget stands, by the interval; what is expected at the target.
VERDICTS: dict[tuple[str, str], Verdict] = {
    ("wins", "wins"): "better throughout",
    ("wins", "loses"): "wins small, expected to lose at the target",
    ("wins", "open"): "wins small, open at the target",
    ("loses", "loses"): "worse throughout",
    ("loses", "wins"): "loses small, expected to win at the target",
    ("loses", "open"): "loses small, open at the target",
    ("level", "wins"): "gains with scale",
    ("level", "loses"): "loses with scale",
    ("level", "open"): "too close to call",
}
# The probability from which on a gain or a loss at the target is expected.
EXPECTED = 0.95
CURVE_POINTS = 41
LARGEST_LOG = 690.0  # exp of much more leaves the floats


@dataclass(frozen=True)
class MultiplierAt:
    """The multiplier at a budget, from its own `n` pairs, or by the law where n is 0."""

    budget: float
    multiplier: float
    low: float | None
    high: float | None
    n: int = 0


@dataclass(frozen=True)
class Multiplier:
    """What the FLOPs of a level are worth in those of the baseline: ln m = intercept + slope ln C.

    `curve` is the law from the smallest budget to the target, or to the largest budget if that is
    above it. `p_better` is the probability of m > 1 at the target; `crossover`, of a level whose
    verdict turns, is the budget where the line passes m = 1. What the runs cannot tell is None.
    """

    axis: str
    level: str
    n: int = 0
    run_ids: tuple[str, ...] = ()
    measured: tuple[MultiplierAt, ...] = ()
    curve: tuple[MultiplierAt, ...] = ()
    target: MultiplierAt | None = None
    intercept: float | None = None
    slope: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    p_better: float | None = None
    crossover: float | None = None
    verdict: Verdict = "not tested"
    diagnostics: tuple[Diagnostic, ...] = ()

    def doubted(self, name: str, detail: str) -> "Multiplier":
        why = Diagnostic(name, f"{self.axis} = {self.level}: {detail}")
        return replace(self, diagnostics=(*self.diagnostics, why))


def _exp(log_value: float) -> float:
    return math.exp(min(max(log_value, -LARGEST_LOG), LARGEST_LOG))


def _curve_of(runs: Ladder) -> Curve | Diagnostic:
    """The baseline's law, or why it has none."""
    budgets = ", ".join(scientific(budget) for budget in runs.budgets) or "no budget"
    if len(runs.budgets) < 2:
        why = (
            f"finished baseline runs at {budgets}; two budgets are needed to price a loss in FLOPs"
        )
        return Diagnostic("baseline_at_one_budget", why)
    if (runs.loss <= 0).any():
        return Diagnostic("baseline_not_positive", "a multiplier needs losses above zero")
    means = runs.means(runs.loss[None])
    curve = baseline.fit(runs.log_c, means, np.array([baseline.ASSUMED_EXPONENT]))
    if not curve.usable()[0]:
        why = f"the baseline's loss does not fall with compute over {budgets} FLOPs"
        return Diagnostic("baseline_not_falling", why)
    return curve


def _measured(v: Variant, studies: Redrawn | None, level: float) -> tuple[MultiplierAt, ...]:
    """ln m of each budget by its own pairs."""
    log_m = np.stack([v.log_m, v.log_m])
    if studies:
        drawn = drawn_log_m(v, studies)
        log_m += quantiles(drawn - np.median(drawn, axis=0), level)
    rows: list[MultiplierAt] = []
    for i, log_c in enumerate(v.log_c):
        low, high = (_exp(float(end)) for end in log_m[:, i])
        at = MultiplierAt(math.exp(log_c), _exp(float(v.log_m[i])), None, None, int(v.counts[i]))
        rows.append(replace(at, low=low, high=high) if studies else at)
    return tuple(rows)


def _bare(v: Variant, runs: Ladder, studies: Redrawn | None, level: float) -> Multiplier:
    """What the budgets say one by one, with the doubts that hold for all of them."""
    axis, name = v.cell
    found = Multiplier(axis, name, len(v.place), v.run_ids, _measured(v, studies, level))
    below = v.log_c[v.mean <= -v.curve.excess(v.log_c)[0]]
    if len(below):
        budgets = ", ".join(scientific(math.exp(log_c)) for log_c in below)
        why = f"its loss at {budgets} FLOPs is below the baseline's irreducible loss"
        found = found.doubted(
            "below_irreducible",
            f"{why}, {v.curve.floor[0]:.4f}: no compute takes the baseline there; the multiplier "
            "goes by the slope of the baseline's law at the budget",
        )
    if len(runs.budgets) < baseline.BUDGETS_FOR_EXPONENT:
        low, high = baseline.ASSUMED_RANGE
        found = found.doubted(
            "baseline_exponent_assumed",
            f"{len(runs.budgets)} baseline budgets do not tell the g of E + K C^-g: it is taken "
            f"as {baseline.ASSUMED_EXPONENT:g}, and from {low:g} to {high:g} in the interval",
        )
    if studies and studies.refused:
        why = f"in {studies.refused} resamples the baseline's loss does not fall with compute"
        found = found.doubted("draws_refused", why)
    return found


def _hull(found: Sequence[Shape], level: float) -> tuple[Floats, Floats]:
    """Ends of the interval of ln m at each budget that spans every shape's own."""
    ends = np.stack([quantiles(shape.draws, level) for shape in found])
    return ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)


def _verdict(low: float, high: float, p_better: float) -> Verdict:
    """In words, from the interval of ln m at the smallest budget and P(m > 1) at the target."""
    small = "wins" if low > 0 else "loses" if high < 0 else "level"
    certain = max(p_better, 1 - p_better) >= EXPECTED
    far = ("wins" if p_better > 0.5 else "loses") if certain else "open"
    return VERDICTS[small, far]


def _crossover(log_c: Floats, log_m: Floats) -> float | None:
    """The budget at which a line through both ends passes zero, between them."""
    ends = log_m[[0, -1]]
    if ends[0] * ends[1] >= 0:
        return None
    return math.exp(float(np.interp(0.0, np.sort(ends), log_c[[0, -1]][np.argsort(ends)])))


def _trend(
    bare: Multiplier, v: Variant, studies: Redrawn, target: float, level: float
) -> Multiplier:
    """The law of ln m over ln C and what it says of the target."""
    log_target = math.log(target)
    end = max(log_target, float(v.log_c[-1]))
    grid = np.linspace(float(v.log_c[0]), end, CURVE_POINTS)
    log_c: Floats = np.concatenate([grid, [log_target]])
    found = shapes(v, studies, log_c, level)
    low, high = _hull(tuple(found.values()), level)
    line = found["line"]
    curve = tuple(
        MultiplierAt(_exp(at), _exp(value), _exp(bottom), _exp(top))
        for at, value, bottom, top in np.stack([log_c, line.value, low, high], axis=1).tolist()
    )
    slopes = line.drawn_coef[:, 1]
    slope_low, slope_high = line.coef[1] + quantiles(slopes - np.median(slopes), level)
    p_better = float(np.mean([(shape.draws[:, -1] > 0).mean() for shape in found.values()]))
    verdict = _verdict(float(low[0]), float(high[0]), p_better)
    turns = verdict in (VERDICTS["wins", "loses"], VERDICTS["loses", "wins"])
    said = replace(
        bare,
        curve=curve[:-1],
        target=replace(curve[-1], budget=target),
        intercept=float(line.coef[0] - line.coef[1] * v.log_c.mean()),
        slope=float(line.coef[1]),
        slope_low=float(slope_low),
        slope_high=float(slope_high),
        p_better=p_better,
        crossover=_crossover(log_c[[0, -1]], line.value[[0, -1]]) if turns else None,
        verdict=verdict,
    )
    if "both" in found:
        why = "ln m bends over ln C by more than noise about a line; the interval spans the bend"
        return said.doubted("multiplier_bends", why)
    if len(v.log_c) == 2:
        return said.doubted("trend_unchecked", "two budgets cannot show a bend in ln m over ln C")
    return said


def _judged(
    v: Variant, runs: Ladder, studies: Redrawn | None, target: float, level: float
) -> Multiplier:
    bare = _bare(v, runs, studies, level)
    if len(v.log_c) > 1 and studies:
        return _trend(bare, v, studies, target, level)
    why = "pairs at one budget" if len(v.log_c) < 2 else "two budgets without replicates"
    return replace(bare, verdict="trend not identified").doubted(
        "trend_unidentified",
        f"{why} carry nothing to the target; add seeds, or budgets up to three and more",
    )


def multipliers(
    frame: pl.DataFrame, target: float, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> list[Multiplier]:
    """The compute multiplier of every level of every axis, over budgets and at `target` FLOPs.

    Rows as of `ablation.effects`. A level without a pair, or a baseline without a falling loss over
    two budgets or more, is "not tested". Raises ValueError for a target that is no positive number.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target={target:g} is no budget; give FLOPs above zero, such as 1e21")
    runs = baseline.ladder(one_change(frame)[0])
    pairs, cells = paired(frame), cells_of(frame)
    curve = _curve_of(runs)
    variants = [
        variant_of(cell, rows, runs, curve)
        for cell in cells
        if isinstance(curve, Curve) and len(rows := of_cell(pairs, cell))
    ]
    studies = redrawn(runs, variants, draws, seed)
    judged = {v.cell: _judged(v, runs, studies, target, level) for v in variants}
    found: list[Multiplier] = []
    for cell in cells:
        one = judged.get(cell) or Multiplier(*cell)
        lost = lost_pairs(frame, cell, len(of_cell(pairs, cell)))
        whole = (curve,) if isinstance(curve, Diagnostic) else ()
        found.append(replace(one, diagnostics=(*whole, *lost, *one.diagnostics)))
    return found

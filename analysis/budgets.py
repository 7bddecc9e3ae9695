"""Budgets that a file of runs does not name, found as the rungs that its FLOPs crowd about.

A rung is told from chance in one of two ways. Where a file is a ladder and nothing else, the gaps
between its rungs are wider than any rung is. Where runs of a ladder stand among others, a rung is a
stretch of log FLOPs that is denser than what lies about it, by Bayesian blocks.
Source: Scargle et al. 2013, arXiv:1207.5578, eq. 19 (fitness), 21 (prior) and sec. 2.6 (search).
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.law import Floats

# A parabola and its noise need four sizes.
SIZES_NEEDED = 4
# Ladders step by a factor of 2 or more; runs of one budget differ by the rounding of shapes.
WIDEST = math.log(1.5)
# Among other runs, those within a tenth of a rung's centre are taken for its own.
NEAR = math.log(1.1)
# FLOPs nearer than half a percent are not told apart.
RESOLUTION = 0.005
# Chance that scattered runs show one crowd somewhere. Three crowds make a ladder, and of a ladder
# a further rung is as likely as not.
FALSE_ALARM, FALSE_ALARM_IN_LADDER = 0.05, 0.5
RUNGS_OF_LADDER = 3
# Share of the runs that a file which is a ladder and nothing else has on its rungs.
ON_RUNGS = 0.8


@dataclass(frozen=True)
class Rung:
    """A stretch of ln FLOPs and the middle of the runs that mark it."""

    low: float
    high: float
    centre: float


def group(flops: Floats, sizes: Floats) -> Floats:
    """The budget of each run, the median FLOPs of its rung; NaN for a run that stands on none.

    `flops` and `sizes` are (n,), sizes in any unit. A rung has at least SIZES_NEEDED of them.
    """
    runs = pl.DataFrame({"flops": flops, "size": sizes})
    sound = pl.all_horizontal(pl.all().is_finite() & (pl.all() > 0))
    # Replicates of a run show that it was repeated, not that its FLOPs were meant.
    cells = runs.filter(sound).unique().sort("flops")
    budget = np.full(len(flops), np.nan)
    if cells.is_empty():
        return budget
    x, size = cells["flops"].log().to_numpy(), cells["size"].to_numpy()
    rungs = _separate(x, size) or _crowded(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        nearest = _nearest(np.log(flops), rungs)
    for number in range(len(rungs)):
        mine = nearest == number
        if len(np.unique(sizes[mine])) >= SIZES_NEEDED:
            budget[mine] = np.median(flops[mine])
    return budget


def _nearest(x: Floats, rungs: list[Rung]) -> np.ndarray:
    """The number of the rung that each run stands on, -1 for none."""
    found = np.full(len(x), -1)
    distance = np.full(len(x), np.inf)
    for number, rung in enumerate(rungs):
        away = np.abs(x - rung.centre)
        mine = (x >= rung.low) & (x <= rung.high) & (away < distance)
        found[mine], distance[mine] = number, away[mine]
    return found


def _separate(x: Floats, size: Floats) -> list[Rung]:
    """The rungs of a file that is a ladder and nothing else: none wider than a gap between two.

    Of the cuts at which that holds the coarsest is taken; x ascends.
    """
    gaps = np.diff(x)
    for gap in [math.inf, *np.unique(gaps[gaps > RESOLUTION])[::-1].tolist()]:
        cuts = np.flatnonzero(gaps >= gap) + 1
        first, last = np.append(x[0], x[cuts]), np.append(x[cuts - 1], x[-1])
        if np.max(last - first) <= min(gap, WIDEST):
            break
    else:
        return []
    parts = list(zip(np.split(x, cuts), np.split(size, cuts), strict=True))
    rungs = [part for part, sizes in parts if len(np.unique(sizes)) >= SIZES_NEEDED]
    if sum(map(len, rungs)) < ON_RUNGS * len(x):
        return []
    # A hair wider, so that no rounding of a logarithm leaves the outermost runs out.
    ends = [(float(r[0]) - RESOLUTION / 2, float(r[-1]) + RESOLUTION / 2) for r in rungs]
    return [Rung(*end, float(np.median(r))) for end, r in zip(ends, rungs, strict=True)]


def _crowded(x: Floats) -> list[Rung]:
    """The rungs of a ladder among scattered runs, or none where there is no ladder."""
    if len(_crowds(x, FALSE_ALARM)) < RUNGS_OF_LADDER:
        return []
    return _crowds(x, FALSE_ALARM_IN_LADDER)


def _crowds(x: Floats, false_alarm: float) -> list[Rung]:
    """Blocks denser than both their neighbours and narrow enough for one budget."""
    edges, counts = _blocks(x, false_alarm)
    width = np.diff(edges)
    density = np.pad(counts / width, 1)
    peak = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:]) & (width <= WIDEST)
    rungs: list[Rung] = []
    # The fuller of two crowds too near to be two budgets stands for both.
    for block in sorted(np.flatnonzero(peak), key=lambda block: -counts[block]):
        low, high = edges[block : block + 2]
        centre = float(np.median(x[(x >= low) & (x < high)]))
        if all(abs(centre - rung.centre) > 2 * NEAR for rung in rungs):
            rungs.append(Rung(min(low, centre - NEAR), max(high, centre + NEAR), centre))
    return rungs


def _blocks(x: Floats, false_alarm: float) -> tuple[Floats, Floats]:
    """Edges (b + 1,) and counts (b,) of the likeliest stretches of constant density."""
    start = x.min() - RESOLUTION / 2
    bins, filled = np.unique(np.floor((x - start) / RESOLUTION), return_counts=True)
    places = np.unique([bins, bins + 1])
    edges = start + RESOLUTION * places
    cumulated = np.zeros(len(places))
    cumulated[np.searchsorted(places, bins) + 1] = filled
    cumulated = np.cumsum(cumulated)
    prior = 4 - math.log(73.53 * false_alarm * len(x) ** -0.478)
    best, last = np.zeros(len(edges)), np.zeros(len(edges), dtype=int)
    for end in range(1, len(edges)):
        n, width = cumulated[end] - cumulated[:end], edges[end] - edges[:end]
        score = best[:end] + n * np.log(np.maximum(n, 1) / width) - prior
        last[end] = np.argmax(score)
        best[end] = score[last[end]]
    cuts = [len(edges) - 1]
    while cuts[-1]:
        cuts.append(int(last[cuts[-1]]))
    cuts.reverse()
    return edges[cuts], np.diff(cumulated[cuts])

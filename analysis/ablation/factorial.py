"""Axes varied together: main effects, and what two changes do beyond the sum of both.

Source: the two-way layout in blocks, Montgomery, "Design and Analysis of Experiments".
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.ablation.effects import Effect, Noise, holm, judged
from analysis.ablation.pairs import Cell, cells_of, settings
from analysis.law import Diagnostic, Floats

Block = tuple[float, int | None]
Term = tuple[Cell, ...]  # one cell: a main effect; two: their interaction


@dataclass(frozen=True)
class Run:
    """A run: its block, the cells in which it differs from the baseline, its loss if it has one."""

    run_id: str
    block: Block
    changes: frozenset[Cell]
    loss: float | None

    def carries(self, term: Term) -> bool:
        return self.changes.issuperset(term)


@dataclass(frozen=True, eq=False)
class Layout:
    """Least squares of loss = block + cells + pairs of cells.

    `coef` are those of the terms, in their order; `covariance` is per unit of noise squared; the
    rows of `seen` span what the runs can tell of the terms.
    """

    terms: tuple[Term, ...]
    coef: Floats
    covariance: Floats
    seen: Floats
    noise: Noise | None


def _runs(frame: pl.DataFrame) -> list[Run]:
    changed = pl.struct("axis", "level").filter(~pl.col("baseline")).alias("changes")
    keys = ["run_id", "budget", "seed"]
    runs = settings(frame).group_by(keys, maintain_order=True).agg(changed, pl.col("loss").first())
    return [
        Run(run_id, (budget, seed), frozenset((c["axis"], c["level"]) for c in changes), loss)
        for run_id, budget, seed, changes, loss in runs.iter_rows()
    ]


def _terms(frame: pl.DataFrame, runs: list[Run]) -> list[Term]:
    """Every cell, then every pair of cells of two axes that some run changes together."""
    axes = frame["axis"].unique(maintain_order=True).to_list()
    cells = sorted(cells_of(frame), key=lambda cell: axes.index(cell[0]))
    together = {frozenset(axis for axis, _ in run.changes) for run in runs}
    crossed = {frozenset(two) for some in together for two in itertools.combinations(some, 2)}
    pairs = [
        (a, b)
        for a, b in itertools.combinations(cells, 2)
        if a[0] != b[0] and frozenset((a[0], b[0])) in crossed
    ]
    return [(cell,) for cell in cells] + pairs


def _layout(terms: list[Term], runs: list[Run]) -> Layout:
    """The fit by the pseudo-inverse: a term without runs takes nothing from the others."""
    blocks = list(dict.fromkeys(run.block for run in runs))
    matrix = np.zeros((len(runs), len(terms) + len(blocks)))
    for row, run in zip(matrix, runs, strict=True):
        row[: len(terms)] = [run.carries(term) for term in terms]
        row[len(terms) + blocks.index(run.block)] = 1
    loss = np.array([run.loss for run in runs])
    left, size, right = np.linalg.svd(matrix, full_matrices=False)
    rank = int((size > 1e-10 * size[0]).sum())
    left, size, right = left[:, :rank], size[:rank], right[:rank]
    coef: Floats = right.T @ ((left.T @ loss) / size)
    residual = loss - matrix @ coef
    dof = len(runs) - rank
    noise = Noise(math.sqrt(float(residual @ residual) / dof), dof) if dof else None
    covariance: Floats = (right.T / size**2) @ right
    return Layout(tuple(terms), coef, covariance, right, noise)


def _contrast(term: Term, layout: Layout) -> Floats:
    """The coefficients' weights in a term: a main effect is the mean over all other levels."""
    weights = np.zeros(len(layout.coef))
    weights[layout.terms.index(term)] = 1
    if len(term) == 1:
        others = [pair for pair in layout.terms if len(pair) == 2 and term[0] in pair]
        axes = [next(cell[0] for cell in pair if cell != term[0]) for pair in others]
        for pair, axis in zip(others, axes, strict=True):
            weights[layout.terms.index(pair)] = 1 / (1 + axes.count(axis))
    return weights


def _effect(term: Term, layout: Layout, runs: list[Run]) -> Effect:
    """The estimate of a term, or the diagnostic that the runs cannot tell it."""
    axis, level = (" x ".join(names) for names in zip(*term, strict=True))
    carriers = tuple(run.run_id for run in runs if run.carries(term))
    weights = _contrast(term, layout)
    known = np.allclose(layout.seen.T @ (layout.seen @ weights), weights, atol=1e-8)
    why = f"{axis} = {level}: no finished runs tell it from the other terms of the layout"
    return Effect(
        axis,
        level,
        difference=float(weights @ layout.coef) if known else None,
        low=None,
        high=None,
        noise=None,
        p=None,
        n=len(carriers),
        verdict="not tested",
        run_ids=carriers,
        diagnostics=() if known else (Diagnostic("not_estimable", why),),
    )


def interactions(frame: pl.DataFrame, *, level: float = 0.95) -> list[Effect]:
    """Main effects and two-way interactions of axes varied together, Holm over all of them.

    Rows as of `ablation.effects`: a run has a row for every axis that its design varies. A main
    effect is averaged over the levels of the other axes; an interaction, axis "a x b", is what both
    changes do together beyond the sum of each alone: "better" where together they gain more. Blocks
    of seed and budget are fitted, so all of it is paired; interactions of three axes count as
    noise. An empty list where no run changes two axes.
    """
    planned = _runs(frame)
    runs = [run for run in planned if run.loss is not None]
    if not runs or not any(len(run.changes) > 1 for run in planned):
        return []
    terms = _terms(frame, planned)
    layout = _layout(terms, runs)
    found = [_effect(term, layout, runs) for term in terms]
    if layout.noise is None:
        return found
    weights = [_contrast(term, layout) for term in terms]
    errors = [math.sqrt(float(w @ layout.covariance @ w)) for w in weights]
    tested = {i: e.difference for i, e in enumerate(found) if e.difference is not None}
    p_values = [layout.noise.p_value(d, errors[i]) for i, d in tested.items()]
    for i, p in zip(tested, holm(p_values), strict=True):
        found[i] = judged(found[i], layout.noise, errors[i], p, level)
    return found

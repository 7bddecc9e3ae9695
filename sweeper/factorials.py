"""Designs over the axes at one size: by levels, in fractions, and by drawn points."""

import itertools
from collections.abc import Iterator, Sequence

from sweeper import drawing
from sweeper.axes import Axis, Level
from sweeper.fractions import fraction
from sweeper.layouts import Fractional, Grid, OneAtATime, Random, Sobol
from sweeper.overrides import value_at
from sweeper.recipe import Recipe, centre_params
from sweeper.record import Asked
from sweeper.study import Design, Study
from sweeper.trial import Trial


def one_at_a_time(study: Study, design: Design) -> Iterator[Trial]:
    """Every level of every axis at one budget, size and set of seeds; the baseline once an axis."""
    assert isinstance(design, OneAtATime)
    size = float(centre_params(study.base, design.budget, design.tokens_per_param))
    for axis in study.axes:
        baseline = value_at(study.base, axis.path)
        for level, seed in itertools.product(axis.levels, design.seeds):
            values = {
                "axis": axis.name,
                "path": axis.path,
                "level": level,
                "baseline": level == baseline,
            }
            yield Trial("one_at_a_time", design.budget, seed, size, {axis.path: level}, values)


def grid(study: Study, design: Design) -> Iterator[Trial]:
    """Every combination of levels at every budget and seed of the design."""
    assert isinstance(design, Grid)
    return _crossed(study, design, _combinations(study.axes))


def fractional(study: Study, design: Design) -> Iterator[Trial]:
    """The combinations of a fractional factorial at every budget and seed of the design.

    Raises ValueError where an axis has not two levels, or there are too many axes.
    """
    assert isinstance(design, Fractional)
    for axis in study.axes:
        if len(axis.levels) != 2:
            raise ValueError(
                f"axis {axis.name!r} has {len(axis.levels)} levels, and a fractional design is for "
                "axes of two; keep two of them, or use a grid or sobol design"
            )
    pairs = [_baseline_first(study.base, axis) for axis in study.axes]
    rows = fraction(len(pairs), design.resolution).rows()
    paths = [axis.path for axis in study.axes]
    chosen = [
        dict(zip(paths, (pair[bit] for pair, bit in zip(pairs, row, strict=True)), strict=True))
        for row in rows
    ]
    return _crossed(study, design, chosen)


def _baseline_first(recipe: Recipe, axis: Axis) -> tuple[Level, Level]:
    first, second = axis.levels
    return (first, second) if value_at(recipe, axis.path) == first else (second, first)


def _crossed(
    study: Study, design: Grid | Fractional, rows: Sequence[dict[str, Level]]
) -> Iterator[Trial]:
    for budget in design.budgets:
        size = float(centre_params(study.base, budget, design.tokens_per_param))
        for levels, seed in itertools.product(rows, design.seeds):
            yield axes_trial(study, Asked(budget, size, seed, levels), kind=design.kind)


def axes_trial(study: Study, asked: Asked, *, kind: str) -> Trial:
    """A trial of a design that sets every axis."""
    values = {axis.name: asked.levels[axis.path] for axis in study.axes}
    return Trial(kind, asked.budget, asked.seed, asked.params_target, asked.levels, values)


def _combinations(axes: tuple[Axis, ...]) -> list[dict[str, Level]]:
    rows = itertools.product(*(axis.levels for axis in axes))
    return [dict(zip((axis.path for axis in axes), row, strict=True)) for row in rows]


def drawn(study: Study, design: Design) -> Iterator[Trial]:
    """The points of a random or Sobol design, each at every seed."""
    assert isinstance(design, Random | Sobol)
    size = float(centre_params(study.base, design.budget, design.tokens_per_param))
    rows = drawing.DRAWS[design.kind](study.axes, design.draw)
    for levels, seed in itertools.product(itertools.islice(rows, design.trials), design.seeds):
        yield axes_trial(study, Asked(design.budget, size, seed, levels), kind=design.kind)

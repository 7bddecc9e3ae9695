"""Designs over sizes: the ladder of a law, and the start of one that grows."""

import itertools
import math
from collections.abc import Iterator

from model.counts import params_active
from sweeper.layouts import Adaptive, IsoFLOP
from sweeper.recipe import Recipe, centre_params, shape
from sweeper.record import Asked
from sweeper.study import Design, Study
from sweeper.trial import Trial


def isoflop(study: Study, design: Design) -> Iterator[Trial]:
    """Sizes around the expected optimum of every budget, distinct in shape, for every seed.

    Raises ValueError where fewer than four of them have shapes of their own.
    """
    assert isinstance(design, IsoFLOP)
    sizes = _shared_sizes(study, design) if design.trunks else None
    trunk_budget = study.budgets[0] if design.trunks else None
    for budget in study.budgets:
        targets = sizes or _ladder(study.base, design, budget)
        for params_target, seed in itertools.product(targets, study.seeds):
            values = {"params_target": params_target}
            yield Trial(
                *("isoflop", budget, seed, params_target), values=values, trunk_budget=trunk_budget
            )


def _shared_sizes(study: Study, design: IsoFLOP) -> list[float]:
    """Sizes that serve all budgets: those around the centre of their geometric mean.

    Raises ValueError where the expected optimum of some budget does not lie between them.
    """
    low, high = study.budgets[0], study.budgets[-1]
    sizes = _ladder(study.base, design, math.sqrt(low * high))
    ends = [centre_params(study.base, budget, design.tokens_per_param) for budget in (low, high)]
    if not sizes[0] < ends[0] < ends[1] < sizes[-1]:
        raise ValueError(
            f"trunks=True: sizes from {sizes[0]:,.0f} to {sizes[-1]:,.0f} serve all budgets, but "
            f"the expected optima go from {ends[0]:,} to {ends[1]:,}, and a parabola needs sizes "
            f"on both sides; raise spread={design.spread:g}, or bring the budgets nearer"
        )
    return sizes


def _ladder(recipe: Recipe, design: IsoFLOP, budget: float) -> list[float]:
    centre = centre_params(recipe, budget, design.tokens_per_param)
    last = design.sizes_per_budget - 1
    wanted = (centre * design.spread ** (2 * i / last - 1) for i in range(last + 1))
    # Two targets that round to one shape would be one run under two names.
    shapes = {params_active(shape(recipe, target)): None for target in wanted}
    if len(shapes) < 4:
        raise ValueError(
            f"budget {budget:g}: {design.sizes_per_budget} sizes round to only {len(shapes)} "
            f"shapes {sorted(shapes)}, and a parabola needs 4; raise spread={design.spread:g} or "
            "the budget, or lower base.shape.d_head"
        )
    return [float(params) for params in shapes]


def adaptive(study: Study, design: Design) -> Iterator[Trial]:
    """The start of an adaptive ladder: its cheapest budgets, one seed; the rest comes by batches.

    Raises ValueError where the start alone spends more than the design may.
    """
    assert isinstance(design, Adaptive)
    points = [
        (budget, target)
        for budget in study.budgets[: design.start_budgets]
        for target in _ladder(study.base, design.start, budget)
    ]
    cost = sum(budget for budget, _ in points)
    if cost > design.flops:
        raise ValueError(
            f"flops={design.flops:g} of the adaptive design do not pay for its start, "
            f"{len(points)} runs of {cost:.3g} FLOPs; raise flops, lower start_budgets="
            f"{design.start_budgets}, or add cheaper budgets"
        )
    for budget, target in points:
        asked = Asked(budget, target, study.seeds[0], {})
        yield adaptive_trial(asked, batch=0)


def adaptive_trial(asked: Asked, *, batch: int) -> Trial:
    """A trial of an adaptive ladder; `batch` 0 is its start."""
    values = {"params_target": asked.params_target, "batch": batch}
    return Trial("adaptive", asked.budget, asked.seed, asked.params_target, values=values)

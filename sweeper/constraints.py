"""Constraints held against the runs that trials ask for."""

from collections.abc import Callable, Sequence
from functools import reduce

from model.counts import flops_per_token, params_active, params_non_embedding, params_total
from sweeper.axes import Constraint
from train.config import RunSpec

MEASURES: dict[str, Callable[[RunSpec], float]] = {
    "params_active": lambda spec: params_active(spec.model),
    "params_total": lambda spec: params_total(spec.model),
    "params_non_embedding": lambda spec: params_non_embedding(spec.model),
    "flops": lambda spec: spec.tokens * flops_per_token(spec.model),
    "tokens_per_param": lambda spec: spec.tokens / params_active(spec.model),
}


def measured(spec: RunSpec, measure: str) -> float:
    """A measure of a run: one of MEASURES, or a number of its spec by dotted path."""
    if measure in MEASURES:
        return MEASURES[measure](spec)
    return float(reduce(getattr, measure.split("."), spec))


def excess(spec: RunSpec, constraint: Constraint) -> float:
    """By how much a run breaks a constraint, in the measure's unit; 0 or less where it keeps it."""
    value = measured(spec, constraint.measure)
    over = -float("inf") if constraint.at_most is None else value - constraint.at_most
    under = -float("inf") if constraint.at_least is None else constraint.at_least - value
    return max(over, under)


def broken(spec: RunSpec, constraints: Sequence[Constraint]) -> str:
    """The first constraint that a run breaks, as people read it; nothing where it keeps all."""
    for constraint in constraints:
        if excess(spec, constraint) > 0:
            value = measured(spec, constraint.measure)
            above = constraint.at_most is not None and value > constraint.at_most
            limit = constraint.at_most if above else constraint.at_least
            return f"{constraint.measure}={value:g} is {'above' if above else 'below'} {limit:g}"
    return ""

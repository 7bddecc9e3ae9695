"""When the runs of a size may share a trunk: nothing but their decay may depend on their length."""

from collections.abc import Iterator, Sequence

from sweeper.layouts import Pruning
from sweeper.recipe import Recipe
from sweeper.rules import PowerLaw
from train.choices import PLATEAUS


def check(recipe: Recipe, budgets: Sequence[float], pruning: Pruning | None) -> None:
    """Raises ValueError for a ladder with trunks that could not share any, with the way out."""
    for given, way_out in _obstacles(recipe, budgets, pruning):
        raise ValueError(
            f"trunks=True with {given}: runs of one size share a trunk where nothing but their "
            f"decay depends on their length; {way_out}, or set trunks=False"
        )


def _obstacles(
    recipe: Recipe, budgets: Sequence[float], pruning: Pruning | None
) -> Iterator[tuple[str, str]]:
    """What stands in the way, and what to do about it."""
    if recipe.schedule.kind not in PLATEAUS:
        yield f"schedule.kind={recipe.schedule.kind!r}", f"use one of {PLATEAUS}"
    if _follows_length(recipe.lr.rule, ("constant", "mup"), recipe.lr.power):
        yield (
            f"lr.rule={recipe.lr.rule!r}, a rate by the tokens of a run",
            "use lr.rule='constant', 'mup', or a power of N alone",
        )
    if _follows_length(recipe.batch_rule.rule, ("constant",), recipe.batch_rule.power):
        yield (
            f"batch_rule.rule={recipe.batch_rule.rule!r}, a batch by the tokens of a run",
            "use batch_rule.rule='constant', or a power of N alone",
        )
    if recipe.ramp.until_fraction:
        yield (
            f"ramp.until_fraction={recipe.ramp.until_fraction:g}",
            "give the ramp in tokens, as batch.ramp",
        )
    if recipe.phases:
        yield f"{len(recipe.phases)} phases, which begin at fractions of a run", "leave them out"
    if len(budgets) < 2:
        yield f"budgets={tuple(budgets)}", "add a budget"
    if pruning is not None and "isoflop" in pruning.designs:
        yield (
            "pruning of isoflop, which compares runs on the way that a trunk goes for them",
            "take isoflop out of pruning.designs",
        )


def _follows_length(rule: str, free: Sequence[str], power: PowerLaw | None) -> bool:
    """Whether what a rule gives depends on the tokens of a run."""
    if rule == "power":
        return power is not None and (power.tokens != 0 or power.flops != 0)
    return rule not in free

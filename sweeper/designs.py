"""Designs: from a study to its trials, and to the runs that they ask for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from model.counts import flops_per_token
from sweeper.constraints import broken
from sweeper.errors import UserError
from sweeper.factorials import axes_trial, drawn, fractional, grid, one_at_a_time
from sweeper.ladders import adaptive, adaptive_trial, isoflop
from sweeper.layouts import Search
from sweeper.planner import Planned, Planner, holds
from sweeper.recipe import centre_params, shape
from sweeper.record import Batch
from sweeper.study import DRAWN, Design, Study
from sweeper.study_file import explain
from sweeper.trial import Trial
from sweeper.trunks import shared


def search(study: Study, design: Design) -> Iterator[Trial]:
    """The first points of a search, proposed before anything was seen; the rest by batches."""
    assert isinstance(design, Search)
    # Here, not at the top: Optuna is loaded for studies that search.
    from sweeper.search import first_batch

    for asked in first_batch(study, design).points:
        yield axes_trial(study, asked, kind="search")


DESIGNS: dict[str, Callable[[Study, Design], Iterator[Trial]]] = {
    "isoflop": isoflop,
    "adaptive": adaptive,
    "one_at_a_time": one_at_a_time,
    "grid": grid,
    "fractional": fractional,
    "random": drawn,
    "sobol": drawn,
    "search": search,
}
# A target is held against what can be built at this ratio. Hoffmann et al. 2022, arXiv:2203.15556.
USUAL_TOKENS_PER_PARAM = 20.0
DRAWN_KINDS = {design.model_fields["kind"].default for design in DRAWN}


def trials(study: Study) -> list[Trial]:
    """All trials of a study's designs, in their order and not numbered yet."""
    return [trial for d in study.designs for trial in DESIGNS[d.kind](study, d)]


@dataclass(frozen=True)
class LeftOut:
    """A trial that a design asked for and the study does not run, and why."""

    trial: Trial
    why: str


@dataclass(frozen=True)
class Survey:
    """All that the designs of a study ask for: the runs, numbered, and what is left out."""

    planned: list[Planned]
    left_out: list[LeftOut]


def tried(planner: Planner, trial: Trial) -> Planned | LeftOut:
    """The run of a trial, or why there is none.

    A point that a design drew may be impossible to build. Raises ValueError where one is that a
    person asked for.
    """
    try:
        planned = planner.plan(trial)
    except (ValueError, OverflowError) as error:
        if trial.design not in DRAWN_KINDS:
            raise
        return LeftOut(trial, f"cannot be built: {explain(error)}")
    why = broken(planned.spec, planner.study.constraints)
    return LeftOut(trial, why) if why else planned


def survey(study: Study, batches: Sequence[Batch] = ()) -> Survey:
    """Every trial with its run: those of the designs, then those of the batches that still hold.

    Runs that may share a trunk are told which.

    Raises UserError naming the design and budget that cannot be, or where nothing is left.
    """
    found, planner = Survey([], []), Planner(study)
    try:
        _number(planner, trials(study), found)
        for number, batch in enumerate(batches, start=1):
            if holds(study, batch, found.planned):
                _number(planner, batch_trials(study, batch, number), found)
        _check_target(study)
    # Sizes may be too large for a float.
    except (ValueError, OverflowError) as error:
        raise UserError(f"study {study.name!r} cannot be expanded: {explain(error)}") from error
    if not found.planned:
        raise UserError(
            f"study {study.name!r}: all {len(found.left_out)} trials are left out; the first: "
            f"{found.left_out[0].why}; loosen constraints, or change axes and budgets"
        )
    return Survey(shared(found.planned), found.left_out)


def _check_target(study: Study) -> None:
    """Raises ValueError for a target that no model can spend: the ladder would be for nothing."""
    target, recipe = study.promotion.target, study.base
    params = centre_params(recipe, target, USUAL_TOKENS_PER_PARAM)
    cost = flops_per_token(shape(recipe, params))
    if cost * USUAL_TOKENS_PER_PARAM * params < target / 2:
        raise ValueError(
            f"promotion.target={target:g} FLOPs are more than any shape of the recipe can spend: "
            f"the largest has {params:.2g} active parameters; lower the target"
        )


def _number(planner: Planner, asked: Sequence[Trial], found: Survey) -> None:
    """Add trials to what was found, numbered where they are run."""
    for trial in asked:
        one = tried(planner, replace(trial, number=len(found.planned)))
        if isinstance(one, Planned):
            found.planned.append(one)
        else:
            found.left_out.append(one)


def expand(study: Study, batches: Sequence[Batch] = ()) -> list[Planned]:
    """The runs of `survey` alone."""
    return survey(study, batches).planned


def batch_trials(study: Study, batch: Batch, number: int) -> list[Trial]:
    """The trials of the `number`th batch."""
    if batch.design == "adaptive":
        return [adaptive_trial(asked, batch=number) for asked in batch.points]
    return [axes_trial(study, asked, kind=batch.design) for asked in batch.points]


def plan_batch(
    study: Study, batch: Batch, number: int, planned: Sequence[Planned]
) -> list[Planned]:
    """The runs of a batch, numbered after those that are planned."""
    found = Survey(list(planned), [])
    _number(Planner(study), batch_trials(study, batch, number), found)
    return found.planned[len(planned) :]

"""Names that a user may write and the tables that implement them: none without the other.

Every Literal of a declaration stands here, so that a new one is either held against its table or
said to have none.
"""

from collections.abc import Collection, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from analysis import answer, laws
from analysis.ablation import multiplier
from model import config, initial, layers
from sweeper import (
    axes,
    cluster,
    constraints,
    designs,
    drawing,
    growth,
    pruning,
    rates,
    rules,
    search,
    study,
    verdict,
)
from sweeper.study_file import DECLARATIONS
from train import (
    activations,
    choices,
    denoisers,
    examples,
    hf_configs,
    huggingface,
    layout,
    memory,
    messages,
    moments,
    objectives,
    optim,
    runlog,
    schedule,
    step_time,
)
from train.config import Stage, State


def kinds(union: object) -> set[str]:
    """The `kind`s of a union of declarations, as a study file writes them."""
    members = get_args(get_args(union)[0])
    return {member.model_fields["kind"].default for member in members}


def field(declaration: Any, name: str) -> set[str]:
    """What a field of a declaration may be."""
    return set(get_args(declaration.model_fields[name].annotation))


# What may be named, and the tables that must have a row for it.
TABLES: dict[str, tuple[Collection[Any], tuple[Collection[Any], ...]]] = {
    "activations": (get_args(config.Activation), (layers.ACTIVATIONS,)),
    "initialisations": (get_args(config.Initialisation), (initial.INITIALISERS,)),
    "objectives": (get_args(choices.ObjectiveKind), (objectives.OBJECTIVES,)),
    "optimizers": (
        get_args(choices.OptimizerName),
        (optim.OPTIMIZERS, choices.ZERO_STAGES, moments.MOMENTS, rules.BETAS),
    ),
    "schedules": (get_args(choices.ScheduleKind), (schedule.SCHEDULES,)),
    "recomputations": (get_args(layout.Recompute), (activations.KEPT, step_time.AGAIN)),
    "kinds of context parallelism": (
        get_args(layout.ContextKind),
        (memory.CONTEXT_NUMBERS, messages.EXCHANGES),
    ),
    "modes of denoisers": (get_args(denoisers.Mode), (examples.MODES,)),
    "rate rules": (get_args(rules.LearningRateRule), (rates.LR_RULES,)),
    "batch rules": (get_args(rules.BatchSizeRule), (rates.BATCH_RULES,)),
    "clusters": (kinds(cluster.AnyCluster), (cluster.CLUSTERS,)),
    "designs": (kinds(study.Design), (designs.DESIGNS,)),
    "samplers": (field(study.Search, "sampler"), (search.SAMPLERS,)),
    "pruners": (field(study.Pruning, "kind"), (pruning.PRUNERS,)),
    "measures": (axes.MEASURED, (constraints.MEASURES,)),
    "forms of Hugging Face": (huggingface.FORMS, (hf_configs.READERS,)),
    "laws": (set(answer.LAW_NAMES) - {"auto"}, ({**laws.LAWS, **answer.OTHER},)),
}
# Choices without a table here: branches that tests/model builds one by one, stages of training
# (tests/train/test_job.py), sizes, and words that we write and nobody chooses.
WITHOUT_TABLE = (
    config.Stacks, config.Position, config.Norm, config.NormPlacement, Stage,
    State, axes.Axis.model_fields["scale"].annotation,
    study.PromotionPlan.model_fields["approve"].annotation,
)  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_name_has_its_row_and_every_row_its_name(name: str) -> None:
    named, tables = TABLES[name]
    for table in tables:
        assert set(table) == set(named)


def literals(annotation: object) -> Iterator[tuple[Any, ...]]:
    """The values of every Literal with a choice in it, within a type."""
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
        return
    for part in get_args(annotation):
        yield from literals(part)


def test_every_choice_of_a_study_file_is_held_against_a_table_or_said_to_have_none() -> None:
    known = [set(named) for named, _ in TABLES.values()]
    known += [set(get_args(literal)) for literal in WITHOUT_TABLE]
    found = {
        f"{declaration}.{name}": set(values)
        for declaration, model in DECLARATIONS.items()
        for name, one in model.model_fields.items()
        for values in literals(one.annotation)
        if len(values) > 1 and isinstance(values[0], str)
    }
    new = [name for name, values in found.items() if not any(values <= of for of in known)]
    assert new == []
    assert "ModelConfig.position" in found


def test_designs_that_grow_and_draw_are_those_that_are_declared() -> None:
    assert set(growth.GROWING) == {one.model_fields["kind"].default for one in study.GROWING}
    assert set(drawing.DRAWS) | {"search"} == designs.DRAWN_KINDS


def test_the_driver_knows_what_to_do_after_every_cause_of_an_end() -> None:
    answers = [set(verdict.ATTEMPTS), verdict.INTERRUPTIONS, verdict.NEUTRAL, {"out_of_memory"}]
    assert set().union(*answers) == set(get_args(runlog.Cause))
    assert sum(map(len, answers)) == len(get_args(runlog.Cause))
    assert verdict.NODE_CAUSES <= set(verdict.ATTEMPTS) | verdict.INTERRUPTIONS


def test_every_verdict_on_a_multiplier_is_reached_or_says_that_nothing_was_tested() -> None:
    reached = set(multiplier.VERDICTS.values())
    assert len(reached) == len(multiplier.VERDICTS)
    assert set(get_args(multiplier.Verdict)) - reached == {"trend not identified", "not tested"}

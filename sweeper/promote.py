"""A promotion: the stored, immutable decision to train the large run, and what came of it."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.counts import params_active
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.gates import GateResult
from sweeper.planner import with_digest
from sweeper.rates import micro_batch
from sweeper.recipe import horizon, pretrain_spec, shape
from sweeper.runs import RunView, planned_flops
from sweeper.speed import Speed
from sweeper.study import PostTraining, Study
from sweeper.study_file import explain
from sweeper.trial import NO_TRIAL
from train.config import Frozen, ObjectiveConfig, RunSpec, run_id
from train.runlog import create_exclusive

if TYPE_CHECKING:
    from analysis.law import Forecast


class Cost(Frozen):
    """What the promoted stages are expected to take together."""

    flops: float
    gpu_hours: float
    seconds: float


@dataclass(frozen=True)
class Proposal:
    """What a promotion would be, and what the gates say of it."""

    specs: tuple[RunSpec, ...]
    cost: Cost
    gates: tuple[GateResult, ...]

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the gates that do not pass."""
        return tuple(gate.name for gate in self.gates if not gate.passed)


class Promotion(Frozen):
    """Which runs, on what evidence, by whose decision; `digest` seals the rest."""

    study: str
    name: str
    target: float
    specs: tuple[RunSpec, ...]
    run_ids: tuple[str, ...]
    forecast: dict[str, Any]
    cost: Cost
    gates: tuple[GateResult, ...]
    decided_by: str
    reason: str
    created: float
    digest: str = ""


@dataclass(frozen=True)
class Comparison:
    """The measured loss against the forecast; `error` is relative, positive where too high."""

    measured: float
    error: float
    inside: bool


def specs(study: Study, forecast: "Forecast") -> tuple[RunSpec, ...]:
    """The runs of a promotion in their order: pretraining by the laws, then each later stage.

    The forecast's size becomes the nearest shape of the recipe, and the target pays its tokens.
    Raises UserError where that cannot be built.
    """
    plan = study.promotion
    try:
        chain = [pretraining(study, forecast.params, plan.target, NO_TRIAL)]
        for stage in plan.stages:
            chain.append(_next_stage(study, stage, chain[-1]))
    except ValueError as error:
        raise UserError(f"study {study.name!r}: the promoted run: {explain(error)}") from error
    return tuple(chain)


def pretraining(study: Study, params: float, budget: float, trial: int) -> RunSpec:
    """A pretraining laid out as the plan says: the shape nearest `params`, tokens by the budget.

    Raises ValueError where that cannot be built.
    """
    recipe, plan = with_digest(study.base), study.promotion
    model = shape(recipe, params)
    return pretrain_spec(
        recipe,
        model,
        horizon(recipe, model, budget),
        study=study.name,
        trial=trial,
        budget=budget,
        seed=plan.seed,
        dp=plan.dp,
    )


def _next_stage(study: Study, stage: PostTraining, parent: RunSpec) -> RunSpec:
    """A stage that starts from its parent's weights, with tokens and rate of its own."""
    content = parent.model_dump() | {
        "stage": stage.stage,
        "parent": run_id(parent),
        "tokens": stage.tokens,
        "batch": micro_batch(study.base, study.promotion.dp),
        "optim": study.base.optim.at(stage.lr),
        "schedule": study.base.schedule.over(stage.tokens),
        "objective": ObjectiveConfig(),
        "phases": (),
    }
    return RunSpec.model_validate(content)


def cost(chain: tuple[RunSpec, ...], speed: Speed) -> Cost:
    """FLOPs, GPU-hours and seconds of the stages one after the other."""
    return Cost(
        flops=sum(map(planned_flops, chain)),
        gpu_hours=sum(map(speed.gpu_hours, chain)),
        seconds=sum(map(speed.seconds, chain)),
    )


def decide(
    place: StudyDir,
    proposal: Proposal,
    forecast: Mapping[str, Any],
    decided_by: str,
    reason: str,
) -> Promotion:
    """Write the decision down, once: where there is one already, that one is returned."""
    chain = proposal.specs
    draft = Promotion(
        study=place.name,
        name=f"{place.name}-{chain[0].budget:g}",
        target=chain[0].budget,
        specs=chain,
        run_ids=tuple(map(run_id, chain)),
        # Through text: tuples become the lists, and NaN the null, that every reader gets.
        forecast=json.loads(json.dumps(forecast), parse_constant=lambda _: None),
        cost=proposal.cost,
        gates=proposal.gates,
        decided_by=decided_by,
        reason=reason,
        created=time.time(),
    )
    sealed = draft.model_copy(update={"digest": _digest(draft)})
    create_exclusive(place.promotion, sealed.model_dump_json(indent=1))
    found = load(place)
    assert found is not None
    return found


def _digest(promotion: Promotion) -> str:
    content = promotion.model_dump(mode="json", exclude={"digest"})
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def load(place: StudyDir) -> Promotion | None:
    """The promotion of a study, or None. Raises UserError where it was changed after the fact."""
    try:
        text = place.promotion.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = Promotion.model_validate_json(text)
    except ValueError as error:
        raise UserError(f"{place.promotion} cannot be read: {explain(error)}") from error
    if found.digest != _digest(found):
        raise UserError(
            f"{place.promotion} was changed after it was decided: its digest {found.digest} does "
            "not fit; put back the original, or give the study another name and decide again"
        )
    return found


def check(study: Study, promotion: Promotion | None) -> None:
    """Raises UserError where the study was promoted for another target."""
    if promotion is not None and promotion.target != study.promotion.target:
        raise UserError(
            f"study {study.name!r} was promoted for the target {promotion.target:g}, and now asks "
            f"for {study.promotion.target:g}; a promotion is never changed: give the study "
            "another name (its runs will be found again)"
        )


def compare(promotion: Promotion, views: Mapping[str, RunView]) -> Comparison | None:
    """Forecast against measured, or None while the pretraining has no loss."""
    result = views[promotion.run_ids[0]].result
    if result is None or result.nats_per_token is None:
        return None
    said, measured = promotion.forecast, result.nats_per_token
    inside = said["low"] <= measured <= said["high"]
    return Comparison(measured, measured / said["loss"] - 1, inside)


def headline(promotion: Promotion) -> str:
    """The promoted shape in one line."""
    first = promotion.specs[0]
    return (
        f"{params_active(first.model):,} active parameters (d_model={first.model.d_model}, "
        f"n_layers={first.model.n_layers}), {first.tokens:,} tokens, dp={first.parallel.dp}"
    )

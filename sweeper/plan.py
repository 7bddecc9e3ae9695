"""The plan of a study: every trial with its shape, tokens, FLOPs and expected time."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from model.config import params_active
from sweeper.designs import Planned
from sweeper.folders import StudyDir
from sweeper.recipe import centre_params
from sweeper.runs import planned_flops
from sweeper.speed import Speed
from sweeper.study import Adaptive, Design, Study
from sweeper.watch import duration


@dataclass(frozen=True)
class PlanRow:
    """One trial as planned; `done` when its run has a result already, in any study of this home."""

    planned: Planned
    params: int
    flops: float
    seconds: float
    done: bool


def plan_rows(planned: Sequence[Planned], place: StudyDir, speed: Speed) -> list[PlanRow]:
    """The plan, in the order of trials."""
    return [
        PlanRow(
            p,
            params_active(p.spec.model),
            planned_flops(p.spec),
            speed.seconds(p.spec),
            place.has_result(p.run_id),
        )
        for p in planned
    ]


def to_do(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """The rows that training is left for: without a result, each run once."""
    return list({row.planned.run_id: row for row in rows if not row.done}.values())


def plan_table(rows: Sequence[PlanRow]) -> Table:
    """The plan as people read it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    left = ("design", "what", "run")
    for name in ("trial", "design", "what", "budget", "params", "shape", "tokens", "FLOPs", "lr"):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for name in ("seed", "time", "run"):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: PlanRow) -> tuple[str, ...]:
    trial, spec = row.planned.trial, row.planned.spec
    what = ", ".join(f"{path}={level}" for path, level in trial.levels.items())
    return (
        str(trial.number),
        trial.design,
        what,
        f"{trial.budget:.3g}",
        f"{row.params:,}",
        f"{spec.model.d_model}x{spec.model.n_layers}",
        f"{spec.tokens:,}",
        f"{row.flops:.3g}",
        f"{spec.optim.lr:.3g}",
        str(spec.seed),
        "done" if row.done else duration(row.seconds),
        row.planned.run_id,
    )


def plan_summary(study: Study, rows: Sequence[PlanRow], speed: Speed) -> str:
    """What is to be done in all, and how long it should take on the study's workers."""
    left = to_do(rows)
    runs = {row.planned.run_id for row in rows}
    seconds = [row.seconds for row in left]
    wall = max(sum(seconds) / study.cluster.workers, max(seconds, default=0.0))
    plan = study.promotion
    stages = " -> ".join(["pretrain", *(stage.stage for stage in plan.stages)])
    return (
        f"{len(rows)} trials, {len(runs)} runs, {len(runs) - len(left)} of them done; "
        f"{sum(row.flops for row in left):.3g} FLOPs to train, about {duration(wall)} on "
        f"{study.cluster.workers} workers (speed: {speed.source})\n"
        f"{_growth(study)}"
        f"{_rung(study, speed)}"
        f"then {stages} at {plan.target:.3g} FLOPs, dp={plan.dp}, its shape chosen by the fit, "
        f"{'if the gates pass' if plan.approve == 'auto' else 'on approval'}"
    )


def _rung(study: Study, speed: Speed) -> str:
    """What the validation rung costs, where there is one: a line, or nothing."""
    plan = study.promotion
    if plan.rung is None:
        return ""
    ratios = [_tokens_per_param(design) for design in study.designs]
    params = centre_params(study.base, plan.rung, ratios[0])
    seconds = plan.rung / (speed.flops_per_second(params) * plan.dp)
    return (
        f"then, if every other gate passes, a validation rung of {plan.rung:.3g} FLOPs, dp="
        f"{plan.dp}, about {duration(seconds)}\n"
    )


def _tokens_per_param(design: Design) -> float:
    return (
        design.start.tokens_per_param if isinstance(design, Adaptive) else design.tokens_per_param
    )


def _growth(study: Study) -> str:
    """What may follow the trials shown, where a design is adaptive: a line, or nothing."""
    for design in study.designs:
        if isinstance(design, Adaptive):
            return (
                f"adaptive: up to {design.flops:.3g} FLOPs with its start, {design.batch} runs at "
                f"a time, until the interval at the target is within {design.loss_within:g} of "
                f"ln L and {design.params_within:g} of ln N*\n"
            )
    return ""

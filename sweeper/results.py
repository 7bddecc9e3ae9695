"""The store of a study brought up to date: what the driver knows, and what the runs measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis import imported, store
from analysis.ablation.effects import Effect, effects
from analysis.ablation.levels import ablation_rows, baseline_levels
from analysis.ablation.multiplier import Multiplier, multipliers
from analysis.forecast import fit_row, panel, promotable
from analysis.law import Fit, Forecast, NotEnough
from analysis.runs import prepare
from sweeper.folders import StudyDir
from sweeper.opening import opened
from sweeper.planner import Planned
from sweeper.promote import Promotion
from sweeper.record import Event, Job, Record
from sweeper.runs import RunView
from sweeper.study import Study


@dataclass(frozen=True)
class Findings:
    """What the runs so far say: a forecast or why there is none, and what each level does.

    `rung` is the forecast at the validation rung, where the study asks for one.
    """

    forecast: Forecast | None
    refusal: str
    fits: tuple[Fit, ...]
    effects: tuple[Effect, ...]
    multipliers: tuple[Multiplier, ...]
    rung: Forecast | None = None


def refresh(
    place: StudyDir,
    study: Study,
    planned: Sequence[Planned],
    record: Record,
    views: Mapping[str, RunView],
    promotion: Promotion | None,
    rung: Planned | None,
) -> Findings:
    """Write all derived tables of a study, ingest its runs, fit, and forecast the target.

    The store is closed while the laws are fitted, for others to open. Raises StoreBusy.
    """
    trials = [*planned, *([rung] if rung else [])]

    def gather(con: store.Connection) -> pl.DataFrame:
        store.replace(con, "studies", study.name, [_study_row(study, record)])
        store.replace(con, "trials", study.name, [_trial_row(p) for p in trials])
        store.replace(con, "jobs", study.name, _job_rows(record, views))
        store.append_changes(con, study.name, list(map(_change_row, record.changes)))
        store.ingest(con, place.runs, {n: (run.state, run.message) for n, run in views.items()})
        imported.ingest(con, study.name, place.imported)
        return store.points(con, study.name)

    with opened(place) as con:
        points, path = gather(con), store.path(con)
    found = find(points, study)
    with opened(place) as con:
        # Somebody may have taken the store in between, and this be the spare.
        if store.path(con) != path:
            gather(con)
        store.replace(con, "fits", study.name, [fit_row(study.name, fit) for fit in found.fits])
        rows = [_promotion_row(promotion)] if promotion else []
        store.replace(con, "promotions", study.name, rows)
    return found


def find(points: pl.DataFrame, study: Study) -> Findings:
    """The forecast of the study's target, and its ablations, from rows as of `store.points`."""
    target, rung = study.promotion.target, study.promotion.rung
    rows = ablation_rows(points, baseline_levels(study.model_dump(mode="json")))
    found = tuple(effects(rows)) if len(rows) else ()
    worth = tuple(multipliers(rows, target)) if len(rows) else ()
    try:
        laws = panel(prepare(points, metric=study.metric.removeprefix("val/")))
        said = promotable(laws.at(target))
        below = promotable(laws.at(rung)) if rung else None
        return Findings(said, "", tuple(m.fit for m in laws.members), found, worth, below)
    except NotEnough as reason:
        return Findings(None, str(reason), (), found, worth)


def _study_row(study: Study, record: Record) -> dict[str, object]:
    return {
        "uid": record.uid,
        "question": study.question,
        # A run has one loss; "val/" says where it comes from.
        "metric": study.metric.removeprefix("val/"),
        "resolved": study.model_dump(mode="json"),
        "created": record.created,
    }


def _trial_row(planned: Planned) -> dict[str, object]:
    trial = planned.trial
    return {
        "number": trial.number,
        "run_id": planned.run_id,
        "design": trial.design,
        "budget": trial.budget,
        "seed": trial.seed,
        "values": dict(trial.values),
    }


def _change_row(event: Event) -> dict[str, object]:
    names = ("time", "state", "cause", "attempt", "job")
    return {"run_id": event["run"], **{name: event[name] for name in names}}


def _job_state(job: Job, views: Mapping[str, RunView]) -> str:
    """A job by its runs: at work on one, waiting with one, or gone."""
    if job.refused:
        return "REFUSED"
    runs = [views[run] for run, _ in job.grants if run in views]
    if any(run.state == "RUNNING" and run.job in job.names for run in runs):
        return "RUNNING"
    return "QUEUED" if any(run.state == "QUEUED" for run in runs) else "GONE"


def _job_rows(record: Record, views: Mapping[str, RunView]) -> list[dict[str, object]]:
    return [
        {
            "job": job.name,
            "stage": job.stage,
            "state": _job_state(job, views),
            "submitted": job.time,
            "run_ids": [run for run, _ in job.grants],
        }
        for job in record.jobs
    ]


def _promotion_row(promotion: Promotion) -> dict[str, object]:
    return {
        "name": promotion.name,
        "run_ids": list(promotion.run_ids),
        "target": promotion.target,
        "forecast": promotion.forecast,
        "gates": [gate.model_dump() for gate in promotion.gates],
        "reason": promotion.reason,
        "decided_by": promotion.decided_by,
        "created": promotion.created,
    }

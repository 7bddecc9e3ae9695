"""The store of a study brought up to date: what the driver knows, and what the runs measured."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import duckdb
import polars as pl

from analysis import store
from analysis.ablation.effects import Effect, effects
from analysis.ablation.levels import ablation_rows, baseline_levels
from analysis.ablation.multiplier import Multiplier, multipliers
from analysis.forecast import fit_row, panel, promotable
from analysis.law import Fit, Forecast, NotEnough
from analysis.runs import prepare
from sweeper.designs import Planned
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.jobs import scan
from sweeper.ledger import Record
from sweeper.promote import Promotion
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


@contextmanager
def opened(place: StudyDir) -> Generator[store.Connection]:
    """The store of a study for writing; a damaged one is made again, for it is derived.

    Raises UserError where another process keeps it open.
    """
    with ExitStack() as stack:
        try:
            con = stack.enter_context(store.connect(place.store))
        except store.StoreBusy as error:
            raise UserError(str(error)) from error
        except duckdb.Error:
            for leftover in place.path.glob(f"{place.store.name}*"):
                leftover.unlink()
            con = stack.enter_context(store.connect(place.store))
        yield con


def refresh(
    place: StudyDir,
    study: Study,
    planned: Sequence[Planned],
    record: Record,
    views: Mapping[str, RunView],
    promotion: Promotion | None,
    rung: Planned | None,
) -> Findings:
    """Write all derived tables of a study, ingest its runs, fit, and forecast the target."""
    trials = [*planned, *([rung] if rung else [])]
    living = scan(place.home).names
    with opened(place) as con:
        store.replace(con, "studies", study.name, [_study_row(study, record)])
        store.replace(con, "trials", study.name, [_trial_row(p) for p in trials])
        store.replace(con, "jobs", study.name, _job_rows(record, living))
        store.ingest(con, place.runs, {name: run.state for name, run in views.items()})
        store.ingest_imported(con, study.name, place.imported)
        found = find(store.points(con, study.name), study)
        store.replace(con, "fits", study.name, [fit_row(study.name, fit) for fit in found.fits])
        rows = [_promotion_row(promotion)] if promotion else []
        store.replace(con, "promotions", study.name, rows)
    return found


def ask(place: StudyDir, sql: str) -> pl.DataFrame:
    """Rows of a query that can only read. Raises UserError for bad SQL."""
    try:
        with store.connect(place.store, read_only=True) as con:
            return store.query(con, sql)
    except (duckdb.Error, store.StoreBusy) as error:
        raise UserError(str(error)) from error


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


def _job_rows(record: Record, living: frozenset[str]) -> list[dict[str, object]]:
    return [
        {
            "job": job.name,
            "stage": job.stage,
            "state": "RUNNING" if job.name in living else "GONE",
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

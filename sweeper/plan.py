"""The plan of a study: every trial with its shape, tokens, FLOPs and what it costs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.counts import params_active
from sweeper.folders import StudyDir
from sweeper.planner import Planned
from sweeper.runs import own_flops, planned_flops
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.trial import NO_TRIAL
from train.cost import bytes_per_rank, storage_bytes, working_bytes

# Trials left out that are named one by one; the rest are counted.
SHOWN = 10


@dataclass(frozen=True)
class PlanRow:
    """One trial as planned, or a trunk, and what its run takes.

    `flops` are those of its whole length, `own_flops` what is left of them to it by its trunk.
    `trained_by` is the study that trained the run first, "" while it has no result in this home.
    """

    planned: Planned
    params: int
    flops: float
    own_flops: float
    seconds: float
    gpu_hours: float
    rank_bytes: int
    storage_bytes: int
    working_bytes: int
    trained_by: str = ""

    @property
    def done(self) -> bool:
        return bool(self.trained_by)


@dataclass(frozen=True)
class Totals:
    """A whole plan: runs by what is left of them, and what those left will take together.

    `reused` runs were trained by other studies. `storage_bytes` stay on disk, `working_bytes` come
    to them while the workers train. `cost` is that of the GPU-hours, None without a price.
    """

    trials: int
    runs: int
    done: int
    reused: int
    flops: float
    seconds: float
    gpu_hours: float
    rank_bytes: int
    storage_bytes: int
    working_bytes: int
    cost: float | None


def plan_rows(planned: Sequence[Planned], place: StudyDir, speed: Speed) -> list[PlanRow]:
    """The plan, in the order of trials."""
    return [_row(p, place, speed) for p in planned]


def _row(planned: Planned, place: StudyDir, speed: Speed) -> PlanRow:
    spec = planned.spec
    return PlanRow(
        planned,
        params_active(spec.model),
        planned_flops(spec),
        own_flops(spec),
        speed.seconds(spec),
        speed.gpu_hours(spec),
        bytes_per_rank(spec).total,
        storage_bytes(spec),
        working_bytes(spec),
        trained_by(place, planned.run_id),
    )


def trained_by(place: StudyDir, run_id: str) -> str:
    """The study that a run with a result was first trained for; "" without a result.

    A run directory keeps the labels of the study that made it.
    """
    if not place.has_result(run_id):
        return ""
    try:
        content: Any = json.loads(Path(place.runs / run_id / "run.json").read_bytes())
        return str(content["study"]) or "?"
    except (OSError, ValueError, KeyError, TypeError):
        return "?"


def to_do(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """The rows that training is left for: without a result, each run once."""
    return list({row.planned.run_id: row for row in rows if not row.done}.values())


def totals(study: Study, rows: Sequence[PlanRow]) -> Totals:
    """What the study takes in all; the wall time is that of its workers."""
    left, workers = to_do(rows), study.cluster.workers
    trained = {row.planned.run_id: row.trained_by for row in rows if row.done}
    seconds = [row.seconds for row in left]
    hours = sum(row.gpu_hours for row in left)
    price = study.gpu_hour_price
    return Totals(
        trials=sum(row.planned.trial.number != NO_TRIAL for row in rows),
        runs=len(left) + len(trained),
        done=len(trained),
        reused=sum(name != study.name for name in trained.values()),
        flops=sum(row.own_flops for row in left),
        # All workers share the runs, but the longest is one worker's.
        seconds=max(sum(seconds) / workers, max(seconds, default=0.0)),
        gpu_hours=hours,
        rank_bytes=max((row.rank_bytes for row in left), default=0),
        storage_bytes=sum(row.storage_bytes for row in left),
        working_bytes=sum(sorted((row.working_bytes for row in left), reverse=True)[:workers]),
        cost=None if price is None else price * hours,
    )


def saving(rows: Sequence[PlanRow]) -> tuple[float, float] | None:
    """FLOPs of all branches with their trunks, and of the same runs alone; None without trunks."""
    each = {row.planned.run_id: row for row in rows}.values()
    branches = [row for row in each if row.planned.spec.trunk is not None]
    trunks = [row for row in each if row.planned.spec.leaves]
    if not trunks:
        return None
    together = sum(row.own_flops for row in (*branches, *trunks))
    return together, sum(row.flops for row in branches)


def plan_json(study: Study, rows: Sequence[PlanRow], speed: Speed) -> dict[str, Any]:
    """The plan as scripts read it: every trial, and the totals of what is left."""
    return {
        "study": study.name,
        "trials": [_trial_json(row) for row in rows],
        "totals": asdict(totals(study, rows)),
        "trunks": dict(zip(("flops", "alone_flops"), saving(rows) or (), strict=False)) or None,
        "gpu_hour_price": study.gpu_hour_price,
        "speed": speed.source,
    }


def _trial_json(row: PlanRow) -> dict[str, Any]:
    trial, spec = row.planned.trial, row.planned.spec
    return {
        "trial": trial.number,
        "design": trial.design,
        "levels": dict(trial.levels),
        "budget": trial.budget,
        "seed": trial.seed,
        "run_id": row.planned.run_id,
        "params_target": trial.params_target,
        "params_active": row.params,
        "d_model": spec.model.d_model,
        "n_layers": spec.model.n_layers,
        "tokens": spec.tokens,
        "lr": spec.optim.lr,
        "flops": row.flops,
        "own_flops": row.own_flops,
        "trunk": spec.trunk,
        "seconds": row.seconds,
        "gpu_hours": row.gpu_hours,
        "rank_bytes": row.rank_bytes,
        "storage_bytes": row.storage_bytes,
        "trained_by": row.trained_by or None,
    }

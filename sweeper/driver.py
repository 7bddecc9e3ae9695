"""The driver: submits what is missing, watches, and decides from run directories what to do next.

It may die at any instant. A job is written to the ledger before it is started; a run belongs to
the process that created its attempt file; so the driver that starts next adopts what lives.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper import worker
from sweeper.errors import JobsFailed
from sweeper.folders import StudyDir
from sweeper.jobs import Scan, cores, scan, submit
from sweeper.ledger import Job, Ledger, Stage
from sweeper.runs import Runs, RunView
from sweeper.speed import Speed
from sweeper.study import Cluster, Study
from sweeper.watch import Display
from train.config import DataConfig, RunSpec, data_id
from train.runlog import create_run

# Run directories on a shared disk send no event: they are looked at.
POLL_SECONDS = 0.5
SCAN_SECONDS = 2.0
# Jobs in a row that ended before they began anything: more of them would do the same.
FUTILE_JOBS = 3

Grants = tuple[tuple[str, int], ...]
# Told how runs stand; may answer with more of them.
Finished = Callable[[Mapping[str, RunView]], Sequence[RunSpec] | None]


@dataclass(frozen=True)
class Request:
    """A job to start: the attempts it may claim, over how many processes."""

    grants: Grants
    world_size: int


def next_jobs(
    views: Iterable[RunView], live: Sequence[Job], cluster: Cluster, speed: Speed
) -> list[Request]:
    """The jobs that free workers should do; pure.

    Every worker gets the same list, longest run first, and claims from it what nobody has: they
    balance without a driver. A run of several processes gets a job of its own.
    """
    free = cluster.workers - sum(job.world_size for job in live)
    waiting = sorted(
        (run for run in views if run.state in ("PLANNED", "QUEUED")),
        key=lambda run: -speed.seconds(run.spec),
    )
    requests: list[Request] = []
    for run in waiting:
        size = run.spec.parallel.dp
        # A run wider than all workers goes alone.
        if size > 1 and run.state == "PLANNED" and (free >= size or not (live or requests)):
            requests.append(Request(((run.run_id, run.attempts + 1),), size))
            free -= size
    grants = tuple((run.run_id, run.attempts + 1) for run in waiting if run.spec.parallel.dp == 1)
    workers = max(0, min(free, len(grants)))
    return requests + [Request(grants, 1)] * workers


class Driver:
    """One study being driven: the only process that submits jobs for it."""

    def __init__(self, study: Study, place: StudyDir, speed: Speed, display: Display) -> None:
        self.study = study
        self.place = place
        self.speed = speed
        self.display = display
        self.ledger = Ledger(place.ledger)
        self.scan = Scan()
        self._unjudged: list[Job] = []
        self._futile = 0

    def prepare(self, configs: Iterable[DataConfig]) -> None:
        """Have the text of every config tokenized. Raises JobsFailed where that cannot be done."""
        wanted = list({data_id(config): config for config in configs}.values())
        log = ""
        for _ in range(FUTILE_JOBS):
            missing = [config for config in wanted if not self.place.has_data(config)]
            if not missing:
                return
            job = self._living("data") or self._start_data(missing)
            log = self._log(job)
            self._watch_data(job)
        if not all(map(self.place.has_data, wanted)):
            raise JobsFailed(f"the data job ended {FUTILE_JOBS} times without data; see {log}")

    def _watch_data(self, job: Job) -> None:
        folder = self.place.jobs / job.name
        while job.name in self.scan.names:
            said = folder / worker.PROGRESS
            detail = f": {said.read_text(encoding='utf-8')}" if said.exists() else ""
            self.display.note(f"preparing text and tokens{detail}")
            time.sleep(POLL_SECONDS)
            self._rescan()
        failure = folder / worker.FAILURE
        if failure.exists():
            message = failure.read_text(encoding="utf-8").partition("\n\n")[0]
            raise JobsFailed(f"the data cannot be prepared: {message} (log: {self._log(job)})")

    def _start_data(self, missing: Sequence[DataConfig]) -> Job:
        configs = [config.model_dump_json() for config in missing]
        return self._start("data", Request((), 1), worker.prepare, str(self.place.home), configs)

    def _living(self, stage: Stage) -> Job | None:
        self._rescan()
        found = [j for j in self.ledger.record.jobs if j.stage == stage]
        return next((job for job in found if job.name in self.scan.names), None)

    def drive(self, stage: Stage, specs: Sequence[RunSpec], on_finished: Finished) -> None:
        """Bring every run to an end: start jobs, adopt those that live, try again by policy.

        `on_finished` is called with all runs whenever more of them have ended; what it answers is
        run as well.
        """
        runs = Runs(self.place.runs, ())
        self._add(runs, specs)
        self._unjudged, self._futile = [], 0
        ended = -1
        while True:
            if time.monotonic() - self.scan.time > SCAN_SECONDS:
                self._rescan()
            views = runs.look(self.ledger.record.jobs, self.scan)
            self.display.update(views, self.place.runs, self.study.cluster.workers)
            if (now_ended := sum(run.finished for run in views.values())) > ended:
                ended = now_ended
                self._add(runs, on_finished(views) or ())
            if ended == len(runs.specs):
                return
            self._judge(views)
            self._start_missing(stage, views)
            time.sleep(POLL_SECONDS)

    def _add(self, runs: Runs, specs: Sequence[RunSpec]) -> None:
        for spec in specs:
            create_run(self.place.home, spec)
        runs.add(specs)

    def _start_missing(self, stage: Stage, views: Mapping[str, RunView]) -> None:
        jobs = self.ledger.record.jobs
        workers = self.study.cluster.workers
        live = [job for job in jobs if job.name in self.scan.names]
        for request in next_jobs(views.values(), live, self.study.cluster, self.speed):
            # Promoted stages and the validation rung run alone.
            alone = stage != "trials"
            threads = max(1, cores() // (request.world_size if alone else workers))
            grants = list(request.grants)
            job = self._start(stage, request, worker.work, str(self.place.runs), grants, threads)
            self._unjudged.append(job)

    def _start(
        self, stage: Stage, request: Request, function: Callable[..., None], *args: Any
    ) -> Job:
        """Say in the ledger what is meant, then start it."""
        name = self.ledger.record.next_job()
        self.ledger.append(
            {
                "event": "intent",
                "job": name,
                "stage": stage,
                "grants": request.grants,
                "world_size": request.world_size,
            }
        )
        folder = self.place.jobs / name
        submit(self.study.cluster, folder, request.world_size, function, *args)
        self._rescan()
        return self.ledger.record.jobs[-1]

    def _rescan(self) -> None:
        self.scan = scan(self.place.home)

    def _judge(self, views: Mapping[str, RunView]) -> None:
        """Stop where jobs end one after the other without beginning any of their runs."""
        for job in [j for j in self._unjudged if j.name not in self.scan.names]:
            self._unjudged.remove(job)
            begun = any(views[run].attempts >= n or views[run].finished for run, n in job.grants)
            self._futile = 0 if begun else self._futile + 1
            if self._futile == FUTILE_JOBS:
                raise JobsFailed(
                    f"{FUTILE_JOBS} jobs in a row ended before they began a run; the last one's "
                    f"log says why: {self._log(job)}"
                )

    def _log(self, job: Job) -> str:
        return self.place.logs(job.name)

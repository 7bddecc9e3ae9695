"""What a driver has started and what its scheduler says: submission, and looks at the queue.

A job is written to the ledger before it is started, and again when it was.
"""

import os
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeper import decisions, worker
from sweeper.dispatch import Request
from sweeper.errors import JobsFailed
from sweeper.folders import StudyDir
from sweeper.jobs import Backend, Order, Refused, Scan, cores
from sweeper.ledger import Ledger
from sweeper.record import Job, Stage
from sweeper.snapshot import take as snapshot
from sweeper.study import Study
from sweeper.watch import Display

# After a scheduler said that it takes no more for now.
REFUSED_SECONDS = 30.0


class Submission:
    """The jobs of one study: the only place that starts or cancels any."""

    def __init__(
        self, study: Study, place: StudyDir, display: Display, backend: Backend, ledger: Ledger
    ) -> None:
        self.study = study
        self.place = place
        self.display = display
        self.backend = backend
        self.ledger = ledger
        self.scan = Scan()
        self.array_size = backend.array_size
        self._not_before = 0.0
        self._said: set[str] = set()

    @cached_property
    def code(self) -> Path:
        """The copy of the program that jobs run, taken at the first of them."""
        return snapshot(self.place)

    @property
    def taken(self) -> bool:
        """Whether the scheduler may be asked again after it took no more."""
        return time.monotonic() >= self._not_before

    def lives(self, job: Job) -> bool:
        """An array lives as long as one of its elements does."""
        return bool(self.scan.names & set(job.names))

    def living(self) -> list[Job]:
        return [job for job in self.ledger.record.jobs if self.lives(job)]

    def log(self, job: Job) -> str:
        return self.place.logs(job.name)

    def due(self) -> bool:
        """Whether the scheduler has not been looked at for a while."""
        return time.monotonic() - self.scan.time > self.backend.scan_seconds

    def rescan(self, jobs: Sequence[Job]) -> None:
        """Ask the scheduler about these jobs, and say once what is doubtful."""
        self.scan = self.backend.scan(jobs)
        self.backend.hasten(self.scan.held)
        for note in self.scan.notes:
            if note not in self._said:
                self.display.say(note)
        self._said = set(self.scan.notes)

    def cancel(self, jobs: Sequence[Job], names: Collection[str]) -> bool:
        """Ask elements to end; False, and said, where the scheduler does not answer."""
        try:
            self.backend.cancel(jobs, names)
        except Refused as refused:
            self.display.say(f"jobs that have nothing to do are not ended yet: {refused}")
            return False
        return True

    def end_all(self, why: str) -> None:
        """End what waits or runs; nobody starts it again."""
        living = self.living()
        self.ledger.append(*({"event": "refused", "job": j.name, "why": why} for j in living))
        self.cancel(living, self.scan.names)

    def train(self, stage: Stage, request: Request) -> Job | None:
        """Start a job of granted runs; None where the scheduler takes no more for now.

        Raises JobsFailed where it refuses such jobs for good.
        """
        for run, attempt in request.grants:
            decisions.allow(self.place, run, attempt)
        # Promoted stages and the validation rung run alone.
        workers = self.study.cluster.workers if stage == "trials" else request.world_size
        threads = max(1, cores() // max(1, workers)) if not self.backend.chains else 0
        shares = [request.grants[i :: request.elements] for i in range(request.elements)]
        arguments = [(str(self.place.runs), list(share), threads) for share in shares]
        try:
            return self.start(stage, request, worker.work, arguments)
        except Refused as refused:
            if request.avoid and not refused.passing:
                # Where no other node is left, one of those is better than none.
                return self.train(stage, replace(request, avoid=()))
            self.say_refused(refused)
            # A limit is met with fewer at once.
            self.array_size = max(1, min(self.array_size, request.elements) // 2)
            self._not_before = time.monotonic() + self.pause_seconds
            return None

    def say_refused(self, refused: Refused) -> None:
        """What does not pass by itself is the user's to mend: that raises JobsFailed."""
        if not refused.passing:
            nodes = ", ".join(self.ledger.record.cordoned)
            cordon = f"; nodes that get no more jobs: {nodes} (sweeper retry --node)"
            raise JobsFailed(
                f"the scheduler refuses jobs of this study: {refused}; mend cluster in the study "
                "file, or override it (such as cluster.partition=...), and launch again"
                + (cordon if nodes else "")
            ) from refused
        self.display.say(f"the scheduler takes no more for now: {refused}")

    @property
    def pause_seconds(self) -> float:
        """From a passing refusal to the next request."""
        return min(REFUSED_SECONDS, self.backend.scan_seconds)

    def start(
        self,
        stage: Stage,
        request: Request,
        function: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
    ) -> Job:
        """Say in the ledger what is meant, then start it, then say that it was started."""
        name = self.ledger.record.next_job()
        self.ledger.append(
            {
                "event": "intent",
                "job": name,
                "stage": stage,
                "grants": request.grants,
                "world_size": request.world_size,
                "elements": request.elements,
                "code": self.code.name,
            }
        )
        job, folder = self.ledger.record.jobs[-1], self.place.jobs / name
        # Pickles lie there: whoever can write one runs code as this user.
        self.place.jobs.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        avoid = (*self.ledger.record.cordoned, *request.avoid)
        order = Order(job, folder, function, arguments, request.cap, avoid, request.after)
        try:
            # The folder that one stands in may hold the program as it is edited now.
            copy = {"PYTHONPATH": _first(self.code), "PYTHONSAFEPATH": "1"}
            with _environment(**copy, SWEEPER_CODE=self.code.name):
                scheduler_id = self.backend.submit(order)
        except Refused as refused:
            self.ledger.append({"event": "refused", "job": name, "why": str(refused)})
            raise
        self.ledger.append({"event": "submitted", "job": name, "id": scheduler_id})
        self.scan = replace(self.scan, names=self.scan.names | frozenset(job.names))
        return self.ledger.record.jobs[-1]


def _first(code: Path) -> str:
    """The path of modules, with a copy of the program before all else."""
    path = os.environ.get("PYTHONPATH")
    return str(code) + (os.pathsep + path if path else "")


@contextmanager
def _environment(**variables: str) -> Generator[None]:
    """Have what is started inside inherit these."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

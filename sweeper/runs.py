"""The state of every run, from run directories and living jobs alone."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import flops_per_token
from sweeper.jobs import Scan, scan
from sweeper.ledger import Job
from train.config import RunSpec, State, run_id
from train.runlog import Attempt, Cause, Failure, Result, RunDir

TERMINAL: frozenset[State] = frozenset({"DONE", "DIVERGED", "FAILED", "PRUNED", "CANCELLED"})

# How often a run may be tried. An exception of the code comes again; a kill, a full disk or
# memory taken by others need not.
ATTEMPTS: dict[Cause, int] = {"exception": 1, "out_of_memory": 3, "disk_full": 3, "killed": 3}

TAIL_BYTES = 4096
SETTLED_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class Files:
    """What a run directory holds: its result, its attempts, and the failure of the latest."""

    result: Result | None = None
    attempts: tuple[Attempt, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class RunView:
    """One run as it stands; `attempts` were claimed, `job` claimed the latest."""

    run_id: str
    spec: RunSpec
    state: State
    attempts: int
    job: str = ""
    message: str = ""
    result: Result | None = None

    @property
    def finished(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Progress:
    """How far a running attempt is, by its latest metrics line."""

    tokens: int
    loss: float
    tokens_per_second: float


def planned_flops(spec: RunSpec) -> float:
    """FLOPs that a run will have spent at its horizon."""
    return spec.tokens * flops_per_token(spec.model)


def view(spec: RunSpec, files: Files, jobs: Mapping[str, Job | None], lives: bool) -> RunView:
    """The state of one run; pure. `lives`: the job of the latest attempt does.

    `jobs` are the living ones by name, with their grants where they are this study's. A run without
    a result is RUNNING while the job of its latest attempt lives, FAILED when it was tried often
    enough, else QUEUED in a living job's list or PLANNED.
    """
    name, attempts = run_id(spec), len(files.attempts)
    job = files.attempts[-1].job if files.attempts else ""
    if files.result is not None:
        state = files.result.state
        return RunView(name, spec, state, attempts, job, files.result.cause, files.result)
    # Without a failure file the process was killed: no attempt says so of itself.
    cause: Cause = files.failure.cause if files.failure else "killed"
    spent = attempts >= ATTEMPTS[cause]
    if files.failure and spent:
        return RunView(name, spec, "FAILED", attempts, job, files.failure.message)
    # Another attempt follows only when the process of this one is gone.
    if attempts and lives:
        return RunView(name, spec, "RUNNING", attempts, job)
    if spent:
        message = f"killed: {attempts} attempts ended without a word"
        return RunView(name, spec, "FAILED", attempts, job, message)
    grant = (name, attempts + 1)
    queued = any(known is not None and grant in known.grants for known in jobs.values())
    return RunView(name, spec, "QUEUED" if queued else "PLANNED", attempts, job)


class Runs:
    """Looks at run directories again and again, reading only those that changed."""

    def __init__(self, folder: Path, specs: Iterable[RunSpec]) -> None:
        self.folder = folder
        self.specs: dict[str, RunSpec] = {}
        self.add(specs)
        self._read: dict[str, tuple[int, Files]] = {}
        self._first_seen: dict[tuple[str, int], float] = {}

    def add(self, specs: Iterable[RunSpec]) -> None:
        """Look at these runs too."""
        for spec in specs:
            self.specs.setdefault(run_id(spec), spec)

    def look(self, jobs: Sequence[Job], scan: Scan) -> dict[str, RunView]:
        """All runs by id, in the order of their specs.

        A job is gone when a scan after its attempt was first seen does not find it: a job that
        started after the scan would otherwise be taken for a dead one, and its run be given twice.
        """
        known = {job.name: job for job in jobs}
        living = {name: known.get(name) for name in scan.names}
        views: dict[str, RunView] = {}
        for name, spec in self.specs.items():
            files = self._files(name)
            views[name] = view(spec, files, living, self._lives(name, files, scan))
        return views

    def _lives(self, name: str, files: Files, scan: Scan) -> bool:
        if not files.attempts:
            return False
        latest = files.attempts[-1]
        key = (name, latest.number)
        seen = self._first_seen.setdefault(key, time.monotonic())
        return latest.job in scan.names or seen >= scan.time

    def _files(self, name: str) -> Files:
        folder = self.folder / name
        try:
            changed = os.stat(folder).st_mtime_ns
        except FileNotFoundError:
            return Files()
        known = self._read.get(name)
        if known is not None and known[0] == changed:
            return known[1]
        now = time.time_ns()
        files = read_files(RunDir(folder))
        # A folder that changed just now may change again within one tick of its clock.
        if now - changed > SETTLED_NANOSECONDS:
            self._read[name] = (changed, files)
        return files


def look_now(runs: Runs, jobs: Sequence[Job], home: Path) -> dict[str, RunView]:
    """All runs by id, with a scan of the processes made after their attempts were seen."""
    runs.look(jobs, Scan())
    return runs.look(jobs, scan(home))


def read_files(run: RunDir) -> Files:
    """What a run directory holds now."""
    attempts = tuple(run.attempts())
    failure = run.failure(attempts[-1].number) if attempts else None
    return Files(run.result(), attempts, failure)


def progress(run: RunDir, attempt: int) -> Progress | None:
    """The latest whole line of an attempt's metrics, or None before the first step."""
    try:
        with run.metrics(attempt).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        latest = json.loads(lines[-1])
        return Progress(latest["tokens"], latest["loss"], latest["tokens_per_second"])
    except (FileNotFoundError, IndexError, ValueError, KeyError):
        return None

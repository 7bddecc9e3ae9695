"""The state of every run, from run directories, living jobs and what was decided of it."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.counts import flops_per_token
from sweeper.elsewhere import Elsewhere, is_here
from sweeper.jobs import Backend, Scan
from sweeper.record import UNDECIDED, Decision, Job, Record
from sweeper.verdict import deadly_nodes, ends, given_up
from train.config import RunSpec, State
from train.lineage import leaf, state, to_train
from train.runlog import CHECKPOINT_MANIFEST, Attempt, Failure, Result, RunDir

TERMINAL: frozenset[State] = frozenset({"DONE", "DIVERGED", "FAILED", "PRUNED", "CANCELLED"})

TAIL_BYTES = 4096
SETTLED_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class Files:
    """What a run directory holds: its result, its attempts, and how they ended."""

    result: Result | None = None
    attempts: tuple[Attempt, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def unsaid(self) -> bool:
        """Whether the latest attempt left no word of how it ended; it may be at work."""
        number = self.attempts[-1].number if self.attempts else 0
        return bool(self.attempts) and all(f.attempt != number for f in self.failures)


# What was read of each run, with the time its directory changed last.
Read = dict[str, tuple[int, Files]]


@dataclass(frozen=True)
class RunView:
    """One run as it stands; `attempts` were claimed, `job` claimed the latest, on `host`.

    `message` says why it is no further and `cause` how the latest attempt ended; `unsaid`: that is
    over without a word. It died on the nodes of `avoid`, which may be their fault. One that `waits`
    has nothing to begin with yet.
    """

    run_id: str
    spec: RunSpec
    state: State
    attempts: int
    job: str = ""
    message: str = ""
    result: Result | None = None
    host: str = ""
    cause: str = ""
    unsaid: bool = False
    avoid: tuple[str, ...] = ()
    waits: bool = False

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
    """FLOPs that a run's model will have seen at its horizon, whoever spent them."""
    return spec.tokens * flops_per_token(spec.model)


def own_flops(spec: RunSpec) -> float:
    """Those of them that the run itself spends: a branch goes on from its trunk."""
    return to_train(spec) * flops_per_token(spec.model)


def view(
    name: str,
    spec: RunSpec,
    files: Files,
    granted: frozenset[tuple[str, int]] | set[tuple[str, int]],
    lives: bool,
    decision: Decision = UNDECIDED,
) -> RunView:
    """The state of one run; pure. `lives`: the job of the latest attempt does.

    `granted` are the attempts that living jobs may claim. A result stands whatever else is; then a
    decision; then the latest attempt, while it has not ended and its job lives. A run that ended
    otherwise is given up by the rules of `verdict`, or waits for its next attempt.
    """
    latest = files.attempts[-1] if files.attempts else None
    number = latest.number if latest else 0
    seen = RunView(
        run_id=name,
        spec=spec,
        state="PLANNED",
        attempts=number,
        job=latest.job if latest else "",
        host=latest.host if latest else "",
    )
    if files.result is not None:
        done = files.result
        return replace(seen, state=done.state, message=done.cause, result=done)
    if files.unsaid and lives:
        return replace(seen, state="RUNNING")
    if decision.state is not None:
        return replace(seen, state=decision.state, message=decision.cause, unsaid=files.unsaid)
    found = ends(files.attempts, files.failures, decision.after)
    cause, avoid = found[-1].cause if found else "", deadly_nodes(files.attempts, found)
    seen = replace(seen, cause=cause, unsaid=files.unsaid, avoid=avoid)
    if why := given_up(spec, found):
        return replace(seen, state="FAILED", message=why)
    # A scheduler starts an interrupted job again, and that goes on by itself.
    resumes = lives and bool(found) and found[-1].cause in ("preempted", "timeout")
    queued = resumes or (name, number + 1) in granted
    message = f"{found[-1].cause}: {found[-1].message}" if found else ""
    state: State = "QUEUED" if queued else "PLANNED"
    return replace(seen, state=state, message=message)


class Runs:
    """Looks at run directories again and again, reading only those that changed.

    `specs` are the runs by id. Those who share `read` share what they have read.
    """

    def __init__(
        self, folder: Path, specs: Mapping[str, RunSpec], read: Read | None = None
    ) -> None:
        self.folder = folder
        self.specs = dict(specs)
        self._read: Read = {} if read is None else read
        self._first_seen: dict[tuple[str, int], float] = {}
        self._now: dict[str, Files] = {}
        self._states: dict[str, Path] = {}
        self._elsewhere = Elsewhere(folder)

    def add(self, specs: Mapping[str, RunSpec]) -> None:
        """Look at these runs too."""
        self.specs |= {name: spec for name, spec in specs.items() if name not in self.specs}

    def look(self, record: Record, scan: Scan) -> dict[str, RunView]:
        """All runs by id, in the order of their specs.

        A job is gone when a scan after its attempt was first seen does not find it: a job that
        started after the scan would otherwise be taken for a dead one, and its run be given twice.
        One that the scan cannot see is judged by what its attempt writes.
        """
        granted = grants(record, scan)
        own = frozenset(name for job in record.jobs for name in job.names)
        views: dict[str, RunView] = {}
        for name, spec in self.specs.items():
            files = self._now[name] = self._files(name)
            lives = files.result is None and self._lives(name, files, scan, own)
            decision = record.decisions.get(name, UNDECIDED)
            seen = view(name, spec, files, granted, lives, decision)
            seen = _after_parent(seen, views, self.specs)
            trunk = views.get(spec.trunk) if spec.trunk else None
            views[name] = after_trunk(seen, trunk, self._has_state) if trunk else seen
        return views

    def seen(self) -> Mapping[str, Files]:
        """What the directories held at the last look, by run."""
        return self._now

    def _has_state(self, run: RunView) -> bool:
        """Whether the state that a branch leaves its trunk from is kept."""
        if run.run_id not in self._states:
            where = state(self.folder.parent, run.spec, leaf(run.spec))
            self._states[run.run_id] = where / CHECKPOINT_MANIFEST
        return self._states[run.run_id].exists()

    def _lives(self, name: str, files: Files, scan: Scan, own: frozenset[str]) -> bool:
        if not files.attempts:
            return False
        latest = files.attempts[-1]
        key = (name, latest.number)
        seen = self._first_seen.setdefault(key, time.monotonic())
        if latest.job in scan.names or seen >= scan.time:
            return True
        # A scheduler knows its own jobs wherever they run; else a scan sees this machine alone.
        known = latest.job in scan.ended or (scan.everywhere and latest.job in own)
        return not known and not is_here(latest.host) and self._elsewhere.writes(name, latest)

    def _files(self, name: str) -> Files:
        known = self._read.get(name)
        # A result stands for ever.
        if known is not None and known[1].result is not None:
            return known[1]
        folder = self.folder / name
        try:
            changed = os.stat(folder).st_mtime_ns
        except FileNotFoundError:
            return Files()
        if known is not None and known[0] == changed:
            return known[1]
        now = time.time_ns()
        files = read_files(RunDir(folder))
        # A folder that changed just now may change again within one tick of its clock.
        if now - changed > SETTLED_NANOSECONDS:
            self._read[name] = (changed, files)
        return files


def deaths(seen: Mapping[str, Files], record: Record) -> dict[str, set[str]]:
    """The runs that died on each node, for what may be the node's fault.

    What a person had tried anew does not count any more.
    """
    found: dict[str, set[str]] = {}
    for run, files in seen.items():
        after = record.decisions.get(run, UNDECIDED).after
        over = files.attempts[:-1] if files.unsaid else files.attempts
        for node in deadly_nodes(over, ends(over, files.failures, after)):
            found.setdefault(node, set()).add(run)
    return found


def grants(record: Record, scan: Scan) -> set[tuple[str, int]]:
    """The attempts that living jobs of this study may claim."""
    return {
        grant
        for job in record.jobs
        for index, name in enumerate(job.names)
        if name in scan.names
        for grant in job.share(index)
    }


def _after_parent(
    run: RunView, views: Mapping[str, RunView], specs: Mapping[str, RunSpec]
) -> RunView:
    """A run whose parent came to no good end cannot start."""
    parent = views.get(run.spec.parent or "") if run.spec.parent in specs else None
    if run.finished or parent is None or not parent.finished or parent.state == "DONE":
        return run
    return replace(run, state="CANCELLED", message=f"its parent {parent.run_id} is {parent.state}")


def after_trunk(run: RunView, trunk: RunView, has_state: Callable[[RunView], bool]) -> RunView:
    """A branch that never began needs its trunk's state, and ends as a trunk that cannot give it.

    Where a trunk is done and the state is not there, a branch goes on from what there is.
    """
    if run.finished or run.attempts or trunk.state == "DONE" or has_state(run):
        return run
    if not trunk.finished:
        return replace(run, waits=True, message=f"waits for its trunk {trunk.run_id}")
    # Alone it would have gone the same way.
    end: State = "DIVERGED" if trunk.state == "DIVERGED" else "CANCELLED"
    why = f"its trunk {trunk.run_id} is {trunk.state}"
    return replace(run, state=end, message=f"{why}: {trunk.message}" if trunk.message else why)


def unfinished(record: Record, views: Mapping[str, RunView]) -> list[Job]:
    """The jobs that may still do something: some run that was granted to them has no end yet.

    Among them those of other studies that hold a run of ours.
    """
    open_runs = {name for name, run in views.items() if not run.finished}
    known = {name for job in record.jobs for name in job.names}
    others = {views[run].job for run in open_runs} - known - {""}
    return [Job(name, "trials", (), 1, 0.0) for name in sorted(others)] + [
        job
        for job in record.jobs
        if not job.refused and (not job.grants or any(run in open_runs for run, _ in job.grants))
    ]


def look_now(runs: Runs, record: Record, backend: Backend) -> tuple[dict[str, RunView], Scan]:
    """All runs by id, with a scan of their jobs made after their attempts were seen."""
    scan = backend.scan(unfinished(record, runs.look(record, Scan())))
    return runs.look(record, scan), scan


def read_files(run: RunDir) -> Files:
    """What a run directory holds now."""
    result = run.result()
    attempts = tuple(run.attempts())
    return Files(result, attempts, () if result else tuple(run.failures()))


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

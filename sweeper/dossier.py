"""All that is known of one run, gathered from its directory."""

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import psutil

from sweeper import ledger
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.record import UNDECIDED, Decision, Record
from sweeper.references import Asker
from sweeper.runs import Files, RunView, view
from sweeper.study_file import explain
from train.config import RunSpec, data_id
from train.runlog import Attempt, Failure, Result, RunDir, Stop, read_lines


@dataclass(frozen=True)
class Dossier:
    """A run: what it is, who tried it, how each attempt ended, what came of it."""

    run: RunDir
    spec: RunSpec
    result: Result | None
    attempts: tuple[Attempt, ...]
    failures: dict[int, Failure]
    stops: dict[int, Stop]
    provenance: dict[str, Any]
    checkpoints: tuple[str, ...]

    @property
    def run_id(self) -> str:
        return self.run.path.name

    @property
    def state(self) -> str:
        """The run's state; PLANNED where another attempt may follow."""
        return self.standing.state

    @cached_property
    def standing(self) -> RunView:
        """How the run stands by the rules of its study's driver: as `status` says it.

        What a scheduler alone knows of its jobs is not asked for.
        """
        files = Files(self.result, self.attempts, tuple(self.failures.values()))
        lives = files.unsaid and not is_gone(self.attempts[-1])
        seen = view(self.run_id, self.spec, files, set(), lives, self._decision())
        parent = RunDir(self.run.path.parent / (self.spec.parent or ""))
        if seen.finished or not self.spec.parent or not (parent.path / "run.json").exists():
            return seen
        before = read(parent).standing
        if not before.finished or before.state == "DONE":
            return seen
        message = f"its parent {before.run_id} is {before.state}"
        return replace(seen, state="CANCELLED", message=message)

    def _decision(self) -> Decision:
        """What was decided of the run: by its study's ledger, else by the orders that lie here."""
        decided = _record(self.run.home, self.spec.study).decisions
        if self.run_id in decided:
            return decided[self.run_id]
        latest = self.attempts[-1].number if self.attempts else 0
        orders = (self.stops.get(number) for number in (latest + 1, latest))
        stop = next(filter(None, orders), None)
        return Decision(stop.state, stop.cause) if stop else UNDECIDED


def _record(home: Path, study: str) -> Record:
    """The ledger of the study that a run was started for; an empty one where there is none."""
    try:
        path = StudyDir(home, study).ledger
        stat = path.stat()
    except (UserError, OSError):
        return Record()
    return _replayed(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _replayed(path: Path, modified: int, size: int) -> Record:
    # Who follows a run asks twice a second.
    return ledger.read(path)


def is_gone(attempt: Attempt) -> bool:
    """Whether an attempt's process is known to have ended: it was of this machine and is not there.

    Of another machine's process nothing is known here.
    """
    return attempt.host == socket.gethostname() and not psutil.pid_exists(attempt.pid)


def read(run: RunDir) -> Dossier:
    """All that a run directory holds. Raises UserError where its run.json cannot be read."""
    try:
        spec = run.spec()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run.path / 'run.json'}: {explain(error)}; remove the folder and launch again"
        ) from error
    attempts = tuple(run.attempts())
    numbers = range(1, (attempts[-1].number if attempts else 0) + 2)
    return Dossier(
        run=run,
        spec=spec,
        result=run.result(),
        attempts=attempts,
        failures={n: failure for n in numbers if (failure := run.failure(n))},
        stops={n: stop for n in numbers if (stop := run.stop(n))},
        provenance=_provenance(run, spec),
        checkpoints=_checkpoints(run.checkpoints),
    )


def _provenance(run: RunDir, spec: RunSpec) -> dict[str, Any]:
    """env.json, with the hashes of data and tokenizer where it does not have them itself."""
    try:
        content = json.loads((run.path / "env.json").read_bytes())
        env = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    except (OSError, ValueError):
        env = {}
    name = data_id(spec.data)
    env.setdefault("data_id", name)
    env.setdefault("data_digest", spec.data.digest)
    if "tokenizer_sha256" not in env:
        env["tokenizer_sha256"] = _sha256(run.home / "data" / name / "tokenizer.json")
    return env


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _checkpoints(folder: Path) -> tuple[str, ...]:
    """Checkpoints by their folders below checkpoints/, states to resume from by their step."""
    found = [path.relative_to(folder) for path in folder.glob("*") if path.name == "final"]
    found += [path.relative_to(folder) for path in folder.glob("attempt-*/step-*")]
    return tuple(str(path) for path in sorted(found, key=lambda path: (len(path.parts), path)))


def changed_lines(diff: str) -> tuple[int, int]:
    """Lines that a diff adds and removes."""
    lines = [line for line in diff.splitlines() if not line.startswith(("+++", "---"))]
    return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)


def as_json(found: Dossier, askers: list[Asker]) -> dict[str, Any]:
    """A dossier as plain values."""
    return {
        "run_id": found.run_id,
        "path": os.fspath(found.run.path),
        "state": found.state,
        "asked_by": [asdict(asker) for asker in askers],
        "spec": found.spec.model_dump(mode="json"),
        "result": found.result.model_dump(mode="json") if found.result else None,
        "attempts": [_attempt_json(found, attempt) for attempt in found.attempts],
        "provenance": found.provenance,
        "checkpoints": list(found.checkpoints),
        "events": list(read_lines(found.run.events)),
    }


def _attempt_json(found: Dossier, attempt: Attempt) -> dict[str, Any]:
    failure, stop = found.failures.get(attempt.number), found.stops.get(attempt.number)
    return attempt.model_dump(mode="json") | {
        "failure": failure.model_dump(mode="json") if failure else None,
        "stop": stop.model_dump(mode="json") if stop else None,
    }

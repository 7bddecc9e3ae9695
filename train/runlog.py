"""The run directory: the one contract between a job and the driver.

    HOME/runs/RUN_ID/
        run.json             the RunSpec, written by the driver
        attempt.N.json       who runs attempt N; its exclusive creation is the claim
        env.json             code, packages, host of the latest attempt
        metrics.N.jsonl      one line a logged step of attempt N
        events.jsonl         one line an event (start, resume, checkpoint, diverged, ...)
        checkpoints/         attempt-N/step-S/ to resume from, and final/ with the weights alone
        stop.N.json          attempt N must end, or must not begin
        failure.N.json       how attempt N ended without a result
        result.json          written last and atomically: its presence is completion

Attempt N may write while there is no attempt.M.json with M > N. What it writes of its own carries
its number, so a process that was thought dead writes over nothing of its successor's.

No torch here: driver and tests read run directories with these functions.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from train.config import Frozen, RunSpec, run_id

# killed: a signal that nobody here sent. preempted, timeout, stopped: asked to end, with a
# checkpoint written. superseded: a later attempt exists. node_failure: said by the scheduler alone.
# corrupted: ranks that must hold the same did not (train.replicas).
Cause = Literal[
    "exception",
    "out_of_memory",
    "disk_full",
    "killed",
    "preempted",
    "timeout",
    "node_failure",
    "corrupted",
    "stopped",
    "superseded",
]


class Result(Frozen):
    """What a finished run measured. Losses are nats per token over the validation text.

    `flops` counts what went into the model (`model.config.flops_per_token` x tokens), of which this
    run did not train the first `inherited_tokens`: its trunk had. `mfu` is None where no peak is
    known. `metrics` holds what is particular to a stage or a source, by name.
    """

    run_id: str
    state: Literal["DONE", "DIVERGED"]
    cause: str = ""
    tokens: int
    inherited_tokens: int = 0
    flops: float
    nats_per_token: float | None
    bits_per_byte: float | None
    params_total: int
    params_non_embedding: int
    params_active: int
    seconds: float
    gpu_hours: float
    tokens_per_second: float
    mfu: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def trained_flops(self) -> float:
        """FLOPs that this run spent itself."""
        return self.flops * (self.tokens - self.inherited_tokens) / self.tokens


class Attempt(Frozen):
    """One try at a run, and the process that makes it.

    `micro_batch_size` is the one in use, smaller than the spec's after an attempt ran out of
    memory. Of an attempt whose file cannot be read only the number is known; the rest is empty.
    """

    number: int
    job: str = ""
    host: str = ""
    pid: int = 0
    world_size: int = 1
    started: float = 0.0
    micro_batch_size: int = 0


class Failure(Frozen):
    """How an attempt ended without a result; `trace` is for the log, `message` for the table.

    A later attempt can go on after `step`. `hosts` are those whose fault it may be, where that is
    known better than by where the first rank was.
    """

    attempt: int
    cause: Cause
    message: str
    trace: str = ""
    step: int = 0
    hosts: tuple[str, ...] = ()


class Stop(Frozen):
    """An order to an attempt to end: `cause` says why, `study` whose decision it is."""

    state: Literal["PRUNED", "CANCELLED"]
    cause: str
    study: str


CHECKPOINT_MANIFEST = "manifest.json"  # written last: hashes of the other files of a checkpoint

Record = TypeVar("Record", bound=Frozen)


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """A record of its own file, or None where it is absent, torn or something else.

    Any other error of the disk is raised: what cannot be read now is not known to be absent.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part (fsync, rename)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create_exclusive(path: Path, text: str) -> bool:
    """Create a file with its whole content, or return False where it exists already.

    A hard link is atomic also on NFS, where it is the classic lock.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Records of an append-only .jsonl file; a torn last line (a killed writer) is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record. A torn line before it (a killed writer) is closed first."""
    with path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def _attempt_and_step(folder: Path) -> tuple[int, int] | None:
    match = re.fullmatch(r"attempt-(\d+)/step-(\d+)", f"{folder.parent.name}/{folder.name}")
    return (int(match[1]), int(match[2])) if match else None


def step_of(folder: Path | None) -> int:
    """Steps that a state to resume from holds; 0 for none."""
    return 0 if folder is None else int(folder.name.removeprefix("step-"))


class RunDir:
    """Paths and records of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.final = path / "checkpoints" / "final"

    @property
    def home(self) -> Path:
        """The folder that holds runs/, data/ and studies/."""
        return self.path.parent.parent

    def metrics(self, attempt: int) -> Path:
        return self.path / f"metrics.{attempt}.jsonl"

    def attempt_checkpoints(self, attempt: int) -> Path:
        """Where attempt N alone writes states to resume from; every attempt reads all of them."""
        return self.checkpoints / f"attempt-{attempt}"

    def resume_states(self) -> list[Path]:
        """Folders of states to resume from, newest step first, whole or not; of one step the
        latest attempt's first.
        """
        found = ((_attempt_and_step(p), p) for p in self.checkpoints.glob("attempt-*/step-*"))
        known = sorted((numbers[::-1], path) for numbers, path in found if numbers)
        return [path for _, path in reversed(known)]

    def resume_step(self) -> int:
        """The step that a later attempt can go on after, by what was written to the end."""
        whole = (p for p in self.resume_states() if (p / CHECKPOINT_MANIFEST).exists())
        return step_of(next(whole, None))

    def _numbered(self, kind: str) -> dict[int, Path]:
        """Files KIND.N.json by N, ascending."""
        try:
            names = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found = (re.fullmatch(rf"{kind}\.([1-9]\d*)\.json", name) for name in names)
        return {n: self.path / name for n, name in sorted((int(m[1]), m[0]) for m in found if m)}

    def spec(self) -> RunSpec:
        return RunSpec.model_validate_json((self.path / "run.json").read_text(encoding="utf-8"))

    def result(self) -> Result | None:
        """The result, or None while there is none. A torn or foreign result.json does not count."""
        result = read_record(self.path / "result.json", Result)
        return result if result and result.run_id == self.path.name else None

    def attempts(self) -> list[Attempt]:
        """All attempts so far, oldest first. One that cannot be read still counts."""
        return [
            read_record(path, Attempt) or Attempt(number=number)
            for number, path in self._numbered("attempt").items()
        ]

    def superseded(self, attempt: int) -> bool:
        """True once a later attempt exists: attempt N must not write any more."""
        return any(number > attempt for number in self._numbered("attempt"))

    def seconds_before(self, attempt: int) -> float:
        """Seconds that earlier attempts spent in training steps: their cost is the run's cost."""
        logs = (list(read_lines(self.metrics(number))) for number in range(1, attempt))
        return sum((log[-1].get("seconds", 0.0) for log in logs if log), 0.0)

    def claim(self, attempt: Attempt) -> bool:
        """Take attempt N of this run for this process; False where another process has it.

        The driver grants attempt N + 1 only when the job of attempt N is gone, so at most one live
        process writes here.
        """
        path = self.path / f"attempt.{attempt.number}.json"
        return create_exclusive(path, attempt.model_dump_json())

    def failure(self, attempt: int) -> Failure | None:
        return read_record(self.path / f"failure.{attempt}.json", Failure)

    def failures(self) -> list[Failure]:
        """How earlier attempts ended, oldest first; those that cannot be read are left out."""
        found = (read_record(path, Failure) for path in self._numbered("failure").values())
        return [failure for failure in found if failure]

    def write_failure(self, failure: Failure) -> bool:
        """Record how an attempt ended; of several that say so, the first names the cause.

        False where another was first.
        """
        path = self.path / f"failure.{failure.attempt}.json"
        return create_exclusive(path, failure.model_dump_json())

    def stop(self, attempt: int) -> Stop | None:
        """The order to attempt N to end, or None while there is none."""
        return read_record(self.path / f"stop.{attempt}.json", Stop)

    def write_stop(self, attempt: int, stop: Stop) -> bool:
        """Order attempt N to end, or not to begin; False where that was ordered before."""
        return create_exclusive(self.path / f"stop.{attempt}.json", stop.model_dump_json())

    def write_result(self, result: Result) -> None:
        """Complete the run. Of two results the first stands; what is torn or foreign does not."""
        if self.result() is None:
            write_atomic(self.path / "result.json", result.model_dump_json())

    def withdraw_result(self, why: str) -> None:
        """Take back a completion that does not hold any more: the run may be claimed again."""
        for attempt in self.attempts()[-1:]:
            self.write_failure(Failure(attempt=attempt.number, cause="stopped", message=why))
        self.event("withdrawn", message=why)
        (self.path / "result.json").unlink(missing_ok=True)

    def event(self, name: str, **fields: Any) -> None:
        append_line(self.events, {"time": time.time(), "event": name, **fields})


def create_run(home: Path, spec: RunSpec) -> RunDir:
    """Make the run directory of a spec, or return the one that is there: same id, same content.

    How often replicas are compared and states kept is no content: the next attempt does it as asked
    last.
    """
    run = RunDir(home / "runs" / run_id(spec))
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.path / "run.json"
    if not path.exists():
        write_atomic(path, spec.model_dump_json(indent=1))
        return run
    written = run.spec()
    kept = {"stability": spec.stability, "checkpoints": spec.checkpoints}
    changed = written.model_copy(update=kept)
    if changed != written:
        write_atomic(path, changed.model_dump_json(indent=1))
    return run

"""The run directory: the one contract between a job and the driver.

    HOME/runs/RUN_ID/
        run.json             the RunSpec, written by the driver
        attempt.N.json       who runs attempt N; its exclusive creation is the claim
        env.json             code, packages, host of the latest attempt
        metrics.N.jsonl      one line a logged step of attempt N
        events.jsonl         one line an event (start, resume, checkpoint, diverged, ...)
        checkpoints/         resumable engine states, and final/ with the weights alone
        failure.N.json       why attempt N ended without a result
        result.json          written last and atomically: its presence is completion

No torch here: driver and tests read run directories with these functions.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from train.config import Frozen, RunSpec, State, run_id

Cause = Literal["out_of_memory", "exception", "killed", "disk_full"]


class Result(Frozen):
    """What a finished run measured. Losses are nats per token over the validation text.

    `flops` counts what was trained (`model.config.flops_per_token` x tokens); `mfu` is None where
    no peak is known. `metrics` holds what is particular to a stage or a source, by name.
    """

    run_id: str
    state: State
    cause: str = ""
    tokens: int
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


class Attempt(Frozen):
    """One try at a run, and the process that makes it."""

    number: int
    job: str
    host: str
    pid: int
    world_size: int
    started: float


class Failure(Frozen):
    """Why an attempt ended without a result; `trace` is for the log, `message` for the table."""

    attempt: int
    cause: Cause
    message: str
    trace: str = ""


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part (fsync, rename)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def create_exclusive(path: Path, text: str) -> bool:
    """Create a file with its whole content, or return False where it exists already.

    A hard link is atomic also on NFS, where it is the classic lock.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
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

    def spec(self) -> RunSpec:
        return RunSpec.model_validate_json((self.path / "run.json").read_text(encoding="utf-8"))

    def result(self) -> Result | None:
        """The result, or None while there is none. A torn or foreign result.json does not count."""
        try:
            text = (self.path / "result.json").read_text(encoding="utf-8")
            result = Result.model_validate_json(text)
        except (FileNotFoundError, ValueError):
            return None
        return result if result.run_id == self.path.name else None

    def attempts(self) -> list[Attempt]:
        """All attempts so far, oldest first."""
        found = (
            Attempt.model_validate_json(path.read_text(encoding="utf-8"))
            for path in self.path.glob("attempt.*.json")
        )
        return sorted(found, key=lambda attempt: attempt.number)

    def seconds_before(self, attempt: int) -> float:
        """Seconds that earlier attempts spent in training steps: their cost is the run's cost."""
        logs = (list(read_lines(self.metrics(number))) for number in range(1, attempt))
        return sum((log[-1]["seconds"] for log in logs if log), 0.0)

    def claim(self, attempt: Attempt) -> bool:
        """Take attempt N of this run for this process; False where another process has it.

        The driver grants attempt N + 1 only when the job of attempt N is gone, so at most one live
        process writes here.
        """
        path = self.path / f"attempt.{attempt.number}.json"
        return create_exclusive(path, attempt.model_dump_json())

    def failure(self, attempt: int) -> Failure | None:
        try:
            text = (self.path / f"failure.{attempt}.json").read_text(encoding="utf-8")
            return Failure.model_validate_json(text)
        except (FileNotFoundError, ValueError):
            return None

    def write_failure(self, failure: Failure) -> None:
        """Record why an attempt failed; of several ranks that fail, the first names the cause."""
        create_exclusive(self.path / f"failure.{failure.attempt}.json", failure.model_dump_json())

    def write_result(self, result: Result) -> None:
        write_atomic(self.path / "result.json", result.model_dump_json())

    def event(self, name: str, **fields: Any) -> None:
        append_line(self.events, {"time": time.time(), "event": name, **fields})


def create_run(home: Path, spec: RunSpec) -> RunDir:
    """Make the run directory of a spec, or return the one that is there: same id, same content."""
    run = RunDir(home / "runs" / run_id(spec))
    run.path.mkdir(parents=True, exist_ok=True)
    if not (run.path / "run.json").exists():
        write_atomic(run.path / "run.json", spec.model_dump_json(indent=1))
    return run

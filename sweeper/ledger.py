"""The ledger: what the driver decided, append-only, a checksum on every line.

    {"crc": "1c291ca3", "event": {"event": "intent", "job": "swp-5d41402a-0001", ...}}

With the run directories it is the whole record of a study: a driver that starts replays it.
"""

import json
import os
import time
import uuid
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import UserError

Event = dict[str, Any]
Stage = Literal["data", "trials", "validation", "promotion"]


@dataclass(frozen=True)
class Job:
    """A job that the driver meant to start: what for, and the attempts that it may claim."""

    name: str
    stage: Stage
    grants: tuple[tuple[str, int], ...]
    world_size: int
    time: float


@dataclass(frozen=True)
class Batch:
    """Trials that an adaptive design asked for: budget, params_target and seed of each.

    `saw` are the runs that had ended, by id: with them the same batch would be asked for again.
    """

    saw: tuple[str, ...]
    points: tuple[tuple[float, float, int], ...]
    why: str


@dataclass(frozen=True)
class Rung:
    """The validation rung that was chosen: budget and params_target, after the trials of `saw`."""

    saw: tuple[str, ...]
    budget: float
    params: float


@dataclass(frozen=True)
class Record:
    """What the events of a ledger add up to."""

    uid: str = ""
    created: float = 0.0
    jobs: tuple[Job, ...] = ()
    batches: tuple[Batch, ...] = ()
    rungs: tuple[Rung, ...] = ()

    def next_job(self) -> str:
        """The name of the next job: with a random study id, so that no other study has it."""
        return f"swp-{self.uid}-{len(self.jobs) + 1:04d}"


def replay(events: Iterable[Event]) -> Record:
    """The record after these events; pure."""
    uid, created = "", 0.0
    jobs: list[Job] = []
    batches: list[Batch] = []
    rungs: list[Rung] = []
    for event in events:
        match event["event"]:
            case "study":
                uid, created = event["uid"], event["time"]
            case "intent":
                grants = tuple((run, attempt) for run, attempt in event["grants"])
                jobs.append(
                    Job(event["job"], event["stage"], grants, event["world_size"], event["time"])
                )
            case "batch":
                points = tuple((budget, size, seed) for budget, size, seed in event["points"])
                batches.append(Batch(tuple(event["saw"]), points, event["why"]))
            case "rung":
                rungs.append(Rung(tuple(event["saw"]), event["budget"], event["params"]))
            case _:
                # Said for people: what they announce has a record of its own (promotion.json).
                pass
    return Record(uid, created, tuple(jobs), tuple(batches), tuple(rungs))


def _line(event: Event) -> bytes:
    text = json.dumps(event, sort_keys=True)
    return json.dumps({"crc": f"{zlib.crc32(text.encode()):08x}", "event": event}).encode() + b"\n"


def _parse(line: bytes) -> Event | None:
    """The event of a line, or None where the line is not whole."""
    try:
        content = json.loads(line)
        event, crc = content["event"], content["crc"]
        text = json.dumps(event, sort_keys=True)
        return event if int(crc, 16) == zlib.crc32(text.encode()) else None
    except (ValueError, KeyError, TypeError):
        return None


def scan(content: bytes, name: str = "ledger") -> tuple[list[Event], int]:
    """The events of a ledger's content and the bytes that they fill: a torn last line is left out.

    Raises UserError where a line before the last is damaged.
    """
    events: list[Event] = []
    good = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        event = _parse(line) if line.endswith(b"\n") else None
        if event is None and number < len(lines):
            raise UserError(
                f"{name}: line {number} of {len(lines)} is damaged; put back a copy of the file, "
                "or remove the study's folder: its runs lie beside it and will be found again"
            )
        if event is None:
            warnings.warn(f"{name}: the torn last line is left out", stacklevel=2)
            break
        events.append(event)
        good += len(line)
    return events, good


class Ledger:
    """The ledger of a study, open for its one driver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        events, good = scan(content, str(path))
        if good < len(content):
            os.truncate(path, good)
        self.record = replay(events)
        self._events = events
        if not self.record.uid:
            self.append({"event": "study", "uid": uuid.uuid4().hex[:8]})

    def append(self, *events: Event) -> None:
        """Write events to disk before anything is done about them."""
        stamped = [{**event, "time": time.time()} for event in events]
        with self.path.open("ab") as file:
            file.write(b"".join(map(_line, stamped)))
            file.flush()
            os.fsync(file.fileno())
        self._events.extend(stamped)
        self.record = replay(self._events)


def read(path: Path) -> Record:
    """The record of a study as it stands, for readers that are not its driver."""
    return replay(scan(path.read_bytes(), str(path))[0] if path.exists() else [])

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
from pathlib import Path

from sweeper.errors import UserError
from sweeper.record import Event, Record, replay


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
        if not self.record.uid:
            self.append({"event": "study", "uid": uuid.uuid4().hex[:8]})

    def append(self, *events: Event) -> None:
        """Write events to disk before anything is done about them."""
        stamped = [{**event, "time": time.time()} for event in events]
        with self.path.open("ab") as file:
            file.write(b"".join(map(_line, stamped)))
            file.flush()
            os.fsync(file.fileno())
        for event in stamped:
            self.record.add(event)


def read(path: Path) -> Record:
    """The record of a study as it stands, for readers that are not its driver."""
    return replay(scan(path.read_bytes(), str(path))[0] if path.exists() else [])

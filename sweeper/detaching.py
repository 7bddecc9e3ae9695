"""A driver in the background: the same command, cut off from the terminal."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sweeper.errors import JobsFailed
from sweeper.folders import StudyDir

BEGIN_SECONDS = 60.0


def start(place: StudyDir, study: Path, overrides: Sequence[str]) -> list[str]:
    """Start the driver of a study and say where it speaks. Raises JobsFailed where it ends at once.

    It holds the study when its process stands in the lock.
    """
    place.path.mkdir(parents=True, exist_ok=True)
    with place.driver_log.open("ab") as log:
        driver = subprocess.Popen(
            [sys.executable, sys.argv[0], "launch", str(study), *overrides],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + BEGIN_SECONDS
    while _holder(place) != driver.pid and time.monotonic() < deadline:
        if (code := driver.poll()) is not None:
            return _ended(place, code)
        time.sleep(0.1)  # a lock announces nothing
    return [
        f"driver {driver.pid} goes on in the background; it says: {place.driver_log}",
        f"to see how it stands: sweeper status {study}",
    ]


def _ended(place: StudyDir, code: int) -> list[str]:
    said = place.driver_log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    if code:
        raise JobsFailed("\n".join([f"the driver ended with exit code {code}:", *said]))
    return said


def _holder(place: StudyDir) -> int | None:
    try:
        return json.loads(place.lock.read_text(encoding="utf-8"))["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None

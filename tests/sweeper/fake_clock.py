"""A clock that a test sets: the time of day as Python sees it, in the driver and in its jobs.

$SWEEPER_TEST_CLOCK names a file with the seconds that the clock is off; without it nothing changes.
"""

import os
import time
from pathlib import Path


def install() -> None:
    """Have `time.time` say what the file makes of it."""
    name = os.environ.get("SWEEPER_TEST_CLOCK")
    if not name:
        return
    real, real_ns = time.time, time.time_ns

    def off() -> float:
        return float(Path(name).read_text())

    time.time = lambda: real() + off()
    time.time_ns = lambda: real_ns() + int(off() * 1e9)

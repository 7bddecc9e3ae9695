"""What tests of whole launches look at: run directories and processes."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from train.runlog import RunDir, read_lines

HOLD = "promotion.approve=hold"
CONTROLLER, TASK = "submitit.local._local", "submitit.core._submit"


def runs(home: Path) -> list[RunDir]:
    return [RunDir(path) for path in sorted((home / "runs").iterdir())]


def starts(run: RunDir) -> int:
    """How often training of a run began."""
    return sum(event["event"] == "start" for event in read_lines(run.events))


def processes(home: Path, module: str) -> list[psutil.Process]:
    """Processes of a submitit module that belong to jobs of this home."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if module in command and str(home) in command[-1]:
            found.append(process)
    return found


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)

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


def made(run: RunDir) -> list[int]:
    """The steps of a run, whichever attempt made them."""
    return [
        line["step"]
        for attempt in run.attempts()
        for line in read_lines(run.metrics(attempt.number))
    ]


def processes(home: Path, module: str) -> list[psutil.Process]:
    """Processes of a submitit module that belong to jobs of this home."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if module in command and str(home) in command[-1]:
            found.append(process)
    return found


def under_way(home: Path) -> list[RunDir]:
    """Runs whose latest attempt has made a step and that have no result yet."""
    found = [RunDir(path.parent) for path in sorted((home / "runs").glob("*/metrics.1.jsonl"))]
    return [run for run in found if run.result() is None and _stepped(run)]


def _stepped(run: RunDir) -> bool:
    return any(read_lines(run.metrics(run.attempts()[-1].number)))


def kill_under_way(home: Path, seconds: float = 30.0) -> tuple[RunDir, int]:
    """`kill -9` of a process in the middle of an attempt; its run, and its number.

    It is held first and looked at again: a run may end between being seen and being killed.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for run in under_way(home):
            process = psutil.Process(run.attempts()[-1].pid)
            process.suspend()
            if run.result() is None and run.attempts()[-1].pid == process.pid:
                process.kill()
                return run, process.pid
            process.resume()
        time.sleep(0.05)
    raise AssertionError("no run was seen in its middle")


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)

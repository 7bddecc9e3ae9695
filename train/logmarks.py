"""Marks in a job's logs: where an attempt begins and ends, for a log that several runs share."""

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager

from train.runlog import RunDir

MARK = re.compile(r"== attempt (\d+) of run (\S+) (begins|ends)")


def mark(run_id: str, attempt: int, what: str) -> str:
    """The line that says it."""
    return f"== attempt {attempt} of run {run_id} {what}"


@contextmanager
def marked(run: RunDir, attempt: int) -> Generator[None]:
    """What is written inside stands between two marks, in both logs of this process.

    A process that is killed leaves the second away.
    """
    _say(mark(run.path.name, attempt, "begins"))
    try:
        yield
    finally:
        _say(mark(run.path.name, attempt, "ends"))


def _say(line: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        print(line, file=stream, flush=True)

"""Attempts on other machines of a shared home, which nobody can ask: their files speak for them.

A training attempt writes a line a step. One that has written nothing for long is taken for dead;
should it wake up, it finds the next attempt's file and ends without writing over anything.
"""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from train.runlog import Attempt, RunDir

# Longer than a step, an evaluation or the start of a run on one machine. Ours.
QUIET_SECONDS = 600.0
# Old by the clocks, which may be apart: believed when nothing was written while we watched.
WATCHED_SECONDS = 30.0
# No clocks are so far apart: `status` looks once and does not watch.
NO_DOUBT_SECONDS = 6 * 3600.0


def is_here(host: str) -> bool:
    """Whether an attempt of this host ran on this machine; one that names none counts as ours."""
    return host in ("", socket.gethostname(), os.environ.get("SLURMD_NODENAME", ""))


@dataclass(frozen=True)
class _Sign:
    """The newest time among an attempt's files, and when we first saw that (time.monotonic)."""

    newest: float
    since: float


class Elsewhere:
    """What attempts on other machines were seen to write in the run directories of a folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._signs: dict[tuple[str, int], _Sign] = {}

    def writes(self, run: str, attempt: Attempt) -> bool:
        """Whether the attempt may be at work, by the age of its files and by what changed."""
        key, newest, now = (run, attempt.number), self._newest(run, attempt), time.monotonic()
        sign = self._signs.get(key)
        if sign is None or sign.newest != newest:
            sign = self._signs[key] = _Sign(newest, now)
        watched = now - sign.since
        quiet = time.time() - newest
        old = quiet > QUIET_SECONDS and (watched > WATCHED_SECONDS or quiet > NO_DOUBT_SECONDS)
        return not (old or watched > QUIET_SECONDS)

    def _newest(self, name: str, attempt: Attempt) -> float:
        run = RunDir(self.runs / name)
        signs = (
            run.path / f"attempt.{attempt.number}.json",
            run.metrics(attempt.number),
            run.attempt_checkpoints(attempt.number),
        )
        return max(map(_modified, signs))


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

"""`python slow_disk.py RUN_DIR`: a state is on the disk only LATE steps after it was begun.

A disk that waits for what is logged: its writing ends once the run has gone on that far.
"""

import os
import sys
import time
import uuid
from pathlib import Path

from train import engine
from train.config import steps
from train.job import work
from train.runlog import RunDir

LATE = int(os.environ["LATE"])
RUN = RunDir(Path(sys.argv[1]))
whole = engine.Snapshot.write


def logged() -> int:
    return RUN.metrics(1).read_bytes().count(b"\n")


def write(self: engine.Snapshot) -> None:
    late = min(logged() + LATE, steps(RUN.spec()))
    while logged() < late:
        time.sleep(0.001)  # the step lines are another thread's
    whole(self)


if __name__ == "__main__":
    engine.Snapshot.write = write
    ended = work([(RUN.path, 1)], uuid.uuid4().hex, 1, 0, 1, 0, Path("unused"))
    raise SystemExit(not ended.all_well)

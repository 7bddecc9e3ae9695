"""`python killed_trunk.py RUN_DIR`: SIGKILL while the trunk writes its second state."""

import os
import signal
import sys
import uuid
from pathlib import Path

from train import checkpoint
from train.job import work

whole = checkpoint.seal


def seal(folder: Path) -> None:
    if "trunks" in folder.parts and len(list(folder.parent.parent.glob("step-*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(folder)


if __name__ == "__main__":
    checkpoint.seal = seal
    ended = work([(Path(sys.argv[1]), 1)], uuid.uuid4().hex, 1, 0, 1, 0, Path("unused"))
    raise SystemExit(not ended.all_well)

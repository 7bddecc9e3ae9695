"""`python full_gpu.py RUN_DIR`: training on a GPU of which all but LEFT_BYTES is taken."""

import os
import sys
import uuid
from pathlib import Path

import torch

from train import attempt
from train.job import work
from train.runlog import RunDir

build_engine = attempt.build_engine
BALLAST: list[torch.Tensor] = []


def build_on_a_full_gpu(*arguments):
    """In the child: its parent may not touch the GPU."""
    free, _ = torch.cuda.mem_get_info()
    taken = max(0, free - int(os.environ["LEFT_BYTES"]))
    BALLAST.append(torch.empty(taken, dtype=torch.uint8, device="cuda"))
    return build_engine(*arguments)


if __name__ == "__main__":
    attempt.build_engine = build_on_a_full_gpu
    number = len(RunDir(Path(sys.argv[1])).attempts()) + 1
    grants = [(Path(sys.argv[1]), number)]
    ended = work(grants, uuid.uuid4().hex, 1, 0, 1, 0, Path("unused"))
    raise SystemExit(not ended.all_well)

"""`python -m train RUN_DIR ...`: train run directories in this process, or under torchrun.

The manager does the same through submitit; this is the way to repeat one run by hand, in a debugger
or on another machine. Exit status 1: not every run ended with a result.
"""

import argparse
import os
import uuid
from pathlib import Path

from train.job import work
from train.runlog import RunDir


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("run", nargs="+", type=Path, help="a folder with a run.json")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    missing = [path for path in arguments.run if not (path / "run.json").is_file()]
    if missing:
        parser.error(f"{missing[0]} holds no run.json; `sweeper launch` writes one for every trial")
    # torchrun gives all ranks of one start the same id; alone, any new name will do.
    start = os.environ.get("TORCHELASTIC_RUN_ID", uuid.uuid4().hex)
    runs = [RunDir(path.resolve()) for path in arguments.run]
    ended = work(
        [(run.path, len(run.attempts()) + 1) for run in runs],
        job=f"by-hand-{start}",
        threads=arguments.threads,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        rendezvous=runs[0].path / f"rendezvous-{start}",
    )
    if not ended.all_well:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""What runs inside a job. torch is imported here, after the threads are set, and nowhere else."""

import os
import traceback
from pathlib import Path

FAILURE = "failure.txt"
PROGRESS = "progress.txt"


def work(folder: str, runs: str, grants: list[tuple[str, int]], threads: int) -> None:
    """Claim and train the granted (run_id, attempt) in turn, as one rank of this job.

    `folder` is the job's own; every process of the job calls this with the same arguments.
    """
    import submitit

    here = submitit.JobEnvironment()
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "RANK": here.global_rank,
        "WORLD_SIZE": here.num_tasks,
        "LOCAL_RANK": here.local_rank,
        "LOCAL_WORLD_SIZE": here.num_tasks // here.num_nodes,
    }
    os.environ.update({name: str(value) for name, value in environment.items()})
    from train.job import work as run_all

    job = Path(folder)
    run_all(
        [(Path(runs) / run_id, attempt) for run_id, attempt in grants],
        job=job.name,
        threads=threads,
        rank=here.global_rank,
        world_size=here.num_tasks,
        local_rank=here.local_rank,
        rendezvous=job / f"rendezvous.{here.job_id}",
    )


def prepare(folder: str, home: str, configs: list[str]) -> None:
    """Prepare the text of each data config; progress and failure are left in the job's folder."""
    from train.config import DataConfig
    from train.data.prepare import prepare as prepare_data
    from train.runlog import write_atomic

    def report(line: str) -> None:
        write_atomic(Path(folder) / PROGRESS, line)

    try:
        for config in configs:
            prepare_data(DataConfig.model_validate_json(config), Path(home), report)
    except Exception as error:
        write_atomic(Path(folder) / FAILURE, f"{error}\n\n{traceback.format_exc()}")
        raise

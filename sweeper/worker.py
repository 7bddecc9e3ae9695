"""What runs inside a job. torch is imported here, after the threads are set, and nowhere else."""

import os
import time
import traceback
from pathlib import Path
from typing import Any

from sweeper.requeue import requeue
from sweeper.verdict import ends, given_up
from train.runlog import RunDir

FAILURE = "failure.txt"
PROGRESS = "progress.txt"
PREPARED = "prepared.txt"


def work(folder: str, runs: str, grants: list[tuple[str, int]], threads: int) -> None:
    """Claim and train the granted (run_id, attempt) in turn, as one rank of this job.

    `folder` is the job's own; every process of the job calls this with the same arguments. Threads
    are those that the scheduler gives where `threads` is 0. Exits with status 1 where not all ended
    well, so that what depends on this job does not start.
    """
    here = _here()
    threads = threads or int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "RANK": here.global_rank,
        "WORLD_SIZE": here.num_tasks,
        "LOCAL_RANK": here.local_rank,
        "LOCAL_WORLD_SIZE": here.num_tasks // here.num_nodes,
    }
    os.environ.update({name: str(value) for name, value in environment.items()})
    if minutes := os.environ.get("SWEEPER_JOB_MINUTES"):
        os.environ.setdefault("SLURM_JOB_END_TIME", str(int(time.time() + 60 * float(minutes))))
    from train.job import work as run_all

    job = Path(folder)
    element = f"_{here.array_task_id}" if here.array_task_id is not None else ""
    ended = run_all(
        [(Path(runs) / run_id, attempt) for run_id, attempt in grants],
        job=f"{job.name}{element}",
        threads=threads,
        rank=here.global_rank,
        world_size=here.num_tasks,
        local_rank=here.local_rank,
        rendezvous=job / f"rendezvous.{here.job_id}",
        apart=not isinstance(here, _ThisProcess),
    )
    if ended.interrupted and here.global_rank == 0 and not _is_stuck(Path(runs), grants):
        requeue()
    if not ended.all_well:
        raise SystemExit(1)


def _is_stuck(runs: Path, grants: list[tuple[str, int]]) -> bool:
    """Whether one of these runs gets nowhere: a job that starts again for it would do so for ever.

    The driver gives what is left to another job.
    """
    folders = [RunDir(runs / name) for name, _ in grants]
    return any(
        run.result() is None and given_up(run.spec(), ends(run.attempts(), run.failures(), 0))
        for run in folders
    )


class _ThisProcess:
    """The driver's own process, which is no job of any scheduler."""

    job_id, array_task_id = "debug", None
    global_rank = local_rank = 0
    num_tasks = num_nodes = 1


def _here() -> Any:
    """Where this process stands in its job, in submitit's words."""
    import submitit

    try:
        return submitit.JobEnvironment()
    except RuntimeError:
        return _ThisProcess()


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
        write_atomic(Path(folder) / PREPARED, "")
    except Exception as error:
        write_atomic(Path(folder) / FAILURE, f"{error}\n\n{traceback.format_exc()}")
        raise

"""One job: a list of granted runs, trained in turn by one process or one group of ranks.

A job of one process trains each run in a child of its own, so that what kills one run does not lose
the others. torch is imported here only once a run is to be trained.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from train.config import reduced_micro_batch
from train.isolation import death, in_child
from train.logmarks import marked
from train.place import Place, node_name
from train.runlog import Attempt, Cause, Failure, RunDir
from train.stopping import StopSignal

Grant = tuple[Path, int]
# Ends of an attempt that are not its own doing: a job started again by its scheduler goes on.
INTERRUPTIONS: frozenset[Cause] = frozenset({"preempted", "timeout", "killed", "node_failure"})


@dataclass(frozen=True)
class Ended:
    """How a job ended. `all_well`: of every granted run there is a result, or it is not ours.

    `interrupted`: a signal ended it before its list was done; it may be started again.
    """

    all_well: bool = True
    interrupted: bool = False


def work(
    grants: Sequence[Grant],
    job: str,
    threads: int,
    rank: int,
    world_size: int,
    local_rank: int,
    rendezvous: Path,
    apart: bool = True,
) -> Ended:
    """Claim and train each granted (run directory, attempt) that nobody else has.

    Several jobs may hold the same grants: the exclusive creation of attempt.N.json decides. A run
    of one process is trained in this very process unless `apart`.
    """
    place = Place(job, threads, rank, world_size, local_rank, rendezvous)
    # Asking CUDA itself whether there is a GPU would start it, and a fork of that is useless.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    stop = StopSignal()
    if world_size == 1 and apart:
        return _work_alone(grants, place, stop)
    from train.attempt import work_together

    return work_together(grants, place, stop)


def _work_alone(grants: Sequence[Grant], place: Place, stop: StopSignal) -> Ended:
    all_well = True
    for path, number in grants:
        run = RunDir(path)
        if stop.cause is not None:
            return Ended(all_well=False, interrupted=True)
        if (attempt := claim(run, number, place)) is not None:
            with marked(run, attempt):
                all_well = _train_apart(run, attempt, place, stop) and all_well
    return Ended(all_well, interrupted=not all_well and stop.cause is not None)


def _train_apart(run: RunDir, attempt: int, place: Place, stop: StopSignal) -> bool:
    """Train one attempt in a child; True where it ended well."""
    from train.attempt import train_alone

    status = in_child(partial(train_alone, run, attempt, place), stop)
    if run.result() is None and run.failure(attempt) is None:
        _say_for_the_dead(run, attempt, death(status))
    return well(run, attempt)


def _say_for_the_dead(run: RunDir, attempt: int, message: str) -> None:
    """Record the end of an attempt that could not; on a full disk the driver sees it for itself."""
    failure = Failure(attempt=attempt, cause="killed", message=message, step=run.resume_step())
    with suppress(OSError):
        if run.write_failure(failure):
            run.event("failed", attempt=attempt, cause="killed", message=message)


def well(run: RunDir, attempt: int) -> bool:
    """True where a run has a result, or somebody else decided that this attempt must not go on."""
    failure = run.failure(attempt)
    return run.result() is not None or (
        failure is not None and failure.cause in ("stopped", "superseded")
    )


def claim(run: RunDir, granted: int, place: Place) -> int | None:
    """Take the granted attempt of a run, or the one after it; None where it is not ours to train.

    A job that its scheduler started again finds its own last attempt and makes the next one.
    """
    if run.result() is not None:
        return None
    number, attempts = granted, run.attempts()
    if attempts and attempts[-1].number >= granted:
        if not _ours_to_repeat(run, attempts[-1], place):
            return None
        number = attempts[-1].number + 1
    if run.stop(number) is not None:
        return None
    return number if run.claim(_attempt(run, number, place)) else None


def _ours_to_repeat(run: RunDir, latest: Attempt, place: Place) -> bool:
    """True where this very job was interrupted in it; after other failures the driver decides."""
    failure = run.failure(latest.number)
    return latest.job == place.job and (failure is None or failure.cause in INTERRUPTIONS)


def _attempt(run: RunDir, number: int, place: Place) -> Attempt:
    return Attempt(
        number=number,
        job=place.job,
        host=node_name(),
        pid=os.getpid(),
        world_size=place.world_size,
        started=time.time(),
        micro_batch_size=micro_batch_in_use(run),
    )


def micro_batch_in_use(run: RunDir) -> int:
    """Sequences of a forward after what memory earlier attempts had, down to the smallest."""
    spec = run.spec()
    times = sum(failure.cause == "out_of_memory" for failure in run.failures())
    sizes = (reduced_micro_batch(spec, n) for n in range(times, -1, -1))
    return next(size for size in sizes if size is not None)

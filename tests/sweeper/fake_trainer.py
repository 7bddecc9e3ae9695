"""A trainer that draws its losses from a stated law, for tests of the manager alone.

It keeps the contract of run directories as `train.job` does (claim, stop, fence, metrics, failure,
result) and runs in the same jobs; only what a step computes is simulated. By its spec a run can go
wrong: seed 13 raises, seed 66 is killed in its first attempt, seed 67 in every one, seed 68 runs
out of memory while its micro-batch is above 4, lr > 1 diverges. A step that was made is on disk,
so every attempt goes on where the last one ended.
"""

import json
import math
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import fake_clock

from model.counts import flops_per_token, params_active, params_non_embedding, params_total
from sweeper import worker
from train import job as job_program
from train.config import RunSpec, run_id
from train.job import Ended, claim, micro_batch_in_use, well
from train.logmarks import marked
from train.place import Place
from train.runlog import Cause, Failure, Result, RunDir, read_lines
from train.stopping import EndedEarly, Orders, StopSignal, reason_of

fake_clock.install()
STEPS = 4
RAISES, KILLED_ONCE, KILLED_ALWAYS, OUT_OF_MEMORY = 13, 66, 67, 68
MEMORY = 4  # sequences
real_work = worker.work


def work_in_job(folder: str, runs: str, grants: list[tuple[str, int]], threads: int) -> None:
    """The real entry of a job, with this module in the place of `train.job`."""
    sys.modules["train.job"] = sys.modules[__name__]
    real_work(folder, runs, grants, threads)


def law(spec: RunSpec) -> float:
    """1.2 + 30 / N^0.4 + 173 / D^0.4 and a little seed noise: least at D = 80 N for any N D."""
    noise = random.Random(f"{spec.seed} {run_id(spec)}").gauss(0, 0.0005)
    return 1.2 + 30 / params_active(spec.model) ** 0.4 + 173 / spec.tokens**0.4 + noise


def work(
    grants: list[tuple[Path, int]],
    job: str,
    threads: int,
    rank: int,
    world_size: int,
    local_rank: int,
    rendezvous: Path,
    apart: bool = True,
) -> Ended:
    stop = StopSignal()
    if rank > 0:
        return Ended()
    place = Place(job, threads, rank, world_size, local_rank, rendezvous)
    all_well = True
    for path, number in grants:
        run = RunDir(path)
        if stop.cause is not None:
            return Ended(all_well=False, interrupted=True)
        if (attempt := claim(run, number, place)) is not None:
            with marked(run, attempt):
                print(f"this is {path.name}, trained by {job_program.__file__}")
                execute(run, attempt, threads, stop)
            all_well = well(run, attempt) and all_well
    return Ended(all_well, interrupted=not all_well and stop.cause is not None)


def execute(run: RunDir, attempt: int, threads: int, stop: StopSignal) -> None:
    spec = run.spec()
    run.event("start", attempt=attempt, threads=threads)
    if spec.seed == KILLED_ALWAYS or (spec.seed == KILLED_ONCE and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed == RAISES:
        fail(run, attempt, "exception", "ValueError: seed 13 brings bad luck")
    elif spec.seed == OUT_OF_MEMORY and micro_batch_in_use(run) > MEMORY:
        fail(run, attempt, "out_of_memory", f"OutOfMemoryError: more than {MEMORY} sequences")
    else:
        try:
            train(run, attempt, spec, stop)
        except EndedEarly as reason:
            fail(run, attempt, reason.cause, str(reason), reason.step)
        except OSError as error:
            # A full disk: where it has no room even for this, the attempt ends without a word.
            with suppress(OSError):
                fail(run, attempt, "disk_full", str(error), made_by(run, attempt))


def fail(run: RunDir, attempt: int, cause: Cause, message: str, step: int = 0) -> None:
    run.write_failure(Failure(attempt=attempt, cause=cause, message=message, step=step))


def train(run: RunDir, attempt: int, spec: RunSpec, stop: StopSignal) -> None:
    orders = Orders(run, attempt, stop, looks=True)
    seconds = float(os.environ.get("FAKE_SECONDS", "0"))
    started = time.monotonic()
    first = max((made_by(run, earlier) for earlier in range(1, attempt)), default=0)
    for step in range(first + 1, STEPS + 1):
        wait_or_end(orders, seconds / STEPS, step - 1)  # stands for computing
        line = {
            "step": step,
            "tokens": spec.tokens * step // STEPS,
            "loss": law(spec),
            "seconds": time.monotonic() - started,
            "tokens_per_second": 1e6,
        }
        with run.metrics(attempt).open("a") as file:
            file.write(json.dumps(line) + "\n")
    if run.superseded(attempt):
        raise EndedEarly("superseded", "a later attempt exists", STEPS)
    run.write_result(result(spec, time.monotonic() - started))


def made_by(run: RunDir, attempt: int) -> int:
    """The last step of an attempt."""
    return max((line["step"] for line in read_lines(run.metrics(attempt))), default=0)


def wait_or_end(orders: Orders, seconds: float, made: int) -> None:
    """Let time pass; raises EndedEarly as soon as there is a reason to."""
    end = time.monotonic() + seconds
    while True:
        if (reason := reason_of(orders.votes())) is not None:
            raise EndedEarly(reason, f"asked to stop after step {made}", made)
        if (left := end - time.monotonic()) <= 0:
            return
        time.sleep(min(left, 0.05))


def result(spec: RunSpec, seconds: float) -> Result:
    diverged = spec.optim.lr > 1
    loss = None if diverged else law(spec)
    return Result(
        run_id=run_id(spec),
        state="DIVERGED" if diverged else "DONE",
        cause="diverged" if diverged else "",
        tokens=spec.tokens,
        flops=spec.tokens * flops_per_token(spec.model),
        nats_per_token=loss,
        bits_per_byte=None if loss is None else loss / math.log(2),
        params_total=params_total(spec.model),
        params_non_embedding=params_non_embedding(spec.model),
        params_active=params_active(spec.model),
        seconds=seconds,
        gpu_hours=seconds / 3600,
        tokens_per_second=1e6,
    )

"""A trainer that draws its losses from a stated law, for tests of the manager alone.

It keeps the contract of run directories as `train.job` does (claim, metrics, failure, result) and
runs in the same jobs; only what a step computes is simulated. By its spec a run can go wrong:
seed 13 raises, seed 66 is killed in its first attempt, seed 67 in every one, lr > 1 diverges.
"""

import json
import math
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from model.config import flops_per_token, params_active, params_non_embedding, params_total
from sweeper import worker
from train.config import RunSpec, run_id
from train.runlog import Attempt, Failure, Result, RunDir

STEPS = 4
RAISES, KILLED_ONCE, KILLED_ALWAYS = 13, 66, 67
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
) -> None:
    if rank > 0:
        return
    for path, number in grants:
        run = RunDir(path)
        attempt = Attempt(
            number=number,
            job=job,
            host=socket.gethostname(),
            pid=os.getpid(),
            world_size=world_size,
            started=time.time(),
        )
        if run.result() is None and run.claim(attempt):
            execute(run, number, threads)


def execute(run: RunDir, attempt: int, threads: int) -> None:
    spec = run.spec()
    run.event("start", attempt=attempt, threads=threads)
    if spec.seed == KILLED_ALWAYS or (spec.seed == KILLED_ONCE and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.seed == RAISES:
        message = "ValueError: seed 13 brings bad luck"
        run.write_failure(Failure(attempt=attempt, cause="exception", message=message))
        return
    started = time.monotonic()
    for step in range(1, STEPS + 1):
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / STEPS)  # stands for computing
        line = {"step": step, "tokens": spec.tokens * step // STEPS, "loss": law(spec)}
        with run.metrics(attempt).open("a") as file:
            file.write(json.dumps({**line, "tokens_per_second": 1e6}) + "\n")
    run.write_result(result(spec, time.monotonic() - started))


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

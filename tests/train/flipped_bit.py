"""`python flipped_bit.py JOBS`: jobs of several ranks on hosts n0, n1, ...; one has a bad bit.

JOBS is a list in JSON: `runs` are trained by `ranks`, and before step `step` rank `rank` finds a
bit flipped in a parameter, or in its gradient when that step uses it. Ranks are forks of this
process: torch is imported once. Prints the exit statuses of each job's ranks.
"""

import json
import os
import sys
import uuid
from pathlib import Path

import torch

from train import attempt, loop
from train.job import work
from train.runlog import RunDir

assert attempt
sound = loop.train_step
FAULT = {"rank": -1, "step": -1, "what": "parameter"}


def flip(tensor: torch.Tensor) -> None:
    tensor.detach().view(-1)[3:4].view(torch.int32).bitwise_xor_(1 << 20)


def flip_gradient(engine, parameter):
    """Before all that looks at the gradient."""
    hooks = engine.basic_optimizer._optimizer_step_pre_hooks
    handle = engine.basic_optimizer.register_step_pre_hook(lambda *_: flip(parameter.grad))
    hooks.move_to_end(handle.id, last=False)
    return handle


def train_step(engine, objective, spec, step, ranks, *more):
    if (ranks.rank, step + 1) != (FAULT["rank"], FAULT["step"]):
        return sound(engine, objective, spec, step, ranks, *more)
    *_, parameter = engine.module.parameters()
    if FAULT["what"] == "gradient":
        handle = flip_gradient(engine, parameter)
        try:
            return sound(engine, objective, spec, step, ranks, *more)
        finally:
            handle.remove()
    flip(parameter)
    return sound(engine, objective, spec, step, ranks, *more)


def be_rank(rank, job, start):
    os.environ |= {"SLURMD_NODENAME": f"n{rank}", "LOCAL_WORLD_SIZE": str(job["ranks"])}
    FAULT.update(job.get("fault", {}))
    grants = [(Path(path), len(RunDir(Path(path)).attempts()) + 1) for path in job["runs"]]
    rendezvous = Path(job["runs"][0]) / f"rendezvous-{start}"
    return work(grants, start, 1, rank, job["ranks"], rank, rendezvous).all_well


def fork(rank, job, start):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if be_rank(rank, job, start) else 1
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child


def do(job):
    start = uuid.uuid4().hex
    children = [fork(rank, job, start) for rank in range(job["ranks"])]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    loop.train_step = train_step
    print(json.dumps([do(job) for job in json.loads(sys.argv[1])]))

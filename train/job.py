"""One job: a list of granted runs, trained in turn by one process or one group of ranks."""

import os
import socket
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from model.config import flops_per_token, params_active, params_non_embedding, params_total
from model.transformer import Transformer, initialise
from train import checkpoint
from train.config import RunSpec, run_id
from train.data.prepare import prepare
from train.engine import build_engine
from train.environment import describe
from train.loop import Outcome, Preempted, StopSignal, train
from train.parallel import Ranks, agree, connect, total
from train.runlog import Attempt, Cause, Failure, Result, RunDir, write_atomic
from train.stages.context import Context, StageParts
from train.stages.dpo import direct_preference
from train.stages.pretrain import pretrain
from train.stages.sft import fine_tune

STAGES = {
    "pretrain": pretrain,
    "sft": fine_tune,
    "dpo": direct_preference,
}


def work(
    grants: list[tuple[Path, int]],
    job: str,
    threads: int,
    rank: int,
    world_size: int,
    local_rank: int,
    rendezvous: Path,
) -> None:
    """Claim and train each granted (run directory, attempt) that nobody else has.

    Several jobs may hold the same grants: the exclusive creation of attempt.N.json decides.
    """
    torch.set_num_threads(threads)
    stop = StopSignal()
    ranks = connect(rank, world_size, local_rank, rendezvous)
    try:
        for path, number in grants:
            run = RunDir(path)
            if agree(ranks.first and _claim(run, number, job, world_size), ranks):
                execute(run, number, ranks, stop)
            if total([float(stop.asked)], ranks)[0] > 0:
                break
        # A rank that leaves early takes its connections with it, and the others abort at exit.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _claim(run: RunDir, number: int, job: str, world_size: int) -> bool:
    attempt = Attempt(
        number=number,
        job=job,
        host=socket.gethostname(),
        pid=os.getpid(),
        world_size=world_size,
        started=time.time(),
    )
    return run.result() is None and run.claim(attempt)


def execute(run: RunDir, attempt: int, ranks: Ranks, stop: StopSignal) -> None:
    """Run one attempt to a result or to a recorded failure.

    An exception in one rank of several ends the whole job: its peers wait in a collective.
    """
    try:
        train_run(run, attempt, ranks, stop)
    except Preempted as reason:
        if ranks.first:
            run.event("preempted", attempt=attempt, reason=str(reason))
    except Exception as error:
        failure = Failure(
            attempt=attempt,
            cause=cause_of(error),
            message=f"{type(error).__name__}: {error}",
            trace=traceback.format_exc(),
        )
        print(failure.trace, flush=True)
        run.write_failure(failure)
        run.event("failed", attempt=attempt, cause=failure.cause, message=failure.message)
        if ranks.world_size > 1:
            raise


def cause_of(error: Exception) -> Cause:
    """Name of a failure from a closed list: what the driver does next follows from it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno == 28:
        return "disk_full"
    return "exception"


def train_run(run: RunDir, attempt: int, ranks: Ranks, stop: StopSignal) -> None:
    """Data, model, engine, loop, evaluation, result: one stage of training from run.json."""
    spec = run.spec()
    if ranks.first:
        run.event("start", attempt=attempt)
        write_atomic(run.path / "env.json", describe(ranks))
    assert spec.parallel.dp == ranks.world_size, "the driver starts as many processes as dp says"
    data = prepare(spec.data, run.home).folder
    context = Context(run, spec, data, starting_model(run, spec), ranks)
    parts = STAGES[spec.stage](context)
    engine = build_engine(context.model, spec, ranks)
    outcome = train(engine, parts.objective, spec, run, attempt, ranks, stop)
    spent = run.seconds_before(attempt) + outcome.seconds
    finish(context, parts, outcome, spent)
    engine.destroy()


def starting_model(run: RunDir, spec: RunSpec) -> Transformer:
    """Fresh weights from the seed, or the final ones of the parent run."""
    if spec.parent is not None:
        return checkpoint.load_final(RunDir(run.home / "runs" / spec.parent))
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    return model


def finish(context: Context, parts: StageParts, outcome: Outcome, seconds: float) -> None:
    """Evaluate, leave the weights, and write result.json last."""
    metrics = parts.evaluate(context.model) if outcome.state == "DONE" else {}
    if not context.ranks.first:
        return
    run = context.run
    if outcome.state == "DONE":
        checkpoint.save_final(context.model, run)
    result = result_of(context.spec, outcome, metrics, seconds)
    run.event(outcome.state.lower(), step=outcome.step, nats_per_token=result.nats_per_token)
    run.write_result(result)
    checkpoint.drop_resume_states(run)


def result_of(spec: RunSpec, outcome: Outcome, metrics: dict[str, float], seconds: float) -> Result:
    """The record of a run. A diverged one has no loss: a number would find its way into a fit."""
    tokens = outcome.step * spec.batch.global_batch_tokens
    metrics = {**metrics, **{f"train/{name}": v for name, v in outcome.last.items()}}
    return Result(
        run_id=run_id(spec),
        state=outcome.state,
        cause="diverged" if outcome.state == "DIVERGED" else "",
        tokens=tokens,
        flops=tokens * flops_per_token(spec.model),
        nats_per_token=metrics.pop("nats_per_token", None),
        bits_per_byte=metrics.pop("bits_per_byte", None),
        params_total=params_total(spec.model),
        params_non_embedding=params_non_embedding(spec.model),
        params_active=params_active(spec.model),
        seconds=seconds,
        gpu_hours=seconds * spec.parallel.dp / 3600,
        tokens_per_second=outcome.tokens_per_second,
        metrics=metrics,
    )

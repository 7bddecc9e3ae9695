"""One attempt at a run, from run.json to result.json or to a failure that says why not."""

import errno
import math
import os
import traceback
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from model.counts import flops_per_token, params_active, params_non_embedding, params_total
from model.initial import initialise
from model.transformer import Transformer
from train import checkpoint, lineage
from train.adoption import adopt
from train.allocator import keep_freed_memory
from train.config import RunSpec, tokens_after, with_micro_batch
from train.data.prepare import PreparedData, prepare
from train.engine import build_engine
from train.environment import describe
from train.job import Ended, Grant, claim, micro_batch_in_use, well
from train.logmarks import marked
from train.loop import Loop, Outcome, newest_whole
from train.parallel import Ranks, agree, connect, total
from train.phases import in_force, just_changed, keeps_moments
from train.place import Place
from train.replicas import Corrupted
from train.runlog import Cause, Failure, Result, RunDir, step_of, write_atomic
from train.stability import shrink_embedding_gradient
from train.stages.context import Context
from train.stages.dpo import direct_preference
from train.stages.pretrain import pretrain
from train.stages.sft import fine_tune
from train.stopping import AskedToStop, EndedEarly, StopSignal
from train.warm import warm_up

warm_up()

STAGES = {
    "pretrain": pretrain,
    "sft": fine_tune,
    "dpo": direct_preference,
}

# Words of torch's allocators, cuBLAS and NCCL, which raise plain RuntimeErrors.
MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# Words of gloo and NCCL for a peer that is gone. One that failed would have said so before it went.
PEER_WORDS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
)
FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE_BYTES = 16_384


def train_alone(run: RunDir, attempt: int, place: Place, stop: StopSignal) -> int:
    """Train one attempt in this process; the exit status is 0 where all is said in its folder."""
    torch.set_num_threads(place.threads)
    keep_freed_memory()
    ranks = connect(0, 1, place.local_rank, place.rendezvous)
    try:
        execute(run, attempt, ranks, stop)
    finally:
        dist.destroy_process_group()
    return 0


def work_together(grants: Sequence[Grant], place: Place, stop: StopSignal) -> Ended:
    """Train each granted run as one rank of several; a rank that fails ends the whole job."""
    torch.set_num_threads(place.threads)
    keep_freed_memory()
    ranks = connect(place.rank, place.world_size, place.local_rank, place.rendezvous)
    ended = Ended()
    try:
        for path, number in grants:
            run = RunDir(path)
            if (attempt := agree(_claimed(run, number, place, ranks), ranks)) is not None:
                with marked(run, attempt):
                    execute(run, attempt, ranks, stop)
                all_well = agree(ranks.first and well(run, attempt), ranks) and ended.all_well
                ended = replace(ended, all_well=all_well)
            if total([float(stop.cause is not None)], ranks)[0] > 0:
                ended = replace(ended, interrupted=not ended.all_well)
                break
        # A rank that leaves early takes its connections with it, and the others abort at exit.
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return ended


def _claimed(run: RunDir, number: int, place: Place, ranks: Ranks) -> int | None:
    return claim(run, number, place) if ranks.first else None


def execute(run: RunDir, attempt: int, ranks: Ranks, stop: StopSignal) -> None:
    """Run one attempt to a result or to a recorded failure.

    An exception in one rank of several ends the whole job: its peers wait in a collective.
    """
    reserve = Reserve(run, ranks)
    try:
        train_run(run, attempt, ranks, stop)
        reserve.release()
    except EndedEarly as reason:
        reserve.release()
        if ranks.first:
            record(run, early_end(attempt, reason))
    except Exception as error:
        reserve.release()
        print(traceback.format_exc(), flush=True)
        record(run, failure_of(run, attempt, error))
        if ranks.world_size > 1:
            raise


class Reserve:
    """Some bytes held on the disk, so that a failure can be said when the disk is full."""

    def __init__(self, run: RunDir, ranks: Ranks) -> None:
        self.path = run.path / ".reserve"
        if ranks.first:
            with suppress(OSError):
                self.path.write_bytes(b"\0" * RESERVE_BYTES)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)


def record(run: RunDir, failure: Failure) -> None:
    """Say how an attempt ended: first in its own file, which counts, then among the events.

    Where the disk has no room even for that, the attempt ends without a word, as a killed one.
    """
    said = failure.model_dump(exclude={"trace"})
    with suppress(OSError):
        if run.write_failure(failure):
            run.event("failed" if failure.trace else "ended_early", **said)


def early_end(attempt: int, reason: EndedEarly) -> Failure:
    return Failure(attempt=attempt, cause=reason.cause, message=str(reason), step=reason.step)


def failure_of(run: RunDir, attempt: int, error: Exception) -> Failure:
    """The record of an exception."""
    return Failure(
        attempt=attempt,
        cause=cause_of(error),
        message=f"{type(error).__name__}: {error}",
        trace=traceback.format_exc(),
        step=run.resume_step(),
        hosts=error.hosts if isinstance(error, Corrupted) else (),
    )


def cause_of(error: BaseException) -> Cause:
    """Name of a failure from a closed list: what the driver does next follows from it."""
    if isinstance(error, Corrupted):
        return "corrupted"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS):
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in PEER_WORDS):
        return "killed"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in FULL:
        return "disk_full"
    return "exception"


def train_run(run: RunDir, attempt: int, ranks: Ranks, stop: StopSignal) -> None:
    """Data, model, engine, loop, evaluation, result: one stage of training from run.json."""
    spec = run.spec()
    if ranks.first:
        run.event("start", attempt=attempt)
    assert spec.parallel.dp == ranks.world_size, "the driver starts as many processes as dp says"
    spec = in_memory(run, spec, ranks)
    with interruptible(run, stop, ranks):
        data = prepare(spec.data, run.home)
        describe_attempt(run, data, ranks)
    if ranks.first:
        adopt(run, spec)
    spent = 0.0
    while True:
        with interruptible(run, stop, ranks):
            state = agree(newest_whole(run, spec) if ranks.first else None, ranks)
            current = in_force(spec, step_of(state))
            context = Context(run, current, data.folder, starting_model(run, current, state), ranks)
            shrink_embedding_gradient(context.model.embedding, spec.stability.embedding_gradient)
            parts = STAGES[spec.stage](context)
            engine = build_engine(context.model, current, ranks)
            go_on(engine, run, spec, state, ranks)
        first = step_of(state)
        loop = Loop(engine, parts.objective, current, run, attempt, ranks, stop, first, spent)
        with closing(loop):
            outcome = loop.train()
        spent += outcome.seconds
        if outcome.state != "RESUME":
            break
        engine.destroy()
    with interruptible(run, stop, ranks):
        metrics = parts.evaluate(context.model) if outcome.state == "DONE" else {}
    if ranks.first:
        finish(context, attempt, outcome, metrics, run.seconds_before(attempt) + spent)
    engine.destroy()


def go_on(
    engine: deepspeed.DeepSpeedEngine,
    run: RunDir,
    spec: RunSpec,
    state: Path | None,
    ranks: Ranks,
) -> None:
    """Give the engine the state to go on from, or what a change of the run leaves of it."""
    if state is None:
        return
    step = step_of(state)
    changed = just_changed(spec, step)
    before, after = in_force(spec, step - 1), in_force(spec, step)
    if not changed or keeps_moments(before.optim, after.optim):
        checkpoint.resume(engine, state)
    if not ranks.first:
        return
    run.event("resume", step=step, path=os.path.relpath(state, run.path))
    if changed:
        for name, was, now in (
            ("optim", before.optim.model_dump(), after.optim.model_dump()),
            ("activation", before.model.activation, after.model.activation),
        ):
            if was != now:
                run.event("changed", step=step, field=name, was=was, now=now)


@contextmanager
def interruptible(run: RunDir, stop: StopSignal, ranks: Ranks) -> Generator[None]:
    """Where a signal need not wait for the end of a step.

    Of several ranks none may leave alone: the others would wait for it in a collective.
    """
    try:
        with stop.at_once() if ranks.world_size == 1 else nullcontext():
            yield
    except AskedToStop:
        message = "asked to stop before the first step or in evaluation"
        raise EndedEarly(stop.cause or "preempted", message, run.resume_step()) from None


def in_memory(run: RunDir, spec: RunSpec, ranks: Ranks) -> RunSpec:
    """The spec with the micro-batch that fits after what earlier attempts ran out of."""
    size = agree(micro_batch_in_use(run) if ranks.first else 0, ranks)
    if size == spec.batch.micro_batch_size:
        return spec
    if ranks.first:
        run.event("micro_batch_reduced", planned=spec.batch.micro_batch_size, size=size)
    return with_micro_batch(spec, size)


def describe_attempt(run: RunDir, data: PreparedData, ranks: Ranks) -> None:
    if ranks.first:
        write_atomic(run.path / "env.json", describe(data, ranks))


def starting_model(run: RunDir, spec: RunSpec, state: Path | None) -> Transformer:
    """Weights to begin with: drawn, or of the parent run, or of the folder to start from.

    Where a state is at hand it brings its own; only a change of the optimizer takes no more of it.
    """
    if state is not None and just_changed(spec, step_of(state)):
        model = Transformer(spec.model)
        model.load_state_dict(checkpoint.module_weights(state))
        return model
    if spec.parent is not None:
        return checkpoint.load_final(RunDir(run.home / "runs" / spec.parent))
    if spec.start is not None:
        return checkpoint.load_start(spec.start, spec.model, spec.seed)
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    return model


def finish(
    context: Context, attempt: int, outcome: Outcome, metrics: dict[str, float], seconds: float
) -> None:
    """Leave the weights, and write result.json last, unless a later attempt has taken over."""
    run = context.run
    if outcome.state == "DONE":
        checkpoint.save_final(context.model, run, attempt)
    result = result_of(run, context.spec, outcome, metrics, seconds)
    checkpoint.refuse_superseded(run, attempt)
    run.event(outcome.state.lower(), step=outcome.step, nats_per_token=result.nats_per_token)
    run.write_result(result)
    checkpoint.drop_resume_states(run)


def result_of(
    run: RunDir, spec: RunSpec, outcome: Outcome, metrics: dict[str, float], seconds: float
) -> Result:
    """The record of a run. A diverged one has no loss: a number would find its way into a fit.

    A measure that is no number is left out: JSON has no word for it.
    """
    tokens = tokens_after(spec, outcome.step)
    metrics = metrics | {f"train/{name}": value for name, value in outcome.last.items()}
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return Result(
        run_id=run.path.name,
        state="DONE" if outcome.state == "DONE" else "DIVERGED",
        cause="diverged" if outcome.state == "DIVERGED" else "",
        tokens=tokens,
        inherited_tokens=lineage.inherited_tokens(run, spec),
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

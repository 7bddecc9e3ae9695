"""The one training loop: every stage is an objective given to it.

Shapes: B sequences of this rank, T time.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from train import checkpoint, lineage, trunk
from train.config import RunSpec, steps, tokens_after
from train.engine import gradient_norm, set_batch, set_lr, snapshot
from train.noise import NoiseScale
from train.norms import LayerNorms
from train.parallel import Ranks, agree, total
from train.phases import change_after
from train.replicas import Replicas
from train.retention import is_milestone
from train.runlog import RunDir, read_lines, step_of
from train.saving import Saver
from train.schedule import lr_factor
from train.spikes import (
    Spike,
    SpikeWatch,
    batch_of,
    go_back,
    lr_scale,
    skipped_batches,
    spike_at,
    spikes_of,
)
from train.stability import DivergenceWatch
from train.stopping import EndedEarly, Orders, StopSignal, reason_of

Batch = dict[str, Tensor]
State = Literal["DONE", "DIVERGED", "RESUME"]


@dataclass(frozen=True)
class Objective:
    """What a stage minimises.

    `batch(step)` gives this rank's arrays of one step, sequences first. `weight(batch)` is the
    number of terms (tokens, pairs) in the loss of the global batch, the same in all ranks.
    `loss(model, batch)` sums over the terms of a part of a batch, in nats; its second value is what
    else to log, summed too. `origins(step)` says where the whole batch comes from, for a record.
    """

    batch: Callable[[int], dict[str, np.ndarray]]
    weight: Callable[[Batch], float]
    loss: Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]
    origins: Callable[[int], Sequence[Any]] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a loop ended: after which step, in which state, and the seconds that it took.

    RESUME: it is to go on from the newest state, with an engine of its own.
    """

    state: State
    step: int
    seconds: float
    tokens_per_second: float
    last: dict[str, float] = field(default_factory=dict)


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a rank's batch along its first dimension."""
    count = len(next(iter(batch.values())))
    for start in range(0, count, size):
        yield {name: tensor[start : start + size] for name, tensor in batch.items()}


def to_device(arrays: dict[str, np.ndarray], ranks: Ranks) -> Batch:
    return {name: torch.from_numpy(a).to(ranks.device) for name, a in arrays.items()}


def train_step(
    engine: deepspeed.DeepSpeedEngine,
    objective: Objective,
    spec: RunSpec,
    step: int,
    ranks: Ranks,
    votes: list[float],
    before_update: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], list[float]]:
    """One optimizer step: means over the global batch (loss, what else is logged), summed votes.

    DeepSpeed divides by accumulation steps and averages over ranks; both are undone here, because
    with masks the mean of means is not the mean. The votes of the ranks ride along: every further
    collective costs small models more than its work.
    """
    batch = to_device(objective.batch(step), ranks)
    weight = objective.weight(batch)
    scale = ranks.world_size * engine.gradient_accumulation_steps() / weight
    sums: dict[str, float] = {"loss": 0.0}
    for micro in micro_batches(batch, spec.batch.micro_batch_size):
        loss, extra = objective.loss(engine, micro)
        engine.backward(loss * scale)
        before_update()
        engine.step()
        for name, value in {"loss": loss.item(), **extra}.items():
            sums[name] = sums.get(name, 0.0) + value
    summed = total([*sums.values(), *votes], ranks)
    means = {name: value / weight for name, value in zip(sums, summed, strict=False)}
    return means, summed[len(sums) :]


class StepLog:
    """Appends one line a step to metrics.N.jsonl, in the first rank only."""

    def __init__(self, run: RunDir, attempt: int, ranks: Ranks) -> None:
        self.file: IO[str] | None = None
        if ranks.first:
            self.file = run.metrics(attempt).open("a", encoding="utf-8", buffering=1)

    def write(self, record: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def train(
    engine: deepspeed.DeepSpeedEngine,
    objective: Objective,
    spec: RunSpec,
    run: RunDir,
    attempt: int,
    ranks: Ranks,
    stop: StopSignal,
    first: int = 0,
    spent: float = 0.0,
) -> Outcome:
    """Train from the state after step `first`, which the engine has, to the horizon or a change.

    `spent` are the seconds that this attempt trained before. Raises EndedEarly when it is asked to,
    with a checkpoint written, or when it was replaced.
    """
    spikes = agree(spikes_of(run) if ranks.first else (), ranks)
    skipped = skipped_batches(spikes)
    watch = DivergenceWatch(spec.stability, uniform=math.log(spec.model.vocab_size))
    lookout = SpikeWatch(spec.stability.spikes)
    noise = NoiseScale(spec, ranks)
    norms = LayerNorms(engine, spec, ranks)
    replicas = Replicas(engine, spec, run, ranks)
    for line in agree(lines_before(run, first) if ranks.first else [], ranks):
        watch.diverged(line["loss"])
        lookout.look(line["loss"], line["grad_norm"])
        noise.resume([line])
    orders = Orders(run, attempt, stop, looks=ranks.first)
    log = StepLog(run, attempt, ranks)
    saver = Saver(run, attempt, ranks)
    leaves = lineage.leaf_steps(spec)
    started = saved = time.monotonic()
    before = tokens_after(spec, first)
    last = change_after(spec, first)
    means: dict[str, float] = {}
    state: State = "DONE" if last == steps(spec) else "RESUME"
    step = first
    try:
        for step in range(first + 1, last + 1):
            index = batch_of(skipped, step)
            tokens = tokens_after(spec, step)
            lr = spec.optim.lr * lr_factor(spec.schedule, tokens, spec.tokens)
            lr *= lr_scale(spec.stability.spikes, spikes, step)
            set_lr(engine, lr)
            set_batch(engine, spec, step - 1)
            if spec.model.dropout:
                # Draws of their own for every step: a resumed run drops what it would have.
                torch.manual_seed(dropout_seed(spec.seed, step, ranks.rank))
            small = None
            if noise.due(step):
                batch = to_device(objective.batch(index), ranks)
                module: Any = engine.module
                small = noise.small(module, objective, batch)
            due = saver.idle and save_is_due(spec, saved, ranks)
            votes = [*orders.votes(), float(due), saver.vote()]
            with norms.of(step) as layers:
                means, (*reasons, due, written) = train_step(
                    engine, objective, spec, index, ranks, votes, norms.before_update
                )
            norm = gradient_norm(engine)
            seconds = time.monotonic() - started
            log.write(
                {
                    "step": step,
                    "tokens": tokens,
                    **means,
                    "grad_norm": norm,
                    **(noise.big(small, norm) if small else {}),
                    **layers,
                    "lr": lr,
                    "tokens_per_second": (tokens - before) / seconds,
                    "seconds": spent + seconds,
                }
            )
            saver.look(written)
            if why := lookout.look(means["loss"], norm):
                saver.finish()
                state = went_back(run, spec, objective, spikes, step, why, ranks)
                break
            reason, diverged = reason_of(reasons), watch.diverged(means["loss"])
            pauses = bool(reason) or step == last
            saves = step < steps(spec) and (pauses or bool(due) or is_milestone(spec, step))
            replicas.check(step, saves or diverged or step in leaves or step == steps(spec))
            if diverged:
                state = "DIVERGED"
                break
            if step in leaves:
                passed = lines_before(run, step) if ranks.first else []
                trunk.leave(engine, run, attempt, step, passed, ranks)
            if saves:
                saver.start(partial(snapshot, engine), step)
                saved = time.monotonic()
            if saves and pauses:
                saver.finish()
            if reason and saves:
                raise EndedEarly(reason, f"asked to stop after step {step}", step)
        saver.finish()
    finally:
        saver.close()
        log.close()
    seconds = time.monotonic() - started
    speed = (tokens_after(spec, step) - before) / seconds if step > first else 0.0
    return Outcome(state, step, seconds, speed, means)


def went_back(
    run: RunDir,
    spec: RunSpec,
    objective: Objective,
    spikes: Sequence[Spike],
    step: int,
    why: str,
    ranks: Ranks,
) -> State:
    """Go back before a spike; one too many ends the run."""
    settings = spec.stability.spikes
    diverged = len(spikes) >= settings.limit
    if ranks.first and not diverged:
        spike, index = spike_at(settings, step), batch_of(skipped_batches(spikes), step)
        origins = objective.origins(index) if objective.origins else []
        go_back(run, spike, why=why, batch=index, documents=origins)
    dist.barrier()
    return "DIVERGED" if diverged else "RESUME"


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the draws of one step of one rank."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def newest_whole(run: RunDir, spec: RunSpec) -> Path | None:
    """The newest whole state to go on from. A branch that finds none of its trunk's says so."""
    own = checkpoint.newest_whole(run)
    shared = trunk.newest_whole(run, run.spec(), after=step_of(own))
    if spec.trunk is not None and own is None and shared is None:
        run.event("trunk_missing", trunk=spec.trunk)
    return shared or own


def lines_before(run: RunDir, last: int) -> list[dict[str, Any]]:
    """What was logged of steps 1 to `last`, as each was made the last time.

    Of steps that a trunk made for this run, by the trunk; the log of attempt 0 is that of the run
    that this one is a change of.
    """
    shared = lineage.history(run.home, run.spec(), last)
    logged = {int(line["step"]): line for line in shared}
    for attempt in (0, *(attempt.number for attempt in run.attempts())):
        logged |= {int(line["step"]): line for line in read_lines(run.metrics(attempt))}
    return [logged[step] for step in sorted(logged) if step <= last]


def save_is_due(spec: RunSpec, saved: float, ranks: Ranks) -> bool:
    """The first rank's clock decides for all."""
    return ranks.first and time.monotonic() - saved > spec.checkpoints.every_seconds

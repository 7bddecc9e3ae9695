"""The one training loop: every stage is an objective given to it.

Shapes: B sequences of this rank, T time.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import deepspeed
import numpy as np
import torch
from torch import Tensor, nn

from train import checkpoint, lineage, trunk
from train.config import RunSpec, steps, tokens_after
from train.engine import gradient_norm, set_batch, set_lr
from train.noise import NoiseScale
from train.norms import LayerNorms
from train.parallel import Ranks, agree, total
from train.replicas import Replicas
from train.runlog import RunDir, read_lines, step_of
from train.schedule import lr_factor
from train.stability import DivergenceWatch
from train.stopping import EndedEarly, Orders, StopSignal, reason_of

CHECKPOINT_SECONDS = 30.0  # at most this much work is lost with a killed process

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """What a stage minimises.

    `batch(step)` gives this rank's arrays of one step, sequences first. `weight(batch)` is the
    number of terms (tokens, pairs) in the loss of the global batch, the same in all ranks.
    `loss(model, batch)` sums over the terms of a part of a batch, in nats; its second value is what
    else to log, summed too.
    """

    batch: Callable[[int], dict[str, np.ndarray]]
    weight: Callable[[Batch], float]
    loss: Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Outcome:
    """How a loop ended: after which step, in which state, and the seconds of this attempt."""

    state: Literal["DONE", "DIVERGED"]
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
) -> Outcome:
    """Train to the horizon, from the newest whole checkpoint if there is one.

    Raises EndedEarly when it is asked to, with a checkpoint written, or when it was replaced.
    """
    first = resume_step(engine, run, spec, ranks)
    watch = DivergenceWatch(spec.stability, uniform=math.log(spec.model.vocab_size))
    noise = NoiseScale(spec, ranks)
    norms = LayerNorms(engine, spec, ranks)
    replicas = Replicas(engine, spec, run, ranks)
    for line in lines_before(run, attempt, first):
        watch.diverged(line["loss"])
        noise.resume([line])
    orders = Orders(run, attempt, stop, looks=ranks.first)
    log = StepLog(run, attempt, ranks)
    leaves = lineage.leaf_steps(spec)
    started = saved = time.monotonic()
    before = tokens_after(spec, first)
    means: dict[str, float] = {}
    state: Literal["DONE", "DIVERGED"] = "DONE"
    step = first
    try:
        for step in range(first + 1, steps(spec) + 1):
            tokens = tokens_after(spec, step)
            lr = spec.optim.lr * lr_factor(spec.schedule, tokens, spec.tokens)
            set_lr(engine, lr)
            set_batch(engine, spec, step - 1)
            if spec.model.dropout:
                # Draws of their own for every step: a resumed run drops what it would have.
                torch.manual_seed(dropout_seed(spec.seed, step, ranks.rank))
            small = None
            if noise.due(step):
                batch = to_device(objective.batch(step - 1), ranks)
                module: Any = engine.module
                small = noise.small(module, objective, batch)
            votes = [*orders.votes(), float(save_is_due(saved, ranks))]
            with norms.of(step) as layers:
                means, (*reasons, due) = train_step(
                    engine, objective, spec, step - 1, ranks, votes, norms.before_update
                )
            seconds = time.monotonic() - started
            log.write(
                {
                    "step": step,
                    "tokens": tokens,
                    **means,
                    "grad_norm": gradient_norm(engine),
                    **(noise.big(small, gradient_norm(engine)) if small else {}),
                    **layers,
                    "lr": lr,
                    "tokens_per_second": (tokens - before) / seconds,
                    "seconds": seconds,
                }
            )
            diverged = watch.diverged(means["loss"])
            kept = any((*reasons, due, step in leaves, diverged, step == steps(spec)))
            replicas.check(step, kept)
            if diverged:
                state = "DIVERGED"
                break
            if step in leaves:
                passed = lines_before(run, attempt + 1, step) if ranks.first else []
                trunk.leave(engine, run, attempt, step, passed, ranks)
            reason = reason_of(reasons)
            if (reason or due) and step < steps(spec):
                checkpoint.save(engine, run, attempt, step, ranks)
                saved = time.monotonic()
            if reason and step < steps(spec):
                raise EndedEarly(reason, f"asked to stop after step {step}", step)
    finally:
        log.close()
    seconds = time.monotonic() - started
    speed = (tokens_after(spec, step) - before) / seconds if step > first else 0.0
    return Outcome(state, step, seconds, speed, means)


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the draws of one step of one rank."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def resume_step(engine: deepspeed.DeepSpeedEngine, run: RunDir, spec: RunSpec, ranks: Ranks) -> int:
    """Load the newest whole state, the run's own or its trunk's; 0 where there is none."""
    folder = agree(newest_whole(run, spec) if ranks.first else None, ranks)
    if folder is None:
        return 0
    step = checkpoint.resume(engine, folder)
    if ranks.first:
        run.event("resume", step=step, path=os.path.relpath(folder, run.path))
    return step


def newest_whole(run: RunDir, spec: RunSpec) -> Path | None:
    """The newest whole state to go on from. A branch that finds none of its trunk's says so."""
    own = checkpoint.newest_whole(run)
    shared = trunk.newest_whole(run, run.spec(), after=step_of(own))
    if spec.trunk is not None and own is None and shared is None:
        run.event("trunk_missing", trunk=spec.trunk)
    return shared or own


def lines_before(run: RunDir, attempt: int, last: int) -> list[dict[str, Any]]:
    """What was logged of steps 1 to `last`, by the latest earlier attempt that has each.

    Of steps that a trunk made for this run, by the trunk.
    """
    shared = lineage.history(run.home, run.spec(), last)
    logged = {int(line["step"]): line for line in shared}
    for earlier in range(1, attempt):
        logged |= {int(line["step"]): line for line in read_lines(run.metrics(earlier))}
    return [logged[step] for step in sorted(logged) if step <= last]


def save_is_due(saved: float, ranks: Ranks) -> bool:
    """The first rank's clock decides for all."""
    return ranks.first and time.monotonic() - saved > CHECKPOINT_SECONDS

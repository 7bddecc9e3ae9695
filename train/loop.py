"""The one training loop: every stage is an objective given to it."""

import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import deepspeed
import torch
import torch.distributed as dist

from train import checkpoint, lineage, trunk
from train.config import RunSpec, steps, tokens_after
from train.engine import gradient_norm, set_batch, set_lr, snapshot
from train.noise import NoiseScale
from train.norms import LayerNorms
from train.parallel import Ranks, agree
from train.phases import change_after
from train.replicas import Replicas
from train.retention import is_milestone
from train.runlog import Cause, RunDir, read_lines, step_of
from train.saving import Saver
from train.schedule import lr_factor
from train.spikes import (
    SpikeWatch,
    batch_of,
    go_back,
    lr_scale,
    skipped_batches,
    spike_at,
    spikes_of,
)
from train.stability import DivergenceWatch
from train.step import Objective, dropout_seed, to_device, train_step
from train.stopping import EndedEarly, Orders, StopSignal, reason_of

State = Literal["DONE", "DIVERGED", "RESUME"]


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


class Taken(NamedTuple):
    """A step that was made: what it measured, and what the ranks wish to happen now."""

    means: dict[str, float]
    norm: float
    reason: Cause | None
    save_is_due: bool


class Loop:
    """Steps, and what is looked at, logged and kept after each.

    It goes on from the state after step `first`, which the engine has; `spent` are the seconds that
    this attempt trained before.
    """

    def __init__(
        self,
        engine: deepspeed.DeepSpeedEngine,
        objective: Objective,
        spec: RunSpec,
        run: RunDir,
        attempt: int,
        ranks: Ranks,
        stop: StopSignal,
        first: int = 0,
        spent: float = 0.0,
    ) -> None:
        self.engine, self.objective, self.spec = engine, objective, spec
        self.run, self.attempt, self.ranks = run, attempt, ranks
        self.first, self.spent = first, spent
        self.spikes = agree(spikes_of(run) if ranks.first else (), ranks)
        self.skipped = skipped_batches(self.spikes)
        self.watch = DivergenceWatch(spec.stability, uniform=math.log(spec.model.vocab_size))
        self.lookout = SpikeWatch(spec.stability.spikes)
        self.noise = NoiseScale(spec, ranks)
        self.norms = LayerNorms(engine, spec, ranks)
        self.replicas = Replicas(engine, spec, run, ranks)
        for line in agree(lines_before(run, first) if ranks.first else [], ranks):
            self.watch.diverged(line["loss"])
            self.lookout.look(line["loss"], line["grad_norm"])
            self.noise.resume([line])
        self.orders = Orders(run, attempt, stop, looks=ranks.first)
        self.log = StepLog(run, attempt, ranks)
        self.saver = Saver(run, attempt, ranks)
        self.leaves = lineage.leaf_steps(spec)
        self.started = self.saved = time.monotonic()

    def train(self) -> Outcome:
        """Train to the horizon, or to a change of the engine, or to what ends the run before.

        Raises EndedEarly when it is asked to, with a checkpoint written, or when it was replaced.
        """
        last = change_after(self.spec, self.first)
        state: State = "DONE" if last == steps(self.spec) else "RESUME"
        step, means = self.first, {}
        for step in range(self.first + 1, last + 1):
            taken = self.take(step)
            means = taken.means
            if (ended := self.settle(step, last, taken)) is not None:
                state = ended
                break
        self.saver.finish()
        seconds = time.monotonic() - self.started
        tokens = tokens_after(self.spec, step) - tokens_after(self.spec, self.first)
        return Outcome(state, step, seconds, tokens / seconds, means)

    def close(self) -> None:
        self.saver.close()
        self.log.close()

    def take(self, step: int) -> Taken:
        """Make a step and log it."""
        spec, ranks, engine = self.spec, self.ranks, self.engine
        index, tokens = batch_of(self.skipped, step), tokens_after(spec, step)
        lr = spec.optim.lr * lr_factor(spec.schedule, tokens, spec.tokens)
        lr *= lr_scale(spec.stability.spikes, self.spikes, step)
        set_lr(engine, lr)
        set_batch(engine, spec, step - 1)
        if spec.model.dropout:
            # Draws of their own for every step: a resumed run drops what it would have.
            torch.manual_seed(dropout_seed(spec.seed, step, ranks.rank))
        small = None
        if self.noise.due(step):
            batch = to_device(self.objective.batch(index), ranks)
            module: Any = engine.module
            small = self.noise.small(module, self.objective, batch)
        votes = [*self.orders.votes(), float(self._wants_to_save()), self.saver.vote()]
        with self.norms.of(step) as layers:
            means, (*reasons, due, written) = train_step(
                engine, self.objective, spec, index, ranks, votes, self.norms.before_update
            )
        norm, seconds = gradient_norm(engine), time.monotonic() - self.started
        self.log.write(
            {
                "step": step,
                "tokens": tokens,
                **means,
                "grad_norm": norm,
                **(self.noise.big(small, norm) if small else {}),
                **layers,
                "lr": lr,
                "tokens_per_second": (tokens - tokens_after(spec, self.first)) / seconds,
                "seconds": self.spent + seconds,
            }
        )
        self.saver.look(written)
        return Taken(means, norm, reason_of(reasons), due > 0)

    def settle(self, step: int, last: int, taken: Taken) -> State | None:
        """Judge a step and keep what is to be kept of it; how the loop ends here, if it does."""
        spec, ends = self.spec, step == steps(self.spec)
        if why := self.lookout.look(taken.means["loss"], taken.norm):
            self.saver.finish()
            return self._go_back(step, why)
        diverged = self.watch.diverged(taken.means["loss"])
        pauses = taken.reason is not None or step == last
        saves = not ends and (pauses or taken.save_is_due or is_milestone(spec, step))
        # What is kept was compared before.
        self.replicas.check(step, saves or diverged or ends or step in self.leaves)
        if diverged:
            return "DIVERGED"
        if step in self.leaves:
            passed = lines_before(self.run, step) if self.ranks.first else []
            trunk.leave(self.engine, self.run, self.attempt, step, passed, self.ranks)
        if saves:
            self.saver.start(partial(snapshot, self.engine), step)
            self.saved = time.monotonic()
        if saves and pauses:
            self.saver.finish()
        if saves and taken.reason:
            raise EndedEarly(taken.reason, f"asked to stop after step {step}", step)
        return None

    def _wants_to_save(self) -> bool:
        """The first rank's clock decides for all."""
        waited = time.monotonic() - self.saved
        return self.ranks.first and self.saver.idle and waited > self.spec.checkpoints.every_seconds

    def _go_back(self, step: int, why: str) -> State:
        """Go back before a spike; one too many ends the run."""
        settings = self.spec.stability.spikes
        if len(self.spikes) >= settings.limit:
            if self.ranks.first:
                self.run.event("spike_limit", step=step, why=why, limit=settings.limit)
            return "DIVERGED"
        if self.ranks.first:
            index, origins = batch_of(self.skipped, step), self.objective.origins
            about = {"why": why, "batch": index, "documents": origins(index) if origins else []}
            go_back(self.run, spike_at(settings, step), **about)
        dist.barrier()
        return "RESUME"


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

"""One optimizer step over a global batch, whatever the stage and the layout.

Shapes: B sequences of this rank, T time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor, nn

from train.config import RunSpec
from train.parallel import Ranks, total

Batch = dict[str, Tensor]


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


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the draws of one step of one rank."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])

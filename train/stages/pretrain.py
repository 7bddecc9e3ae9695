"""Pretraining: windows of the mixture, under the run's objective."""

import numpy as np
from torch import nn

from train.course import Course
from train.eval.likelihood import validate
from train.objectives import answer_tokens, restrained, routed
from train.parallel import total
from train.stages.context import Context, StageParts
from train.step import Batch, Objective


def pretrain(context: Context) -> StageParts:
    """Objective and evaluation of a pretraining run."""
    spec, ranks = context.spec, context.ranks
    course = Course(spec, context.data)

    def batch(step: int) -> dict[str, np.ndarray]:
        return course.batch(step, ranks.rank, ranks.world_size)

    def weight(batch: Batch) -> float:
        if "mask" in batch:
            return total([answer_tokens(batch)], ranks)[0]
        rows, ids = batch["ids"].shape
        return float(rows * ranks.world_size * (ids - 1))

    def evaluate(model: nn.Module) -> dict[str, float]:
        return validate(model, spec, context.data, ranks)

    loss = routed(restrained(spec.stability), spec.model)
    return StageParts(Objective(batch, weight, loss, course.origins), evaluate)

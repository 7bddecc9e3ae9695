"""Pretraining: next-token prediction over windows of the mixture."""

import numpy as np
from torch import nn

from train.data.loader import TrainLoader
from train.eval.likelihood import validate
from train.loop import Batch, Objective
from train.objectives import window_nats
from train.stages.context import Context, StageParts


def pretrain(context: Context) -> StageParts:
    """Objective and evaluation of a pretraining run."""
    spec, ranks = context.spec, context.ranks
    length = spec.model.seq_len
    sequences = spec.batch.global_batch_tokens // length
    loader = TrainLoader(context.data, spec.data.mixture, length, sequences, spec.seed)

    def batch(step: int) -> dict[str, np.ndarray]:
        return {"ids": loader.batch(step, ranks.rank, ranks.world_size)}

    def weight(batch: Batch) -> float:
        return float(sequences * length)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return validate(model, spec, context.data, ranks)

    return StageParts(Objective(batch, weight, window_nats), evaluate)

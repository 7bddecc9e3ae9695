"""Supervised fine-tuning: the answers of instruction pairs, prompts given but not learned."""

import numpy as np
from torch import nn

from train.data.pair_loader import instructions, pair_batch
from train.eval.likelihood import mean_over, validate
from train.objectives import answer_nats, answer_tokens, routed
from train.parallel import total
from train.stages.context import Context, StageParts, rank_rows
from train.step import Batch, Objective


def fine_tune(context: Context) -> StageParts:
    """Objective and evaluation of instruction tuning on the corpus's own pairs.

    Source: Ouyang et al. 2022, arXiv:2203.02155, sec. 3.5 (SFT).
    """
    spec, ranks = context.spec, context.ranks
    sequences = spec.batch.global_batch_tokens // spec.model.seq_len
    table = instructions(context.data, "train", spec.model.seq_len)
    held_out = instructions(context.data, "validation", spec.model.seq_len)

    def batch(step: int) -> dict[str, np.ndarray]:
        return pair_batch(table, sequences, spec.seed, step, ranks.rank, ranks.world_size)

    def evaluate(model: nn.Module) -> dict[str, float]:
        rows = rank_rows(held_out.columns, spec.batch.micro_batch_size, ranks)
        answers = mean_over(model, rows, _measure, ranks)
        return validate(model, spec, context.data, ranks) | answers

    def weight(batch: Batch) -> float:
        return total([answer_tokens(batch)], ranks)[0]

    return StageParts(Objective(batch, weight, routed(answer_nats, spec.model)), evaluate)


def _measure(model: nn.Module, batch: Batch) -> dict[str, float]:
    nats, _ = answer_nats(model, batch)
    return {"answer_nats_per_token": nats.item(), "count": answer_tokens(batch)}

"""Direct preference optimisation against the reference that the run starts from.

Shapes: P pairs, T time. The two answers of a pair are neighbouring rows: chosen, then rejected.
"""

import numpy as np
import torch
from torch import Tensor, nn

from train.data.pair_loader import PairTable, pair_indices, preferences
from train.eval.likelihood import mean_over, validate
from train.objectives import pair_log_probabilities, preference
from train.stages.context import Context, StageParts, rank_rows
from train.step import Batch, Objective, to_device

REFERENCE_PAIRS = 64  # pairs of one forward of the reference; only memory depends on it


def direct_preference(context: Context) -> StageParts:
    """Objective and evaluation of DPO on the corpus's preference pairs.

    The reference's log-probabilities are computed once, before training, and travel with the pairs:
    the job holds one model, not two. Source: Rafailov et al. 2023, arXiv:2305.18290.
    """
    spec, ranks = context.spec, context.ranks
    pairs = spec.batch.global_batch_tokens // spec.model.seq_len // 2
    length, settings = spec.model.seq_len, spec.preference
    context.model.to(ranks.device)
    table = with_reference(context, preferences(context.data, "train", length))
    held_out = with_reference(context, preferences(context.data, "validation", length))

    def batch(step: int) -> dict[str, np.ndarray]:
        count = len(table["reference"])
        indices = pair_indices(count, pairs, spec.seed, step, ranks.rank, ranks.world_size)
        return rows_of({name: column[indices] for name, column in table.items()})

    def weight(batch: Batch) -> float:
        return float(pairs)

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return preference(model, batch, settings.beta, settings.nll_weight)

    def measure(model: nn.Module, batch: Batch) -> dict[str, float]:
        value, extra = loss(model, batch)
        return {"preference_loss": value.item(), **extra, "count": len(batch["reference"]) / 2}

    def evaluate(model: nn.Module) -> dict[str, float]:
        rows = map(rows_of, rank_rows(held_out, REFERENCE_PAIRS, ranks))
        return validate(model, spec, context.data, ranks) | mean_over(model, rows, measure, ranks)

    return StageParts(Objective(batch, weight, loss), evaluate)


def rows_of(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pairs (P, 2, ...) as rows (2P, ...): a micro-batch counts sequences, here as elsewhere."""
    return {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()}


@torch.no_grad()
def with_reference(context: Context, table: PairTable) -> dict[str, np.ndarray]:
    """`ids` and `mask` (P, 2, T + 1) of a pair table, and `reference` (P, 2) before training."""
    columns = {
        name: np.stack([table.columns[f"chosen_{name}"], table.columns[f"rejected_{name}"]], axis=1)
        for name in ("ids", "mask")
    }
    parts = []
    for start in range(0, len(table), REFERENCE_PAIRS):
        chunk = {name: column[start : start + REFERENCE_PAIRS] for name, column in columns.items()}
        batch = to_device(rows_of(chunk), context.ranks)
        parts.append(pair_log_probabilities(context.model, batch).float().cpu().numpy())
    return columns | {"reference": np.concatenate(parts)}

"""Objectives: what the loop minimises, over token windows, answers, or preference pairs.

Shapes: B batch, T time, P pairs.
"""

from torch import Tensor, nn

from train.loop import Batch
from train.losses import dpo, sequence_log_probability, token_nats


def shifted(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets of next-token prediction: (B, T + 1) -> (B, T), (B, T)."""
    return ids[:, :-1], ids[:, 1:]


def window_nats(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Nats of every token but the first of each window, summed."""
    inputs, targets = shifted(batch["ids"])
    return token_nats(model(inputs), targets).sum(), {}


def answer_nats(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Nats of the tokens under the mask (B, T + 1), summed: only answers are learned."""
    inputs, targets = shifted(batch["ids"])
    return (token_nats(model(inputs), targets) * batch["mask"][:, 1:]).sum(), {}


def answer_tokens(batch: Batch) -> float:
    return float(batch["mask"][:, 1:].sum().item())


def pair_log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of the answers (P, 2): chosen, rejected, from rows 2p and 2p + 1."""
    inputs, targets = shifted(batch["ids"])
    rows = sequence_log_probability(model(inputs), targets, batch["mask"][:, 1:])
    return rows.view(-1, 2)


def preference(
    model: nn.Module, batch: Batch, beta: float, nll_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """DPO over pairs with stored `reference` (2P,), plus a share of the chosen's nats; summed.

    The second term keeps the chosen answer likely, not only likelier than the rejected.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; Dubey et al. 2024, arXiv:2407.21783,
    sec. 4.1.4 (the term).
    """
    policy = pair_log_probabilities(model, batch)
    losses, margin = dpo(policy, batch["reference"].view(-1, 2), beta)
    nats = -policy[:, 0] / batch["mask"][::2, 1:].sum(dim=-1)
    extra = {
        "preference_accuracy": (margin > 0).float().sum().item(),
        "preference_margin": margin.sum().item(),
    }
    return (losses + nll_weight * nats).sum(), extra

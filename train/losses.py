"""Losses as pure functions of logits and targets, in nats.

Shapes: B batch, T time, V vocab.
"""

from torch import Tensor
from torch.nn import functional as F


def token_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target: (B, T, V), (B, T) -> (B, T)."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return flat.view_as(targets)


def z_loss(logits: Tensor) -> Tensor:
    """Square of the log of the softmax's normaliser: (B, T, V) -> (B, T).

    Source: Chowdhery et al. 2022, arXiv:2204.02311, sec. 5.
    """
    return logits.float().logsumexp(dim=-1).square()


def max_z_loss(logits: Tensor) -> Tensor:
    """Square of the largest logit: (B, T, V) -> (B, T).

    Source: Yang et al. 2023, arXiv:2309.10305, sec. 3.4.
    """
    return logits.float().amax(dim=-1).square()


def sequence_log_probability(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Sum of log-probabilities over the masked targets of each sequence: (B,)."""
    return -(token_nats(logits, targets) * mask).sum(dim=-1)


def dpo(policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Direct preference loss of each pair, and its implicit reward margin: both (P,).

    `policy` and `reference` hold log-probabilities (P, 2): chosen, rejected.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7.
    """
    ratio = policy - reference
    margin = beta * (ratio[:, 0] - ratio[:, 1])
    return -F.logsigmoid(margin), margin

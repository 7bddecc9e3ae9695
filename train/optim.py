"""Optimizers and their parameter groups."""

import torch
from torch import nn

from train.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, norm gains do not. Tied tables stand once."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Decoupled weight decay. Source: Loshchilov & Hutter 2019, arXiv:1711.05101, alg. 2."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )

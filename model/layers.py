"""Norm and feed-forward block.

Shapes: B batch, T time, D d_model, F d_ff.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import Activation, ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def squared_relu(x: Tensor) -> Tensor:
    """Source: So et al. 2021, arXiv:2109.08668 (Primer)."""
    return F.relu(x).square()


# The nonlinearity, and whether a second projection gates it (Shazeer 2020, arXiv:2002.05202).
ACTIVATIONS: dict[Activation, tuple[Callable[[Tensor], Tensor], bool]] = {
    "swiglu": (F.silu, True),
    "gelu": (F.gelu, False),
    "relu2": (squared_relu, False),
}


class FeedForward(nn.Module):
    """Two projections around a nonlinearity, or three where one gates the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation, gated = ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False) if gated else None
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        hidden = self.up(x)  # (B, T, F)
        if self.gate is None:
            return self.down(self.activation(hidden))
        return self.down(self.activation(self.gate(x)) * hidden)

"""Norms and the feed-forward block.

Shapes: B batch, T time, D d_model, F d_ff.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import GATED, Activation, ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def norm(config: ModelConfig) -> nn.Module:
    """The norm of a residual stream. LayerNorm: Ba et al. 2016, arXiv:1607.06450."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)
    return RMSNorm(config.d_model, config.norm_eps)


def squared_relu(x: Tensor) -> Tensor:
    """Source: So et al. 2021, arXiv:2109.08668 (Primer)."""
    return F.relu(x).square()


# Source: GELU, Hendrycks & Gimpel 2016, arXiv:1606.08415; gated, Shazeer 2020, arXiv:2002.05202.
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": squared_relu,
}


class FeedForward(nn.Module):
    """Two projections around a nonlinearity, or three where one gates the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        wide, bias = config.d_expert, config.bias
        gated = config.activation in GATED
        self.up = nn.Linear(config.d_model, wide, bias=bias)
        self.gate = nn.Linear(config.d_model, wide, bias=bias) if gated else None
        self.down = nn.Linear(wide, config.d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        hidden = self.up(x)  # (..., F)
        if self.gate is None:
            return self.down(self.activation(hidden))
        return self.down(self.activation(self.gate(x)) * hidden)

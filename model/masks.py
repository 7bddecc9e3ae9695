"""Which keys a query sees: the one place that decides how attention is masked.

Plain causal attention is left to the fused kernels. All else is a table of booleans, or of numbers
where scores are shifted by position. Shapes: B batch, T queries, S keys, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig


@dataclass(frozen=True)
class Mask:
    """What scaled_dot_product_attention is told: `causal`, or a table (B or 1, H or 1, T, S)."""

    causal: bool = False
    table: Tensor | None = None


def decoder_mask(
    config: ModelConfig,
    queries: Tensor,
    keys: Tensor,
    prefix: Tensor | None = None,
    documents: Tensor | None = None,
    shift: Tensor | None = None,
) -> Mask:
    """The mask of a decoder's own attention, for positions `queries` (T,) and `keys` (S,).

    `prefix` (B,) tokens at the start are seen from everywhere; `documents` (B, S) hide from each
    other; `shift` (1, H, T, S) is added to scores.
    """
    square = len(queries) == len(keys)
    if square and config.window is None and prefix is None and documents is None and shift is None:
        return Mask(causal=len(queries) > 1)
    distance = queries[:, None] - keys
    seen = distance >= 0
    if config.window is not None:
        seen = seen & ((distance < config.window) | (keys < config.sinks))
    seen = seen[None]
    if prefix is not None:
        seen = seen | (keys < prefix[:, None])[:, None]
    if documents is not None:
        seen = seen & (documents[:, -len(queries) :, None] == documents[:, None, :])
    return _table(seen[:, None], shift)


def source_mask(present: Tensor | None, shift: Tensor | None = None) -> Mask:
    """The mask of attention to a whole source; `present` (B, S) is false where it is padding."""
    if present is None:
        return Mask(table=shift)
    return _table(present[:, None, None, :], shift)


def _table(seen: Tensor, shift: Tensor | None) -> Mask:
    if shift is None:
        return Mask(table=seen)
    return Mask(table=torch.where(seen, shift, float("-inf")))

"""How a token knows its place."""

import torch
from torch import Tensor


def rope_table(seq_len: int, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding, each (T, E), in the half-split layout.

    Source: Su et al. 2021, arXiv:2104.09864, eq. 34. Halves instead of neighbouring pairs, so that
    weights move to and from Hugging Face's Llama without a permutation.
    """
    inverse = theta ** -(torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)  # (E/2,)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float64), inverse)  # (T, E/2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys (B, H, T, E) by the angles of their positions (T, E)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin

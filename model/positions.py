"""How a token knows its place.

Shapes: B batch, T time of queries, S time of keys, H heads, E d_head.
"""

import math

import torch
from torch import Tensor, nn


def rope_table(seq_len: int, rotated: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding, each (T, rotated), in the half-split layout.

    Source: Su et al. 2021, arXiv:2104.09864, eq. 34. Halves instead of neighbouring pairs, so that
    weights move to and from Hugging Face's Llama without a permutation.
    """
    inverse = theta ** -(torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float64), inverse)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys (B, H, T, E) by the angles of their positions (T, up to E).

    Channels beyond the angles stay. Source: Black et al. 2022, arXiv:2204.06745, sec. 2.1.
    """
    rotated = cos.shape[-1]
    if rotated < x.shape[-1]:
        turned, rest = x[..., :rotated], x[..., rotated:]
        return torch.cat((rotate(turned, cos, sin), rest), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def sinusoidal_table(seq_len: int, d_model: int) -> Tensor:
    """Sines at even and cosines at odd channels: (T, D).

    Source: Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5.
    """
    even = torch.arange(0, d_model, 2, dtype=torch.float64)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float64), 10_000 ** -(even / d_model))
    table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
    return table[:, :d_model].float()


def alibi_slopes(n_heads: int) -> Tensor:
    """The slope of each head (H,): geometric from 2^(-8/H); between powers of two interleaved.

    Source: Press et al. 2021, arXiv:2108.12409, sec. 3, and their published code.
    """

    def geometric(count: int) -> list[float]:
        return [2 ** (-8 * (head + 1) / count) for head in range(count)]

    whole = 2 ** int(math.log2(n_heads))
    return torch.tensor(geometric(whole) + geometric(2 * whole)[::2][: n_heads - whole])


class Alibi(nn.Module):
    """Scores fall in proportion to the distance; behind or ahead alike."""

    slopes: Tensor

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", alibi_slopes(n_heads), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:  # (T, S) of query minus key -> (1, H, T, S)
        return (-self.slopes[:, None, None] * distance.abs())[None]


def relative_bucket(distance: Tensor, buckets: int, furthest: int, *, both_ways: bool) -> Tensor:
    """The bucket of each distance (query minus key): exact when near, logarithmic up to `furthest`.

    Source: Raffel et al. 2020, arXiv:1910.10683, sec. 2.1, and their published code.
    """
    offset = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        offset = (distance < 0).long() * buckets
        distance = distance.abs()
    else:
        distance = distance.clamp(min=0)
    exact = buckets // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(furthest / exact)
    coarse = exact + (far * (buckets - exact)).long()
    return offset + torch.where(distance < exact, distance, coarse.clamp(max=buckets - 1))


class RelativeBias(nn.Module):
    """A learned score for every bucket of distance and every head, one table for all layers."""

    def __init__(self, buckets: int, furthest: int, n_heads: int, *, both_ways: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(buckets, n_heads))
        self.furthest = furthest
        self.both_ways = both_ways

    def forward(self, distance: Tensor) -> Tensor:  # (T, S) of query minus key -> (1, H, T, S)
        count = self.weight.shape[0]
        found = relative_bucket(distance, count, self.furthest, both_ways=self.both_ways)
        return self.weight[found].permute(2, 0, 1)[None]

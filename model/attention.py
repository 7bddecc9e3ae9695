"""Attention with grouped queries, to the same text or to another.

Shapes: B batch, T queries, S keys, D d_model, H heads, K kv heads, E d_head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.layers import RMSNorm
from model.masks import Mask
from model.positions import rotate

Angles = tuple[Tensor, Tensor]


@dataclass
class Cache:
    """Keys and values (B, K, S, E) of what was read: grown, and cut to what is still seen."""

    key: Tensor | None = None
    value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.key is not None and self.value is not None:
            key = torch.cat((self.key, key), dim=2)
            value = torch.cat((self.value, value), dim=2)
        self.key, self.value = key, value
        return key, value

    def keep(self, indices: Tensor) -> None:
        """Forget all but these places."""
        assert self.key is not None
        assert self.value is not None
        self.key, self.value = self.key[:, :, indices], self.value[:, :, indices]


class ScaledDotProduct(nn.Module):
    """Scores of queries and keys, under a mask, as weights of the values; no parameters.

    A module of its own, so that a hook meets queries and keys as they are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.groups = config.n_heads // config.n_kv_heads
        self.dropout = config.dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
        """Queries (B, H, T, E), keys and values (B, K, S, E) -> (B, H, T, E)."""
        if self.groups > 1:
            key = key.repeat_interleave(self.groups, dim=1)
            value = value.repeat_interleave(self.groups, dim=1)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask.table is None else _like(query, mask.table),
            is_causal=mask.causal,
            dropout_p=self.dropout if self.training else 0.0,
        )


class Attention(nn.Module):
    """Every K-th part of the query heads shares one key and value head.

    Source: Vaswani et al. 2017, arXiv:1706.03762, sec. 3.2; Ainslie et al. 2023, arXiv:2305.13245;
    K = H is multi-head, K = 1 multi-query attention (Shazeer 2019, arXiv:1911.02150).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.d_head = config.d_head
        queries, keys = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        self.query = nn.Linear(config.d_model, queries, bias=config.bias)
        self.key = nn.Linear(config.d_model, keys, bias=config.bias)
        self.value = nn.Linear(config.d_model, keys, bias=config.bias)
        self.out = nn.Linear(queries, config.d_model, bias=config.bias)
        eps = config.norm_eps
        self.query_norm = RMSNorm(config.d_head, eps) if config.qk_norm else None
        self.key_norm = RMSNorm(config.d_head, eps) if config.qk_norm else None
        self.dot_product = ScaledDotProduct(config)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        angles: Angles | None = None,
        source: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); attends to `source` (B, S, D), or to x itself.

        With a cache the keys read before come first, and those of x are added to it.
        """
        query, key, value = self.projected(x, x if source is None else source)
        if angles is not None:
            query, key = rotate(query, *angles), rotate(key, *angles)
        if cache is not None:
            key, value = cache.extend(key, value)
        mixed = self.dot_product(query, key, value, mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def projected(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, E), keys and values (B, K, S, E), before any rotation."""
        query, key = self._heads(self.query(x)), self._heads(self.key(source))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, self._heads(self.value(source))

    def _heads(self, x: Tensor) -> Tensor:  # (B, T, H*E) -> (B, H, T, E)
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)


def _like(query: Tensor, table: Tensor) -> Tensor:
    """Numbers of a mask in the type of the scores."""
    return table if table.dtype == torch.bool else table.to(query.dtype)

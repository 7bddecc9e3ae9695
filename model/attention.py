"""Causal self-attention with grouped queries.

Shapes: B batch, T time, D d_model, H heads, K kv heads, E d_head.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.positions import rotate


class Attention(nn.Module):
    """Every K-th part of the query heads shares one key and value head.

    Source: Ainslie et al. 2023, arXiv:2305.13245; K = H is multi-head, K = 1 multi-query attention.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.d_head = config.d_head
        self.groups = config.n_heads // config.n_kv_heads
        self.query = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=False)
        self.key = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=False)
        self.value = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=False)
        self.out = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        query = self._heads(self.query(x))  # (B, H, T, E)
        key, value = self._heads(self.key(x)), self._heads(self.value(x))  # (B, K, T, E)
        if rope is not None:
            query, key = rotate(query, *rope), rotate(key, *rope)
        if self.groups > 1:
            key = key.repeat_interleave(self.groups, dim=1)
            value = value.repeat_interleave(self.groups, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:  # (B, T, H*E) -> (B, H, T, E)
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

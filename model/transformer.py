"""A decoder-only language model on one device. It knows no rank, no optimizer, no run.

Shapes: B batch, T time, D d_model, V vocab.
"""

import math

import torch
from torch import Tensor, nn

from model.attention import Attention
from model.config import ModelConfig
from model.layers import FeedForward, RMSNorm
from model.positions import rope_table


class Block(nn.Module):
    """Pre-norm residual block: attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """Token ids (B, T) to next-token logits (B, T, V). T may be at most config.seq_len."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        cos, sin = rope_table(config.seq_len, config.d_head, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        rope = None
        if self.config.position == "rope":
            rope = (self.cos[:length], self.sin[:length])
        x = self.embedding(tokens)  # (B, T, D)
        for block in self.blocks:
            x = block(x, rope)
        return self.head(self.norm(x))


def initialise(model: Transformer, seed: int) -> None:
    """Draw all weights from the seed: std sqrt(2/5D), residual outputs 2/(L sqrt(D)).

    Source: Nguyen & Salazar 2019, arXiv:1910.05895, sec. 2.2, and Wang's rule as GPT-NeoX-20B uses
    it (Black et al. 2022, arXiv:2204.06745, sec. 2.1). Both follow the width, so that a ladder of
    sizes needs no constant of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    small = math.sqrt(2 / (5 * config.d_model))
    residual = 2 / (config.n_layers * math.sqrt(config.d_model))
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue  # norm gains stay one
        output = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        # One layer would get a residual std above that of its inputs: the smaller one of the two.
        std = min(residual, small) if output else small
        with torch.no_grad():
            parameter.normal_(0.0, std, generator=generator)

"""A language model on one device. It knows no rank, no optimizer, no run.

Shapes: B batch, T time, S source time, D d_model, V vocab.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attention import Angles, Attention, Cache
from model.config import ModelConfig
from model.layers import FeedForward, norm
from model.masks import Mask, decoder_mask, source_mask
from model.moe import MixtureOfExperts
from model.positions import Alibi, RelativeBias, rope_table, sinusoidal_table


@dataclass(frozen=True)
class Memory:
    """A source as the decoder attends to it: its states (B, S, D) and their mask."""

    states: Tensor
    mask: Mask


class Block(nn.Module):
    """Attention, attention to a source where there is one, and a feed-forward block.

    Norms stand before each of them (Xiong et al. 2020, arXiv:2002.04745), after the sum (Vaswani et
    al. 2017, arXiv:1706.03762), or before and after each (Ding et al. 2021, arXiv:2105.13290, sec.
    3.2). In parallel both read the same input (Chowdhery et al. 2022, arXiv:2204.02311, sec. 2).
    """

    def __init__(self, config: ModelConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.placement = config.norm_placement
        self.parallel = config.parallel_blocks
        sandwich = config.norm_placement == "sandwich"
        self.attention_norm = norm(config)
        self.attention = Attention(config)
        self.attention_out_norm = norm(config) if sandwich else None
        self.cross_norm = norm(config) if cross else None
        self.cross = Attention(config) if cross else None
        self.cross_out_norm = norm(config) if sandwich and cross else None
        self.feed_forward_norm = None if config.shared_norm else norm(config)
        self.feed_forward = MixtureOfExperts(config) if config.moe else FeedForward(config)
        self.feed_forward_out_norm = norm(config) if sandwich else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        angles: Angles | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        before = self._before(self.attention_norm, x)
        attended = self.attention(before, mask, angles, cache=cache)
        if self.parallel:
            read = before if self.feed_forward_norm is None else self.feed_forward_norm(x)
            return x + self.dropout(attended) + self.dropout(self.feed_forward(read))
        x = self._after(x, attended, self.attention_norm, self.attention_out_norm)
        if self.cross is not None and self.cross_norm is not None:
            assert memory is not None, "an encoder-decoder was given no source"
            before = self._before(self.cross_norm, x)
            attended = self.cross(before, memory.mask, source=memory.states)
            x = self._after(x, attended, self.cross_norm, self.cross_out_norm)
        assert self.feed_forward_norm is not None
        fed = self.feed_forward(self._before(self.feed_forward_norm, x))
        return self._after(x, fed, self.feed_forward_norm, self.feed_forward_out_norm)

    def _before(self, own: nn.Module, x: Tensor) -> Tensor:
        return x if self.placement == "post" else own(x)

    def _after(self, x: Tensor, added: Tensor, own: nn.Module, out: nn.Module | None) -> Tensor:
        added = self.dropout(added if out is None else out(added))
        return own(x + added) if self.placement == "post" else x + added


class Stack(nn.Module):
    """The blocks of an encoder or a decoder, what shifts their scores, and their last norm."""

    def __init__(self, config: ModelConfig, layers: int, *, cross: bool, both_ways: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, cross=cross) for _ in range(layers))
        self.norm = nn.Identity() if config.norm_placement == "post" else norm(config)
        self.bias = _bias(config, both_ways=both_ways)

    def shift(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """What is added to the scores of positions (T,) and (S,): (1, H, T, S), or nothing."""
        return None if self.bias is None else self.bias(queries[:, None] - keys)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        angles: Angles | None,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x, mask, angles, memory, None if caches is None else caches[index])
        return self.norm(x)


def _bias(config: ModelConfig, *, both_ways: bool) -> nn.Module | None:
    if config.position == "alibi":
        return Alibi(config.n_heads)
    if config.position == "relative":
        buckets, furthest = config.relative_buckets, config.relative_max_distance
        return RelativeBias(buckets, furthest, config.n_heads, both_ways=both_ways)
    return None


class Transformer(nn.Module):
    """Token ids (B, T) to next-token logits (B, T, V). T may be at most config.seq_len.

    `prefix` (B,) says how many first tokens of a prefix decoder see each other; `documents` (B, T)
    which document each token is of; `source` (B, S) is what an encoder reads, `present` (B, S)
    false where that is padding.
    """

    cos: Tensor
    sin: Tensor
    places: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.position == "learned"
        self.positions = nn.Embedding(config.seq_len, config.d_model) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        layers = config.n_encoder_layers
        self.encoder = Stack(config, layers, cross=False, both_ways=True) if layers else None
        self.decoder = Stack(config, config.n_layers, cross=layers > 0, both_ways=False)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self._add_tables()

    def _add_tables(self) -> None:
        config = self.config
        if config.position == "rope":
            cos, sin = rope_table(config.seq_len, config.rotated, config.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        if config.position == "sinusoidal":
            table = sinusoidal_table(config.seq_len, config.d_model)
            self.register_buffer("places", table, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        *,
        prefix: Tensor | None = None,
        documents: Tensor | None = None,
        source: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        memory = None if source is None else self.read(source, present)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        shift = self.decoder.shift(positions, positions)
        documents = documents if self.config.document_mask else None
        mask = decoder_mask(self.config, positions, positions, prefix, documents, shift)
        x = self.embedded(tokens, positions)
        return self.logits(self.decoder(x, mask, self.angles(positions), memory))

    def read(self, source: Tensor, present: Tensor | None = None) -> Memory:
        """What an encoder makes of a source (B, S)."""
        assert self.encoder is not None, "a decoder alone was given a source"
        positions = torch.arange(source.shape[1], device=source.device)
        shift = self.encoder.shift(positions, positions)
        x = self.embedded(source, positions)
        states = self.encoder(x, source_mask(present, shift), self.angles(positions))
        return Memory(states, source_mask(present))

    def embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The first state of tokens (B, T) at positions (T,): (B, T, D)."""
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.config.position == "sinusoidal":
            # Scaled up, or the sines would drown the words. Source: Vaswani et al., sec. 3.4.
            x = x * math.sqrt(self.config.d_model) + self.places[positions]
        return self.dropout(x)

    def angles(self, positions: Tensor) -> Angles | None:
        if self.config.position != "rope":
            return None
        return self.cos[positions], self.sin[positions]

    def logits(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, V)
        config = self.config
        if config.mup_base_width is not None:
            # Source: Yang et al. 2022, arXiv:2203.03466, table 8 (the output's multiplier).
            x = x * (config.mup_base_width / config.d_model)
        logits = self.head(x)
        if config.logit_softcap is not None:
            logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)
        return logits

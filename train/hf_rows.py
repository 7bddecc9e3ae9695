"""Which of our weights are which of Hugging Face's, for Llama, GPT-2 and GPT-NeoX.

Shapes: D d_model, H heads, E d_head.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig


@dataclass(frozen=True)
class Packing:
    """How several of our tensors are one of theirs."""

    pack: Callable[[Sequence[Tensor]], Tensor]
    unpack: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Row:
    """Our tensors, and the one of theirs that holds them."""

    ours: tuple[str, ...]
    theirs: str
    packing: Packing


SAME = Packing(lambda parts: parts[0], lambda whole: [whole])
# GPT-2 multiplies by its weights from the right.
TURNED = Packing(lambda parts: parts[0].t(), lambda whole: [whole.t()])
JOINED = Packing(lambda parts: torch.cat(list(parts)), lambda whole: whole.chunk(3))
JOINED_TURNED = Packing(lambda parts: torch.cat(list(parts)).t(), lambda whole: whole.t().chunk(3))


def by_head(n_heads: int) -> Packing:
    """Queries, keys and values of each head one after the other: (H, 3E, ...) in the first axis."""

    def pack(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.unflatten(0, (n_heads, -1)) for part in parts], 1).flatten(0, 1)

    def unpack(whole: Tensor) -> Sequence[Tensor]:
        return [p.flatten(0, 1) for p in whole.unflatten(0, (n_heads, -1)).chunk(3, dim=1)]

    return Packing(pack, unpack)


QKV = ("query", "key", "value")


def llama_rows(config: ModelConfig) -> Iterator[Row]:
    """Source: transformers, models/llama/modeling_llama.py."""
    yield Row(("embedding.weight",), "model.embed_tokens.weight", SAME)
    yield Row(("decoder.norm.weight",), "model.norm.weight", SAME)
    projections = {f"attention.{n}": f"self_attn.{n[0]}_proj" for n in (*QKV, "out")}
    projections |= {f"feed_forward.{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    for i in range(config.n_layers):
        ours, theirs = f"decoder.blocks.{i}.", f"model.layers.{i}."
        norms = {
            "attention_norm": "input_layernorm",
            "feed_forward_norm": "post_attention_layernorm",
        }
        for mine, other in norms.items():
            yield Row((f"{ours}{mine}.weight",), f"{theirs}{other}.weight", SAME)
        for mine, other in projections.items():
            for kind in ("weight", "bias") if config.bias else ("weight",):
                yield Row((f"{ours}{mine}.{kind}",), f"{theirs}{other}.{kind}", SAME)


def gpt2_rows(config: ModelConfig) -> Iterator[Row]:
    """Source: transformers, models/gpt2/modeling_gpt2.py (its Conv1D)."""
    yield Row(("embedding.weight",), "transformer.wte.weight", SAME)
    yield Row(("positions.weight",), "transformer.wpe.weight", SAME)
    yield from _both("decoder.norm", "transformer.ln_f", SAME)
    for i in range(config.n_layers):
        ours, theirs = f"decoder.blocks.{i}.", f"transformer.h.{i}."
        yield from _both(ours + "attention_norm", theirs + "ln_1", SAME)
        yield from _both(ours + "feed_forward_norm", theirs + "ln_2", SAME)
        yield from _qkv(ours, theirs + "attn.c_attn", JOINED_TURNED, JOINED)
        yield from _both(ours + "attention.out", theirs + "attn.c_proj", TURNED)
        yield from _both(ours + "feed_forward.up", theirs + "mlp.c_fc", TURNED)
        yield from _both(ours + "feed_forward.down", theirs + "mlp.c_proj", TURNED)


def neox_rows(config: ModelConfig) -> Iterator[Row]:
    """Source: transformers, models/gpt_neox/modeling_gpt_neox.py."""
    yield Row(("embedding.weight",), "gpt_neox.embed_in.weight", SAME)
    yield from _both("decoder.norm", "gpt_neox.final_layer_norm", SAME)
    heads = by_head(config.n_heads)
    for i in range(config.n_layers):
        ours, theirs = f"decoder.blocks.{i}.", f"gpt_neox.layers.{i}."
        yield from _both(ours + "attention_norm", theirs + "input_layernorm", SAME)
        yield from _both(ours + "feed_forward_norm", theirs + "post_attention_layernorm", SAME)
        yield from _qkv(ours, theirs + "attention.query_key_value", heads, heads)
        yield from _both(ours + "attention.out", theirs + "attention.dense", SAME)
        yield from _both(ours + "feed_forward.up", theirs + "mlp.dense_h_to_4h", SAME)
        yield from _both(ours + "feed_forward.down", theirs + "mlp.dense_4h_to_h", SAME)


def _both(ours: str, theirs: str, weight: Packing) -> Iterator[Row]:
    yield Row((ours + ".weight",), theirs + ".weight", weight)
    yield Row((ours + ".bias",), theirs + ".bias", SAME)


def _qkv(block: str, theirs: str, weight: Packing, bias: Packing) -> Iterator[Row]:
    for kind, packing in (("weight", weight), ("bias", bias)):
        ours = tuple(f"{block}attention.{name}.{kind}" for name in QKV)
        yield Row(ours, f"{theirs}.{kind}", packing)

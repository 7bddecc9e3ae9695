"""Closed-form counts against the built module, torch's own counter, and cached tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from variants import ALL, DECODERS, label

from model.config import ModelConfig
from model.counts import (
    flops_per_token,
    kv_cache_bytes,
    params_active,
    params_embedding,
    params_non_embedding,
    params_total,
)
from model.generate import Writer
from model.moe import MixtureOfExperts
from model.transformer import Transformer

TABLES = ("embedding.weight", "positions.weight", "head.weight")


@st.composite
def small_shapes(draw: st.DrawFn) -> ModelConfig:
    n_kv_heads = draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(st.integers(5, 60)),
        seq_len=draw(st.integers(2, 24)),
        n_layers=draw(st.integers(1, 3)),
        d_model=draw(st.integers(2, 24)),
        n_heads=n_kv_heads * draw(st.integers(1, 3)),
        n_kv_heads=n_kv_heads,
        d_head=2 * draw(st.integers(1, 4)),
        d_ff=draw(st.integers(1, 40)),
        activation=draw(st.sampled_from(["swiglu", "gelu", "relu2"])),
        position=draw(st.sampled_from(["rope", "none", "learned", "relative"])),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        norm_placement=draw(st.sampled_from(["pre", "post", "sandwich"])),
        bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )


def idle_experts(model: Transformer) -> int:
    """Parameters of experts that a token does not meet."""
    idle = 0
    for block in (m for m in model.modules() if isinstance(m, MixtureOfExperts)):
        one = sum(p.numel() for p in block.experts[0].parameters())
        idle += one * (block.config.n_experts - block.config.top_k)
    return idle


def check_parameters(config: ModelConfig) -> None:
    model = Transformer(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert params_total(config) == sum(sizes.values())
    body = sum(size for name, size in sizes.items() if name not in TABLES)
    assert params_non_embedding(config) == body
    assert params_embedding(config) == sum(sizes.values()) - body
    assert params_active(config) == body - idle_experts(model) + model.head.weight.numel()


@settings(max_examples=40, deadline=None)
@given(small_shapes())
def test_parameter_counts_of_any_shape_equal_those_of_the_built_module(config: ModelConfig) -> None:
    check_parameters(config)


@pytest.mark.parametrize("config", ALL, ids=label)
def test_parameter_counts_of_every_choice_equal_those_of_the_built_module(
    config: ModelConfig,
) -> None:
    check_parameters(config)


def counted_flops(config: ModelConfig) -> float:
    """What torch counts in a forward over two full sequences, a token, times three."""
    tokens = torch.zeros(2, config.seq_len, dtype=torch.long)
    source = tokens if config.n_encoder_layers else None
    counter = FlopCounterMode(display=False)
    # The fused CPU kernel is not in torch's table of formulas; the plain one is two matmuls.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        Transformer(config).eval()(tokens, source=source)
    return 3 * counter.get_total_flops() / tokens.numel()


def full_square(config: ModelConfig) -> ModelConfig:
    """A mask hides scores that the plain kernel computes all the same."""
    return config.model_copy(update={"window": None, "sinks": 0})


@settings(max_examples=20, deadline=None)
@given(small_shapes())
def test_training_flops_of_any_shape_are_three_times_the_forward_flops_that_torch_counts(
    config: ModelConfig,
) -> None:
    assert flops_per_token(config) == counted_flops(config)


@pytest.mark.parametrize("config", [c for c in ALL if c.moe is None], ids=label)
def test_training_flops_of_every_choice_are_what_torch_counts(config: ModelConfig) -> None:
    assert flops_per_token(full_square(config)) == counted_flops(config)


@pytest.mark.parametrize("config", [c for c in ALL if c.moe and not c.moe.capacity_factor])
def test_training_flops_of_experts_are_what_torch_counts_when_none_is_dropped(
    config: ModelConfig,
) -> None:
    assert flops_per_token(config) == counted_flops(config)


def test_a_window_saves_the_flops_of_what_it_hides() -> None:
    whole = DECODERS[0]
    narrow = whole.model_copy(update={"window": 4, "sinks": 1})
    saved = 12 * whole.n_layers * whole.n_heads * whole.d_head * (whole.seq_len - 5)
    assert flops_per_token(whole) - flops_per_token(narrow) == saved


@pytest.mark.parametrize("config", DECODERS, ids=label)
@pytest.mark.parametrize("length", [3, 16])
def test_cache_bytes_are_those_of_the_cached_tensors(config: ModelConfig, length: int) -> None:
    writer = Writer(Transformer(config).eval())
    with torch.no_grad():
        writer.read(torch.zeros(1, length, dtype=torch.long))
    held = [t for c in writer.caches for t in (c.key, c.value) if t is not None]
    assert sum(t.numel() for t in held) * 2 == kv_cache_bytes(config, length)
    assert sum(t.nbytes for t in held) == kv_cache_bytes(config, length, bytes_per_number=4)

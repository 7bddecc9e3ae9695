"""Closed-form counts against published numbers, the built module, and torch's own counter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import (
    ModelConfig,
    flops_per_token,
    params_active,
    params_non_embedding,
    params_total,
)
from model.transformer import Transformer

LLAMA_1_7B = ModelConfig(
    vocab_size=32_000,
    seq_len=2048,
    n_layers=32,
    d_model=4096,
    n_heads=32,
    n_kv_heads=32,
    d_head=128,
    d_ff=11_008,
)
LLAMA_3_8B = LLAMA_1_7B.model_copy(
    update={"vocab_size": 128_256, "n_kv_heads": 8, "d_ff": 14_336, "seq_len": 8192}
)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        # huggingface.co/meta-llama: sizes of the tensors in the released weights
        (LLAMA_1_7B, 6_738_415_616),
        (LLAMA_3_8B, 8_030_261_248),
    ],
)
def test_total_parameters_equal_the_published_count(config: ModelConfig, published: int) -> None:
    assert params_total(config) == published


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
        position=draw(st.sampled_from(["rope", "none"])),
        tied_embeddings=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None)
@given(small_shapes())
def test_parameter_counts_equal_those_of_the_built_module(config: ModelConfig) -> None:
    model = Transformer(config)
    tables = {id(model.embedding.weight), id(model.head.weight)}
    sizes = {id(p): p.numel() for p in model.parameters()}
    assert params_total(config) == sum(sizes.values())
    body = sum(size for key, size in sizes.items() if key not in tables)
    assert params_non_embedding(config) == body
    assert params_active(config) == body + model.head.weight.numel()


@settings(max_examples=20, deadline=None)
@given(small_shapes())
def test_training_flops_are_three_times_the_forward_flops_that_torch_counts(
    config: ModelConfig,
) -> None:
    counter = FlopCounterMode(display=False)
    # The fused CPU kernel is not in torch's table of formulas; the plain one is two matmuls.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        Transformer(config)(torch.zeros(2, config.seq_len, dtype=torch.long))
    assert flops_per_token(config) == 3 * counter.get_total_flops() / (2 * config.seq_len)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_heads": 3}, r"n_heads=4 .* use n_kv_heads in \(1, 2, 4\)"),
        ({"d_head": 5}, "d_head=5 is odd"),
        ({"n_layers": 0}, "n_layers"),
        ({"d_modle": 8}, "d_modle"),
    ],
)
def test_an_impossible_shape_names_value_and_way_out(change: dict[str, int], words: str) -> None:
    shape = {
        "vocab_size": 10,
        "seq_len": 8,
        "n_layers": 1,
        "d_model": 8,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_head": 4,
        "d_ff": 16,
    }
    with pytest.raises(ValidationError, match=words):
        ModelConfig.model_validate(shape | change)

"""Shapes that can be built, and the words for those that cannot."""

import pytest
from pydantic import ValidationError

from model.config import ModelConfig
from model.counts import params_total

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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_heads": 3}, r"n_heads=4 .* use n_kv_heads in \(1, 2, 4\)"),
        ({"d_head": 5}, "d_head=5 .* turns 5 channels"),
        ({"rope_fraction": 0.1}, "rope_fraction=0.1 turns 0 channels"),
        ({"sinks": 2}, "sinks=2 without a window"),
        ({"parallel_blocks": True, "norm_placement": "post"}, "use norm_placement='pre'"),
        ({"shared_norm": True}, "shared_norm=True without parallel_blocks"),
        ({"init": "mup"}, "needs the width at which"),
        ({"mup_base_width": 8}, "init='small' with mup_base_width=8"),
        ({"architecture": "prefix_decoder", "window": 4}, "a prefix is seen whole"),
        ({"architecture": "encoder_decoder"}, "n_encoder_layers=0"),
        ({"n_encoder_layers": 1}, "n_encoder_layers=1 with architecture='decoder'"),
        (
            {"architecture": "encoder_decoder", "n_encoder_layers": 1, "document_mask": True},
            "has no document_mask",
        ),
        ({"moe": {"n_experts": 2, "top_k": 3}}, "top_k=3 is more than moe.n_experts=2"),
        ({"n_layers": 0}, "n_layers"),
        ({"d_modle": 8}, "d_modle"),
    ],
)
def test_an_impossible_shape_names_value_and_way_out(change: dict[str, object], words: str) -> None:
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

"""A grown model computes what the small one did, whatever was added."""

from typing import Any

import pytest
import torch
from variants import MOE, TINY

from model.config import ModelConfig
from model.grow import grow
from model.initial import initialise
from model.transformer import Transformer


def config(**change: Any) -> ModelConfig:
    return ModelConfig.model_validate(TINY.model_dump() | change)


def build(shape: ModelConfig) -> Transformer:
    model = Transformer(shape)
    initialise(model, 0)
    dice = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=dice)
    return model.eval()


TRAITS = (
    {},
    {"norm": "layernorm", "bias": True, "position": "learned", "activation": "gelu"},
    {"norm_placement": "sandwich", "qk_norm": True},
    {"parallel_blocks": True, "position": "alibi", "n_kv_heads": 4},
    {"position": "relative", "n_kv_heads": 1},
)
LARGER = (
    {"n_layers": 5},
    {"d_ff": 64},
    {"d_model": 48},
    {"d_model": 72, "n_layers": 3, "d_ff": 100},
    {"n_heads": 8},
)


# The slopes of ALiBi follow the number of heads.
CASES = [
    (traits, larger)
    for traits in TRAITS
    for larger in LARGER
    if not (traits.get("position") == "alibi" and "n_heads" in larger)
]


@pytest.mark.parametrize(("traits", "larger"), CASES)
def test_a_grown_model_has_the_logits_of_the_small_one(
    traits: dict[str, Any], larger: dict[str, Any]
) -> None:
    small = build(config(**traits))
    large = grow(small, config(**(traits | larger))).eval()
    tokens = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(large(tokens), small(tokens), rtol=1e-4, atol=1e-5)


def test_what_is_new_learns_and_copies_part() -> None:
    large = grow(build(TINY), config(d_model=48, n_layers=3, d_ff=64))
    tokens = torch.randint(0, 50, (8, 16), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        logits = large(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    assert large.decoder.blocks[2].attention.out.weight.any()
    first, second = large.embedding.weight.chunk(2, dim=1)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_model": 36}, "d_model=36 is no multiple of 24"),
        ({"d_ff": 20}, "d_ff=20 is less than 40"),
        ({"vocab_size": 60}, "vocab_size=60 cannot be grown from 50"),
        ({"activation": "gelu"}, "activation='gelu' cannot be grown from 'swiglu'"),
        ({"n_kv_heads": 4}, "leaves a key fewer queries"),
    ],
)
def test_a_shape_that_is_not_larger_in_kind_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grow(build(TINY), config(**change))


@pytest.mark.parametrize(
    ("traits", "change", "words"),
    [
        ({"moe": MOE}, {"n_layers": 3}, "experts and encoder-decoders do not grow"),
        ({"position": "alibi"}, {"n_heads": 8}, "keep n_heads"),
        ({"tied_embeddings": True}, {"d_model": 48}, "keep d_model"),
        ({"init": "mup", "mup_base_width": 24}, {"d_model": 48}, "keep d_model"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    traits: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        grow(build(config(**traits)), config(**(traits | change)))

"""What hooks see of a forward, against scores and outputs computed in the open."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import Attention
from model.config import ModelConfig
from model.initial import initialise
from model.masks import Mask
from model.positions import rotate
from model.transformer import Transformer
from train.probes import Probes, largest_logit, layer_of, square

SHAPE: dict[str, Any] = {
    "vocab_size": 64, "seq_len": 24, "n_layers": 2, "d_model": 16, "n_heads": 4, "n_kv_heads": 2,
    "d_head": 6, "d_ff": 20,
}  # fmt: skip


def watched(config: ModelConfig, **conditions: Any) -> tuple[Transformer, Probes, Tensor]:
    """A model after a forward of two sequences under its probes, and the tokens."""
    model = Transformer(config)
    initialise(model, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    tokens = torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(1))
    probes = Probes(model)
    with probes.attached():
        model(tokens, **conditions)
    return model, probes, tokens


def plain_scores(attention: Attention, x: Tensor, source: Tensor, angles: Any) -> Tensor:
    """Every q k / sqrt(E): (B, H, T, S), one head at a time."""
    query, key, _ = attention.projected(x, source)
    if angles is not None:
        query, key = rotate(query, *angles), rotate(key, *angles)
    heads, groups = query.shape[1], key.shape[1]
    each = [query[:, h] @ key[:, h // (heads // groups)].mT for h in range(heads)]
    return torch.stack(each, dim=1) / math.sqrt(query.shape[-1])


def first_scores(model: Transformer, tokens: Tensor) -> Tensor:
    """The scores of the first block, all of them."""
    positions = torch.arange(tokens.shape[1])
    block = model.decoder.blocks[0]
    x = block.attention_norm(model.embedded(tokens, positions))
    return plain_scores(block.attention, x, x, model.angles(positions))


def seen(window: int | None = None) -> Tensor:
    distance = torch.arange(24)[:, None] - torch.arange(24)
    return (distance >= 0) & (distance < (window or 24))


def test_the_largest_logit_is_that_of_all_keys_that_are_seen() -> None:
    """Grouped queries, rotated, and causal: what lies ahead is larger and does not count."""
    model, probes, tokens = watched(ModelConfig(**SHAPE))
    scores = first_scores(model, tokens)
    expected = scores[..., seen()].max().item()
    assert probes.largest["block.0"].item() == pytest.approx(expected, rel=1e-5)
    assert scores.max() > expected + 0.1


@pytest.mark.parametrize("traits", [{"position": "alibi"}, {"window": 3}])
def test_the_largest_logit_is_shifted_and_hidden_as_a_table_says(traits: dict[str, Any]) -> None:
    model, probes, tokens = watched(ModelConfig(**SHAPE, **traits))
    positions = torch.arange(24)
    shift = model.decoder.shift(positions, positions)
    scores = first_scores(model, tokens) + (0 if shift is None else shift)
    expected = scores[..., seen(traits.get("window"))].max().item()
    assert probes.largest["block.0"].item() == pytest.approx(expected, rel=1e-5)


def test_the_padding_of_a_source_does_not_count() -> None:
    present = torch.arange(24) < torch.tensor([[7], [15]])
    source = torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(2))
    config = ModelConfig(**SHAPE, architecture="encoder_decoder", n_encoder_layers=2)
    model, probes, tokens = watched(config, source=source, present=present)
    assert set(probes.largest) == {
        "encoder.block.0", "encoder.block.1", "block.0", "block.1", "block.0.cross",
        "block.1.cross",
    }  # fmt: skip
    memory, positions = model.read(source, present), torch.arange(24)
    block = model.decoder.blocks[0]
    x = model.embedded(tokens, positions)
    x = x + block.attention(block.attention_norm(x), Mask(causal=True), model.angles(positions))
    scores = plain_scores(block.cross, block.cross_norm(x), memory.states, None)
    expected = scores.masked_fill(~present[:, None, None, :], -math.inf).max().item()
    assert probes.largest["block.0.cross"].item() == pytest.approx(expected, rel=1e-5)
    assert scores.max() > expected + 0.01


@pytest.mark.parametrize("causal", [True, False])
def test_scores_in_parts_have_the_largest_of_the_whole(causal: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, 24, 6, generator=generator)
    key = torch.randn(2, 2, 24, 6, generator=generator)
    table = None if causal else torch.randn(2, 4, 24, 24, generator=generator)
    mask = Mask(causal=causal, table=table)
    whole = largest_logit(query, key, mask)
    for rows in (1, 5, 23):
        part = largest_logit(query, key, mask, scores=rows * 2 * 4 * 24)
        assert part.item() == pytest.approx(whole.item(), rel=1e-6)


def test_outputs_are_summed_over_all_forwards() -> None:
    model, probes, tokens = watched(ModelConfig(**SHAPE))
    with probes.attached():
        logits = model(tokens[:1, :5])
    both = torch.cat([model(tokens).flatten(), logits.flatten()])
    found = probes.mean_squares(1)
    assert found["head"].item() == pytest.approx(both.square().mean().item(), rel=1e-5)
    looked_up = torch.cat([model.embedding(tokens).flatten(0, 1), model.embedding(tokens[0, :5])])
    assert found["embedding"].item() == pytest.approx(looked_up.square().mean().item(), rel=1e-5)
    assert set(found) == {"embedding", "block.0", "block.1", "head"}


def test_probes_leave_the_model_as_it_was() -> None:
    model, _, tokens = watched(ModelConfig(**SHAPE))
    modules = list(model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    before = model(tokens)
    with Probes(model).attached():
        assert torch.equal(model(tokens), before)


def test_every_parameter_belongs_to_a_layer() -> None:
    config = ModelConfig(**SHAPE, architecture="encoder_decoder", n_encoder_layers=1, bias=True,
                         norm="layernorm", position="relative")  # fmt: skip
    layers = {layer_of(name) for name, _ in Transformer(config).named_parameters()}
    assert layers == {
        "embedding", "encoder.block.0", "encoder.norm", "encoder.bias", "block.0", "block.1",
        "norm", "bias", "head",
    }  # fmt: skip


@pytest.mark.parametrize("count", [0, 7, 256, 1_000_003])
def test_squares_of_many_numbers_are_added_as_in_double_precision(count: int) -> None:
    numbers = torch.rand(count, generator=torch.Generator().manual_seed(4))
    assert square(numbers).item() == pytest.approx(numbers.double().square().sum().item(), rel=1e-7)

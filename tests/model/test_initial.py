"""First weights: seeded, of the published spread, and under muP stable over widths."""

import math
from typing import get_args

import pytest
import torch
from torch import nn
from variants import ALL, BOTH, TINY, label

from model.config import Initialisation, ModelConfig
from model.initial import INITIALISERS, initialise, rate_multipliers
from model.transformer import Transformer


def build(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialise(model, seed)
    return model


def wide(**change: object) -> ModelConfig:
    sizes = {"d_model": 256, "n_heads": 8, "d_head": 32, "d_ff": 512, "n_layers": 8}
    return ModelConfig.model_validate(TINY.model_dump() | sizes | change)


def test_the_table_of_initialisations_and_the_literal_are_equal() -> None:
    assert set(INITIALISERS) == set(get_args(Initialisation))


@pytest.mark.parametrize("config", ALL, ids=label)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(config: ModelConfig) -> None:
    first, second, other = build(config, 1), build(config, 1), build(config, 2)
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(weight, second.state_dict()[name], rtol=0, atol=0)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("change", "name", "std"),
    [
        ({"init": "normal"}, "decoder.blocks.3.attention.out.weight", 0.02),
        ({"init": "depth_scaled"}, "decoder.blocks.3.feed_forward.down.weight", 0.02 / 4),
        ({"init": "depth_scaled"}, "decoder.blocks.3.feed_forward.up.weight", 0.02),
        ({"init": "small"}, "decoder.blocks.3.attention.query.weight", math.sqrt(2 / (5 * 256))),
        ({"init": "small"}, "decoder.blocks.3.attention.out.weight", 2 / (8 * 16)),
        ({"init": "tfixup"}, "embedding.weight", 1 / 16),
        ({"init": "tfixup"}, "decoder.blocks.3.attention.query.weight", math.sqrt(2 / 512)),
        (
            {"init": "tfixup"},
            "decoder.blocks.3.attention.out.weight",
            math.sqrt(2 / 512) * 0.67 * 8**-0.25,
        ),
        (
            {"init": "tfixup"} | BOTH,
            "decoder.blocks.3.cross.out.weight",
            math.sqrt(2 / 512) * (9 * 8) ** -0.25,
        ),
        (
            {"init": "mup", "mup_base_width": 64},
            "decoder.blocks.3.attention.query.weight",
            0.02 * math.sqrt(64 / 256),
        ),
        ({"init": "mup", "mup_base_width": 64}, "embedding.weight", 0.02),
    ],
)
def test_the_spread_of_a_weight_is_its_rules(
    change: dict[str, object], name: str, std: float
) -> None:
    weight = build(wide(**change)).get_parameter(name)
    # 4 standard errors of a standard deviation over n draws.
    assert weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * weight.numel()))


def coordinates(width: int, init: Initialisation, steps: int = 4) -> list[float]:
    """Mean size of logits and of the last hidden state after a few Adam steps at one rate."""
    change = {"d_model": width, "n_heads": width // 16, "n_kv_heads": width // 16, "d_head": 16}
    base = 64 if init == "mup" else None
    more = {"d_ff": 2 * width, "init": init, "mup_base_width": base, "init_std": 0.05}
    model = build(ModelConfig.model_validate(TINY.model_dump() | change | more))
    multipliers = rate_multipliers(model)
    groups = [
        {"params": [p], "lr": 0.01 * multipliers.get(name, 1.0)}
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.Adam(groups)
    dice = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 50, (16, 17), generator=dice)
    fresh = model(tokens[:, :-1]).detach()
    for _ in range(steps):
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = model(tokens[:, :-1]).detach() - fresh
    return [moved.abs().mean().item()]


def test_under_mup_what_a_few_steps_change_does_not_grow_with_the_width() -> None:
    """The coordinate check. Source: Yang et al. 2022, arXiv:2203.03466, app. D.1."""
    narrow, broad = (coordinates(width, "mup")[0] for width in (64, 512))
    assert 0.5 < broad / narrow < 2
    narrow, broad = (coordinates(width, "normal")[0] for width in (64, 512))
    assert broad / narrow > 2


def test_rates_of_hidden_matrices_alone_fall_with_the_width() -> None:
    model = build(wide(init="mup", mup_base_width=64))
    multipliers = rate_multipliers(model)
    assert set(multipliers.values()) == {0.25}
    assert "decoder.blocks.0.attention.query.weight" in multipliers
    assert not {"embedding.weight", "head.weight", "decoder.norm.weight"} & set(multipliers)
    assert rate_multipliers(build(wide())) == {}

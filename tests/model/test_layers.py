"""Positions, masks, norms, attention and experts, each against its published form."""

import math
from typing import get_args

import pytest
import torch
from variants import MOE, TINY

from model.attention import Attention
from model.config import Activation, ModelConfig
from model.layers import ACTIVATIONS, RMSNorm
from model.masks import Mask, decoder_mask
from model.moe import MixtureOfExperts, router_losses
from model.positions import (
    alibi_slopes,
    relative_bucket,
    rope_table,
    rotate,
    sinusoidal_table,
)
from model.transformer import Transformer

CAUSAL = Mask(causal=True)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_table_of_activations_and_the_literal_are_equal() -> None:
    assert set(ACTIVATIONS) == set(get_args(Activation))


@pytest.mark.parametrize("rotated", [8, 2])
def test_rope_scores_depend_on_the_distance_alone(rotated: int) -> None:
    cos, sin = rope_table(32, rotated, 10_000.0)
    query, key = noise(2, 1, 1, 1, 8).expand(2, 1, 1, 32, 8)
    scores = rotate(query, cos, sin) @ rotate(key, cos, sin).transpose(-1, -2)
    for distance in range(32):
        diagonal = scores[0, 0].diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_sines_are_those_of_the_formula() -> None:
    table = sinusoidal_table(40, 6)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[7, 2].item() == pytest.approx(math.sin(7 / 10_000 ** (2 / 6)), abs=1e-6)
    assert table[7, 3].item() == pytest.approx(math.cos(7 / 10_000 ** (2 / 6)), abs=1e-6)


@pytest.mark.parametrize(
    ("heads", "published"),
    [
        # Press et al. 2021, sec. 3: 1/2^1 .. 1/2^8, and with 16 heads 1/2^0.5, 1/2^1, ...
        (8, [2.0**-n for n in range(1, 9)]),
        (16, [2.0 ** (-n / 2) for n in range(1, 17)]),
        # Between powers of two, their code takes every second slope of the next power.
        (3, [2.0**-4, 2.0**-8, 2.0**-2]),
    ],
)
def test_alibi_slopes_are_the_published_ones(heads: int, published: list[float]) -> None:
    assert alibi_slopes(heads).tolist() == pytest.approx(published)


def test_relative_buckets_are_exact_near_and_logarithmic_far() -> None:
    # Raffel et al. 2020, sec. 2.1: 32 buckets, all beyond 128 in the last one.
    distance = torch.tensor([-1, 0, 1, 15, 16, 31, 64, 127, 128, 5000])
    found = relative_bucket(distance, 32, 128, both_ways=False)
    assert found.tolist() == [0, 0, 1, 15, 16, 21, 26, 31, 31, 31]
    both = relative_bucket(torch.tensor([-1, 1, -8, 8, -500, 500]), 32, 128, both_ways=True)
    assert both.tolist() == [17, 1, 24, 8, 31, 15]


@pytest.mark.parametrize("window", [None, 1, 3, 99])
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_query_sees_its_window_the_sinks_its_prefix_and_its_document(
    window: int | None, sinks: int
) -> None:
    config = TINY.model_copy(update={"window": window, "sinks": sinks})
    places = torch.arange(9)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]])
    prefix = torch.tensor([4])
    mask = decoder_mask(config, places, places, prefix, documents)
    assert mask.table is not None
    for i in range(9):
        for j in range(9):
            near = window is None or i - j < window or j < sinks
            seen = (j <= i and near) or j < 4
            assert mask.table[0, 0, i, j].item() == (seen and documents[0, i] == documents[0, j])


def test_plain_causal_attention_is_left_to_the_fused_kernel() -> None:
    places = torch.arange(9)
    assert decoder_mask(TINY, places, places) == CAUSAL


def test_grouped_queries_equal_multi_head_with_repeated_keys_and_values() -> None:
    grouped = Attention(TINY)
    full = Attention(TINY.model_copy(update={"n_kv_heads": 4}))
    full.query.load_state_dict(grouped.query.state_dict())
    full.out.load_state_dict(grouped.out.state_dict())
    for name in ("key", "value"):
        heads = getattr(grouped, name).weight.view(2, 6, 24).repeat_interleave(2, dim=0)
        getattr(full, name).weight.data = heads.reshape(24, 24)
    x = noise(3, 16, 24)
    torch.testing.assert_close(grouped(x, CAUSAL), full(x, CAUSAL))


def test_normalised_queries_and_keys_bound_every_score() -> None:
    attention = Attention(TINY.model_copy(update={"qk_norm": True, "n_kv_heads": 4}))
    query, key, _ = attention.projected(1e3 * noise(2, 5, 24), 1e3 * noise(2, 5, 24, seed=1))
    assert (query @ key.transpose(-1, -2)).abs().max() <= TINY.d_head * 1.001


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(RMSNorm(2, 0.0)(x), x / math.sqrt((9 + 16) / 2))


def experts(**change: object) -> MixtureOfExperts:
    config = ModelConfig.model_validate(TINY.model_dump() | {"moe": MOE | change})
    return MixtureOfExperts(config)


def test_a_token_is_the_weighted_sum_of_its_experts_and_the_shared_ones() -> None:
    block, x = experts(), noise(2, 7, 24)
    out = block(x)
    for row in range(2):
        for place in range(7):
            token = x[row, place]
            weights, chosen = block.router(token).softmax(-1).topk(2)
            parts = [
                w * block.experts[int(i)](token)
                for w, i in zip(weights / weights.sum(), chosen, strict=True)
            ]
            expected = sum(parts) + block.shared[0](token)
            torch.testing.assert_close(out[row, place], expected)


def test_an_even_router_has_balance_one_and_an_uneven_one_more() -> None:
    block = experts(top_k=1)
    block.router.weight.data.zero_()
    block(noise(2, 7, 24))
    # Fedus et al. 2021, eq. 4: X sum f P is one where the probabilities are uniform.
    assert block.terms["balance"].item() == pytest.approx(1.0)
    # Zoph et al. 2022, eq. 5: log^2 of the sum of four ones.
    assert block.terms["router_z"].item() == pytest.approx(math.log(4) ** 2)
    block.router.weight.data[0] = 10 * noise(24)
    block(noise(2, 7, 24).abs() * noise(24).sign())
    assert block.terms["balance"].item() > 2


def test_an_expert_without_room_drops_the_last_comers() -> None:
    block = experts(top_k=1, n_shared=0, capacity_factor=1.0)
    block.router.weight.data.zero_()  # everybody's first choice is the same expert
    x = noise(1, 8, 24)
    out = block(x)
    assert block.terms["dropped_fraction"].item() == pytest.approx(6 / 8)
    assert out[0, :2].any(dim=-1).all()
    assert not out[0, 2:].any()


def test_the_terms_of_a_model_are_the_mean_over_its_layers() -> None:
    model = Transformer(ModelConfig.model_validate(TINY.model_dump() | {"moe": MOE}))
    assert router_losses(model) == {}
    model(torch.zeros(1, 4, dtype=torch.long))
    blocks = [m for m in model.modules() if isinstance(m, MixtureOfExperts)]
    mean = torch.stack([b.terms["balance"] for b in blocks]).mean()
    torch.testing.assert_close(router_losses(model)["balance"], mean)

"""What the module promises: causality, relative positions, grouped queries, seeded weights."""

import math

import pytest
import torch

from model.attention import Attention
from model.config import Activation, ModelConfig, Position
from model.layers import ACTIVATIONS, RMSNorm
from model.positions import rope_table, rotate
from model.transformer import Transformer, initialise

TINY = ModelConfig(
    vocab_size=50,
    seq_len=16,
    n_layers=2,
    d_model=24,
    n_heads=4,
    n_kv_heads=2,
    d_head=6,
    d_ff=40,
)


def build(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialise(model, seed)
    return model


def test_the_table_of_activations_and_the_literal_are_equal() -> None:
    assert set(ACTIVATIONS) == set(Activation.__args__)


@pytest.mark.parametrize("activation", Activation.__args__)
@pytest.mark.parametrize("position", Position.__args__)
def test_a_later_token_never_changes_an_earlier_logit(
    activation: Activation, position: Position
) -> None:
    model = build(TINY.model_copy(update={"activation": activation, "position": position}))
    tokens = torch.arange(16)[None] % 50
    changed = tokens.clone()
    changed[0, 9:] = 7
    torch.testing.assert_close(model(tokens)[:, :9], model(changed)[:, :9])


def test_rope_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rope_table(32, 8, 10_000.0)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator).expand(2, 1, 1, 32, 8)
    scores = rotate(query, cos, sin) @ rotate(key, cos, sin).transpose(-1, -2)
    for distance in range(32):
        diagonal = scores[0, 0].diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_without_positions_the_order_of_earlier_tokens_does_not_matter_in_one_layer() -> None:
    model = build(TINY.model_copy(update={"position": "none", "n_layers": 1}))
    forward, swapped = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    torch.testing.assert_close(model(forward)[:, -1], model(swapped)[:, -1])
    ordered = build(TINY.model_copy(update={"n_layers": 1}))
    assert not torch.allclose(ordered(forward)[:, -1], ordered(swapped)[:, -1])


def test_grouped_queries_equal_multi_head_with_repeated_keys_and_values() -> None:
    grouped = Attention(TINY)
    full = Attention(TINY.model_copy(update={"n_kv_heads": 4}))
    full.query.load_state_dict(grouped.query.state_dict())
    full.out.load_state_dict(grouped.out.state_dict())
    for name in ("key", "value"):
        heads = getattr(grouped, name).weight.view(2, 6, 24).repeat_interleave(2, dim=0)
        getattr(full, name).weight.data = heads.reshape(24, 24)
    x = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(grouped(x, None), full(x, None))


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x = torch.tensor([[3.0, 4.0]])
    expected = x / math.sqrt((9 + 16) / 2)
    torch.testing.assert_close(RMSNorm(2)(x), expected, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, other = build(TINY, 1), build(TINY, 1), build(TINY, 2)
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(weight, second.state_dict()[name], rtol=0, atol=0)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_fresh_model_predicts_close_to_uniformly() -> None:
    model = build(TINY)
    tokens = torch.randint(0, 50, (8, 17), generator=torch.Generator().manual_seed(0))
    logits = model(tokens[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(50)) < 0.3


def test_tied_tables_are_one_tensor() -> None:
    model = build(TINY.model_copy(update={"tied_embeddings": True}))
    assert model.head.weight is model.embedding.weight

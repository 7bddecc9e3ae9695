"""What the module promises, whatever its config: causality, and what a source or prefix adds."""

import math
import zlib
from itertools import combinations
from typing import get_args

import pytest
import torch
from torch import Tensor
from variants import ALL, DECODERS, ENCODER_DECODERS, PREFIX, TINY, label

from model.config import ModelConfig, Traits
from model.generate import generate
from model.initial import initialise
from model.transformer import Transformer


def build(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialise(model, seed)
    return model.eval()


def some_tokens(rows: int = 1, length: int = 16, seed: int = 0) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(0, TINY.vocab_size, (rows, length), generator=dice)


def undropped(config: ModelConfig) -> bool:
    """A full expert drops who comes last: there other tokens' choices matter, by design."""
    return config.moe is None or config.moe.capacity_factor is None


@pytest.mark.parametrize("config", list(filter(undropped, ALL)), ids=label)
def test_a_later_token_never_changes_an_earlier_logit(config: ModelConfig) -> None:
    model, tokens = build(config), some_tokens()
    changed = tokens.clone()
    changed[0, 9:] = 7
    source = some_tokens(seed=1) if config.n_encoder_layers else None
    before, after = model(tokens, source=source), model(changed, source=source)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


@pytest.mark.parametrize("config", ALL, ids=label)
def test_every_parameter_learns(config: ModelConfig) -> None:
    model, tokens = build(config).train(), some_tokens(rows=4)
    source = some_tokens(rows=4, seed=1) if config.n_encoder_layers else None
    model(tokens, source=source).logsumexp(-1).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    without = [name for name, g in gradients.items() if g is None or not g.any()]
    # Which experts are met is chance, and a key's bias shifts all scores of a query alike.
    assert all(".experts." in name or name.endswith("key.bias") for name in without), without
    assert all(g.isfinite().all() for g in gradients.values() if g is not None)


def test_every_field_of_a_model_is_varied_by_some_variant() -> None:
    plain = TINY.model_dump()
    varied = {key for one in ALL for key, value in one.model_dump().items() if value != plain[key]}
    assert set(Traits.model_fields) <= varied


def shaken(config: ModelConfig) -> Transformer:
    """A model whose zeros are none, by the same draws wherever two models have a parameter."""
    model = build(config)
    for name, parameter in model.named_parameters():
        dice = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=dice)
    return model


@pytest.mark.parametrize("switch", ["activation", "position", "norm", "norm_placement", "init"])
def test_no_two_choices_of_a_switch_are_one_function(switch: str) -> None:
    logits = {}
    for choice in get_args(Traits.model_fields[switch].annotation):
        base = {"mup_base_width": 12} if choice == "mup" else {}
        config = ModelConfig.model_validate(TINY.model_dump() | {switch: choice} | base)
        logits[choice] = shaken(config)(some_tokens())
    for one, other in combinations(logits, 2):
        assert not torch.allclose(logits[one], logits[other]), (one, other)


@pytest.mark.parametrize("config", PREFIX, ids=label)
def test_tokens_of_a_prefix_see_each_other_and_no_further(config: ModelConfig) -> None:
    model, tokens = build(config), some_tokens(rows=2)
    prefix = torch.tensor([6, 3])
    changed = tokens.clone()
    changed[:, 5] = (tokens[:, 5] + 1) % 50
    difference = (model(tokens, prefix=prefix) - model(changed, prefix=prefix)).abs().sum(-1)
    assert (difference[0] > 0).all()
    assert not difference[1, :5].any()
    assert (difference[1, 5:] > 0).all()


def test_documents_of_one_window_do_not_see_each_other() -> None:
    model = build(TINY.model_copy(update={"document_mask": True, "position": "none"}))
    tokens = some_tokens()
    documents = torch.tensor([[0] * 6 + [1] * 10])
    together = model(tokens, documents=documents)
    torch.testing.assert_close(together[:, :6], model(tokens[:, :6]))
    torch.testing.assert_close(together[:, 6:], model(tokens[:, 6:]))


@pytest.mark.parametrize("config", [c for c in ENCODER_DECODERS if c.moe is None], ids=label)
def test_a_source_matters_wherever_it_is_changed_but_in_its_padding(config: ModelConfig) -> None:
    model, tokens, source = build(config), some_tokens(length=5), some_tokens(seed=1)
    present = torch.ones_like(source, dtype=torch.bool)
    present[:, 12:] = False
    logits = model(tokens, source=source, present=present)
    for place in (0, 11, 13):
        changed = source.clone()
        changed[0, place] = (source[0, place] + 1) % 50
        same = torch.allclose(logits, model(tokens, source=changed, present=present))
        assert same == (place >= 12)


@pytest.mark.parametrize("config", list(filter(undropped, DECODERS + ENCODER_DECODERS)), ids=label)
def test_what_is_written_with_a_cache_is_what_is_written_without(config: ModelConfig) -> None:
    model, prompt = build(config, seed=3), some_tokens(rows=2, length=4)
    source = some_tokens(rows=2, seed=1) if config.n_encoder_layers else None
    text = prompt
    for _ in range(12):
        likeliest = model(text, source=source)[:, -1].argmax(-1, keepdim=True)
        text = torch.cat((text, likeliest), dim=1)
    assert generate(model, prompt, 12, source=source).equal(text[:, 4:])


def test_drawn_text_follows_its_seed_and_its_cut() -> None:
    model, prompt = build(TINY), some_tokens(length=4)
    first, same, other = (
        generate(model, prompt, 10, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert first.equal(same)
    assert not first.equal(other)
    assert generate(model, prompt, 10, temperature=1.0, top_k=1).equal(generate(model, prompt, 10))


def test_a_text_longer_than_the_model_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are more than the model's seq_len=16"):
        generate(build(TINY), some_tokens(length=4), 14)


def test_without_positions_the_order_of_earlier_tokens_does_not_matter_in_one_layer() -> None:
    model = build(TINY.model_copy(update={"position": "none", "n_layers": 1}))
    forward, swapped = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    torch.testing.assert_close(model(forward)[:, -1], model(swapped)[:, -1])
    for position in ("rope", "learned", "sinusoidal", "alibi"):
        ordered = build(TINY.model_copy(update={"n_layers": 1, "position": position}))
        assert not torch.allclose(ordered(forward)[:, -1], ordered(swapped)[:, -1])


def test_a_capped_logit_stays_below_its_cap() -> None:
    model = build(TINY.model_copy(update={"logit_softcap": 0.5}))
    model.head.weight.data *= 100
    assert model(some_tokens()).abs().max() <= 0.5


def test_dropout_acts_in_training_alone() -> None:
    model, tokens = build(TINY.model_copy(update={"dropout": 0.5})), some_tokens()
    torch.testing.assert_close(model(tokens), model(tokens))
    model.train()
    assert not torch.allclose(model(tokens), model(tokens))


def test_a_fresh_model_predicts_close_to_uniformly() -> None:
    tokens = some_tokens(rows=8)
    logits = build(TINY)(tokens[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(50)) < 0.3


def test_tied_tables_are_one_tensor() -> None:
    model = build(TINY.model_copy(update={"tied_embeddings": True}))
    assert model.head.weight is model.embedding.weight

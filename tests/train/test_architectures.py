"""Objectives on the architectures that read a prefix or a source, and on experts."""

from typing import Any

import numpy as np
import pytest
import torch

from model.config import ModelConfig, MoEConfig
from model.initial import initialise
from model.transformer import Transformer
from train.choices import BatchConfig, ObjectiveConfig, ObjectiveKind, OptimConfig, ScheduleConfig
from train.config import DataConfig, RunSpec
from train.data.tokenizer import END_OF_TEXT
from train.eval.likelihood import continued
from train.objectives import OBJECTIVES, examples, routed, window_nats
from train.optim import OPTIMIZERS, hidden_matrices
from train.parallel import Ranks
from train.step import Batch

SIZES: dict[str, Any] = {
    "vocab_size": 300, "seq_len": 64, "n_layers": 2, "d_model": 16, "n_heads": 2, "n_kv_heads": 1,
    "d_head": 8, "d_ff": 24,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "decoder": {},
    "prefix_decoder": {},
    "encoder_decoder": {"n_encoder_layers": 2},
}
SAMPLES = np.arange(6)


def model_of(architecture: str, **fields: Any) -> Transformer:
    config = SIZES | {"architecture": architecture} | ARCHITECTURES[architecture] | fields
    model = Transformer(ModelConfig(**config))
    initialise(model, seed=0)
    return model


def batch_of(model: Transformer, kind: ObjectiveKind) -> Batch:
    rng = np.random.default_rng(0)
    ids = rng.integers(270, 300, size=(6, 65))
    arrays = examples(ids, SAMPLES, 0, ObjectiveConfig(kind=kind), model.config)
    return {name: torch.from_numpy(column) for name, column in arrays.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_trains_every_architecture(kind: ObjectiveKind, architecture: str) -> None:
    if architecture == "encoder_decoder" and kind == "causal":
        return  # refused in the plan: there is nothing to read
    model = model_of(architecture)
    batch = batch_of(model, kind)
    optimizer = OPTIMIZERS["adamw"](model, OptimConfig(lr=0.02))
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, _ = window_nats(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    asked = float(batch["mask"][:, 1:].sum()) if "mask" in batch else 6 * 64
    # Knowing nothing, every target costs ln V.
    assert losses[0] / asked == pytest.approx(np.log(300), rel=0.1)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("architecture", ["prefix_decoder", "encoder_decoder"])
def test_what_is_given_is_seen_whole_and_what_is_asked_for_is_not(architecture: str) -> None:
    """Another last token given changes the first answer; another last answer changes no other."""
    model = model_of(architecture).eval()
    batch = batch_of(model, "span")
    given = "source" if architecture == "encoder_decoder" else "ids"

    def first_state(changed: Batch) -> torch.Tensor:
        conditions = {k: v for k, v in changed.items() if k not in ("ids", "mask")}
        return model(changed["ids"][:, :-1], **conditions)

    lengths = batch["present"].sum(dim=1) if "present" in batch else batch["prefix"]
    other = {name: tensor.clone() for name, tensor in batch.items()}
    other[given][0, lengths[0] - 1] = 299 if int(batch[given][0, lengths[0] - 1]) != 299 else 298
    logits, moved = first_state(batch), first_state(other)
    asked = int(batch["mask"][0].argmax()) - 1  # the position that answers first
    assert not torch.allclose(logits[0, asked], moved[0, asked])
    assert torch.allclose(logits[1], moved[1])
    end = int(batch["mask"][0].nonzero()[-1])
    late = {name: tensor.clone() for name, tensor in batch.items()}
    late["ids"][0, end] = 270 if int(batch["ids"][0, end]) != 270 else END_OF_TEXT
    assert torch.allclose(first_state(late)[0, :end], logits[0, :end], atol=1e-6)


def test_padding_of_a_source_is_not_seen() -> None:
    model = model_of("encoder_decoder").eval()
    batch = batch_of(model, "prefix")
    other = {name: tensor.clone() for name, tensor in batch.items()}
    other["source"][~other["present"]] = 280
    assert window_nats(model, batch)[0].item() == pytest.approx(
        window_nats(model, other)[0].item(), rel=1e-6
    )


def test_experts_add_their_terms_once_a_token() -> None:
    moe = MoEConfig(n_experts=4, balance_weight=0.5, router_z_weight=0.25)
    model = model_of("decoder", moe=moe)
    batch = batch_of(model, "causal")
    plain, _ = window_nats(model, batch)
    both, logged = routed(window_nats, model.config)(model, batch)
    tokens = 6 * 64
    balance, z = logged["balance"] / tokens, logged["router_z"] / tokens
    assert 1 - 1e-5 <= balance <= 4
    assert both.item() == pytest.approx(plain.item() + tokens * (0.5 * balance + 0.25 * z))
    assert logged["nats"] == pytest.approx(plain.item())
    assert routed(window_nats, model_of("decoder").config) is window_nats


def test_muon_leaves_routers_to_adamw() -> None:
    model = model_of("decoder", moe=MoEConfig(n_experts=4))
    hidden = {name for name, p in model.named_parameters() if p in hidden_matrices(model)}
    assert not any("router" in name for name in hidden)
    assert sum(".experts." in name for name in hidden) == 2 * 4 * 3


def test_mup_slows_hidden_matrices_by_the_width() -> None:
    model = model_of("decoder", init="mup", mup_base_width=4)
    groups = OPTIMIZERS["adamw"](model, OptimConfig(lr=0.02)).param_groups
    hidden = {id(p) for group in groups if group["lr_scale"] == 0.25 for p in group["params"]}
    assert hidden == {id(p) for p in hidden_matrices(model)}
    assert {group["lr"] for group in groups} == {0.005, 0.02}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["prefix", "ul2"])
def test_every_architecture_is_judged_by_the_same_second_halves(
    kind: ObjectiveKind, architecture: str
) -> None:
    model = model_of(architecture).eval()
    spec = RunSpec(
        study="s",
        trial=0,
        budget=1.0,
        model=model.config,
        data=DataConfig(vocab_size=300, sentinels=20),
        objective=ObjectiveConfig(kind=kind),
        batch=BatchConfig(global_batch_tokens=64, micro_batch_size=1),
        optim=OptimConfig(lr=0.01),
        schedule=ScheduleConfig(warmup_tokens=0),
        tokens=64,
    )
    ids = np.random.default_rng(0).integers(270, 300, size=(3, 65))
    ranks = Ranks(0, 1, torch.device("cpu"))
    with torch.no_grad():
        nats, tokens, later, asked = continued(model, spec, ids, ranks)
        assert asked == 3 * 32
        assert later / asked == pytest.approx(np.log(300), rel=0.1)
        other = ids.copy()
        other[:, 0] = 299
        # The mode token stands where the first id stood, so that this is not seen.
        same = continued(model, spec, other, ranks)[2] == pytest.approx(later, rel=1e-7)
        assert same == (kind == "ul2")
    if architecture == "encoder_decoder":
        assert (nats, tokens) == (0, 0)
    else:
        assert tokens == 3 * 64
        assert nats / tokens == pytest.approx(np.log(300), rel=0.1)

"""Every optimizer takes the steps of its paper, and treats each parameter as it should."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.initial import initialise
from model.transformer import Transformer
from train.choices import ZERO_STAGES, OptimConfig, OptimizerName
from train.losses import token_nats
from train.optim import OPTIMIZERS, Clipping, decayed, hidden_matrices

CONFIG = ModelConfig(
    vocab_size=32, seq_len=8, n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, d_head=8, d_ff=24
)  # fmt: skip
STEPS = 7


def small() -> Transformer:
    model = Transformer(CONFIG)
    initialise(model, seed=0)
    return model


def gradients(model: Transformer, step: int) -> None:
    torch.manual_seed(step)
    ids = torch.randint(0, 32, (4, 9))
    model.zero_grad()
    token_nats(model(ids[:, :-1]), ids[:, 1:]).mean().backward()


Update = Callable[[Tensor, Tensor, dict[str, Any], int, OptimConfig, float], None]


def by_adamw(p: Tensor, g: Tensor, s: dict[str, Any], k: int, c: OptimConfig, decay: float) -> None:
    """Loshchilov & Hutter 2019, algorithm 2, lines 5 to 12."""
    s["m"] = c.beta1 * s.get("m", 0) + (1 - c.beta1) * g
    s["v"] = c.beta2 * s.get("v", 0) + (1 - c.beta2) * g * g
    m, v = s["m"] / (1 - c.beta1**k), s["v"] / (1 - c.beta2**k)
    p -= c.lr * (m / (v.sqrt() + c.eps) + decay * p)


def by_lion(p: Tensor, g: Tensor, s: dict[str, Any], k: int, c: OptimConfig, decay: float) -> None:
    """Chen et al. 2023, algorithm 2."""
    m = s.get("m", torch.zeros_like(p))
    p -= c.lr * ((c.beta1 * m + (1 - c.beta1) * g).sign() + decay * p)
    s["m"] = c.beta2 * m + (1 - c.beta2) * g


def by_adafactor(
    p: Tensor, g: Tensor, s: dict[str, Any], k: int, c: OptimConfig, decay: float
) -> None:
    """Shazeer & Stern 2018, algorithms 4 and 5: factored, clipped at an RMS of 1, relative rate."""
    beta2 = 1 - k**-0.8
    square = g * g + torch.finfo(torch.float32).eps ** 2
    if p.dim() == 2:
        s["r"] = beta2 * s.get("r", 0) + (1 - beta2) * square.sum(1)
        s["c"] = beta2 * s.get("c", 0) + (1 - beta2) * square.sum(0)
        v = torch.outer(s["r"], s["c"]) / s["r"].sum()
    else:
        v = s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * square
    u = g / v.sqrt()
    u /= max(1.0, u.pow(2).mean().sqrt().item())
    rate = max(1e-3, p.pow(2).mean().sqrt().item()) * min(c.lr, k**-0.5)
    p *= 1 - c.lr * decay
    p -= rate * u


def by_muon(p: Tensor, g: Tensor, s: dict[str, Any], k: int, c: OptimConfig, decay: float) -> None:
    """Jordan et al. 2024 (kellerjordan.github.io/posts/muon), in double precision."""
    s["m"] = c.momentum * s.get("m", 0) + (1 - c.momentum) * g
    x = (c.momentum * s["m"] + (1 - c.momentum) * g).double()
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    p -= c.lr * (0.2 * max(p.shape) ** 0.5 * x.float() + decay * p)


REFERENCES: dict[OptimizerName, Update] = {
    "adamw": by_adamw,
    "lion": by_lion,
    "adafactor": by_adafactor,
    "muon": by_muon,
}
# torch runs the Newton-Schulz steps in bfloat16, whose numbers have eight bits.
TOLERANCE = {"muon": 0.03}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_the_steps_of_its_paper(name: OptimizerName) -> None:
    config = OptimConfig(name=name, lr=0.01, weight_decay=0.3)
    model, twin = small(), small()
    optimizer = OPTIMIZERS[name](model, config)
    named = dict(twin.named_parameters())
    start = {key: p.detach().clone() for key, p in named.items()}
    states: dict[str, dict[str, Any]] = {key: {} for key in named}
    decay, hidden = decayed(twin, config), hidden_matrices(twin)
    for step in range(1, STEPS + 1):
        gradients(model, step)
        optimizer.step()
        gradients(twin, step)
        for key, p in named.items():
            update = by_adamw if name == "muon" and p not in hidden else REFERENCES[name]
            with torch.no_grad():
                rate = config.weight_decay if p in decay else 0.0
                update(p, p.grad, states[key], step, config, rate)  # pyright: ignore[reportArgumentType]
    for key, p in model.named_parameters():
        moved, off = (named[key] - start[key]).norm(), (p - named[key]).norm()
        assert moved > 0, key
        assert off <= TOLERANCE.get(name, 1e-4) * moved, (key, off / moved)


def test_every_optimizer_that_may_be_named_exists_and_has_its_zero_stages() -> None:
    assert set(OPTIMIZERS) == set(get_args(OptimizerName)) == set(ZERO_STAGES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_holds_each_parameter_once_and_can_be_saved(name: OptimizerName) -> None:
    config = OptimConfig(name=name, lr=0.01)
    model = small()
    optimizer = OPTIMIZERS[name](model, config)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(set(held))
    gradients(model, 1)
    optimizer.step()
    other = OPTIMIZERS[name](twin := small(), config)
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for each, its in ((model, optimizer), (twin, other)):
        gradients(each, 2)
        its.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def names_decayed(**fields: Any) -> set[str]:
    model = small()
    chosen = decayed(model, OptimConfig(lr=1, **fields))
    return {name for name, p in model.named_parameters() if p in chosen}


def test_norms_do_not_decay_and_embeddings_by_choice() -> None:
    assert names_decayed(decay_all=True) == {name for name, _ in small().named_parameters()}
    matrices = names_decayed()
    assert {"embedding.weight", "head.weight"} <= matrices
    assert not any("norm" in name for name in matrices)
    hidden = names_decayed(decay_embeddings=False)
    assert hidden == matrices - {"embedding.weight", "head.weight"}


def test_muon_takes_matrices_between_hidden_spaces_alone() -> None:
    model = small()
    chosen = {name for name, p in model.named_parameters() if p in hidden_matrices(model)}
    assert len(chosen) == 2 * (4 + 3)
    assert all(name.startswith("decoder.blocks.") for name in chosen)


def test_clipping_scales_all_gradients_to_the_limit_and_leaves_the_norm() -> None:
    model = small()
    gradients(model, 1)
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    optimizer = OPTIMIZERS["muon"](model, OptimConfig(name="muon", lr=0.01))
    Clipping(model, 0.01)(optimizer, (), {})
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert optimizer._global_grad_norm == pytest.approx(before.norm().item(), rel=1e-5)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(after, before * (0.01 / before.norm()), rtol=1e-3)

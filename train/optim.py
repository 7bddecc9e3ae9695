"""Optimizers, and which of a model's parameters they treat how.

Each is built over the whole model; DeepSpeed shards what may be sharded (choices.ZERO_STAGES).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.initial import is_hidden, rate_multipliers
from train.choices import OptimConfig, OptimizerName
from train.lion import Lion

Group = dict[str, Any]


def tables(model: nn.Module) -> set[Tensor]:
    """Tables of the vocabulary and of positions, and the output projection.

    They map to or from one number per row, not between hidden spaces.
    """
    return {p for name, p in model.named_parameters() if p.dim() >= 2 and not is_hidden(name)}


def decayed(model: nn.Module, config: OptimConfig) -> set[Tensor]:
    """Parameters that decay: matrices; not embeddings, or norms and biases too, by choice."""
    if config.decay_all:
        return set(model.parameters())
    spared = set() if config.decay_embeddings else tables(model)
    return {p for p in model.parameters() if p.dim() >= 2 and p not in spared}


def parameter_groups(
    model: nn.Module, config: OptimConfig, only: Callable[[Tensor], bool] = lambda _: True
) -> list[Group]:
    """The parameters that decay, then those that do not; those of another rate apart.

    `lr_scale` of a group multiplies the rate (train.engine.set_lr). Tied tables stand once.
    """
    decay, multipliers = decayed(model, config), rate_multipliers(model)
    found: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if only(parameter):
            kind = (parameter not in decay, multipliers.get(name, 1.0))
            found.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if spared else config.weight_decay,
            "lr": config.lr * scale,
            "lr_scale": scale,
        }
        for (spared, scale), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Decoupled weight decay. Source: Loshchilov & Hutter 2019, arXiv:1711.05101, alg. 2."""
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def adafactor(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Second moments of matrices by row and column means; updates of an RMS of at most 1.

    beta2 of step k is 1 - k^-0.8; no momentum; the rate is relative to the RMS of a parameter.
    torch takes the paper's cap on the rate with it, 1 / sqrt(k): a schedule above that is refused
    (train.legal). Decay is by the plain rate. Source: Shazeer & Stern 2018, arXiv:1804.04235, alg.
    4 and sec. 7.2, 8.
    """
    groups = parameter_groups(model, config)
    return torch.optim.Adafactor(groups, lr=config.lr, beta2_decay=-0.8, d=1.0)


def lion(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The sign of a momentum. Source: Chen et al. 2023, arXiv:2302.06675, alg. 2."""
    betas = (config.beta1, config.beta2)
    return Lion(parameter_groups(model, config), lr=config.lr, betas=betas)


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """What Muon is for: matrices between hidden spaces, so no router either."""
    outside = tables(model)
    return {
        p
        for name, p in model.named_parameters()
        if p.dim() == 2 and p not in outside and not name.endswith("router.weight")
    }


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for hidden matrices and torch's AdamW for the rest, as one optimizer.

    The groups and the state are this one's alone, so that checkpoints and DeepSpeed see one.
    """

    def __init__(self, matrices: list[Group], rest: list[Group], config: OptimConfig) -> None:
        self._muon = torch.optim.Muon(
            matrices,
            lr=config.lr,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        betas = (config.beta1, config.beta2)
        self._adamw = torch.optim.AdamW(rest, lr=config.lr, betas=betas, eps=config.eps, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both."""
        for inner, ours in ((self._muon, True), (self._adamw, False)):
            inner.param_groups = [g for g in self.param_groups if ("ns_steps" in g) == ours]
            inner.state = self.state
            inner.step()


def muon(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Momentum of hidden matrices, orthogonalised by five Newton-Schulz steps; AdamW for the rest.

    Both follow one rate: the update of an A x B matrix is scaled by 0.2 sqrt(max(A, B)), which
    gives it the RMS of AdamW's. DeepSpeed's own Muon is not used: under ZeRO 1 and 2 its update
    stands in the gradient's place before clipping, so it trains otherwise than on whole matrices.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025,
    arXiv:2502.16982, eq. 4.
    """
    hidden = hidden_matrices(model)
    matrices = parameter_groups(model, config, lambda p: p in hidden)
    rest = parameter_groups(model, config, lambda p: p not in hidden)
    return MuonWithAdamW(matrices, rest, config)


OPTIMIZERS: dict[OptimizerName, Callable[[nn.Module, OptimConfig], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adafactor": adafactor,
    "muon": muon,
    "lion": lion,
}


class Clipping:
    """Clips whole gradients before a step, and leaves their norm where DeepSpeed looks for it.

    For ZeRO stage 0 alone, where DeepSpeed in fp32 clips but reports no norm. The gradients are
    averaged over ranks by then, so every rank computes the same.
    """

    def __init__(self, model: nn.Module, limit: float) -> None:
        self.parameters, self.limit = list(model.parameters()), limit

    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.limit, foreach=True)
        optimizer._global_grad_norm = float(norm)


class ValueClipping:
    """Bounds every number of the gradients that a step uses, after their norm was clipped.

    What ZeRO gives the optimizer are parts of the averaged gradients; a bound on numbers does not
    notice.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            if group["params"]:  # under ZeRO 3 all but one are empty
                torch.nn.utils.clip_grad_value_(group["params"], self.limit)


def build_optimizer(
    model: nn.Module, config: OptimConfig, zero_stage: int
) -> torch.optim.Optimizer:
    """The optimizer of a run, to be given to DeepSpeed."""
    optimizer = OPTIMIZERS[config.name](model, config)
    if zero_stage == 0:
        optimizer.register_step_pre_hook(Clipping(model, config.gradient_clipping))
    if config.value_clipping is not None:
        optimizer.register_step_pre_hook(ValueClipping(config.value_clipping))
    return optimizer

"""Objectives: what the loop minimises, over token windows, answers, or preference pairs.

Shapes: B batch, T time, P pairs; n rows, W = T + 1 ids of a window.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from model.config import ModelConfig
from model.moe import router_losses
from train.choices import ObjectiveConfig, ObjectiveKind
from train.config import StabilityConfig
from train.examples import Draws, Examples, apart, corrupt, documents, in_one_window, split, whole
from train.losses import dpo, max_z_loss, sequence_log_probability, token_nats, z_loss
from train.step import Batch

OBJECTIVES: dict[ObjectiveKind, Callable[[np.ndarray, Draws, ObjectiveConfig], Examples]] = {
    "causal": whole,
    "prefix": split,
    "span": corrupt,
    "ul2": corrupt,
}
Loss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]
# What a model is told beside the tokens, where a batch has it.
CONDITIONS = ("prefix", "documents", "source", "present")


def examples(
    ids: np.ndarray, samples: np.ndarray, seed: int, objective: ObjectiveConfig, model: ModelConfig
) -> dict[str, np.ndarray]:
    """Windows (n, W) as a batch for a model; a row's draws follow from the seed and its sample.

    Whatever is not the target (all but the first token of causal text) is masked out of the loss.
    """
    if objective.kind == "causal":
        return windows(ids, model)
    found = OBJECTIVES[objective.kind](ids, Draws(seed, samples), objective)
    if model.architecture == "encoder_decoder":
        return apart(found)
    columns = in_one_window(found)
    if model.architecture == "decoder":
        del columns["prefix"]  # such a model sees what comes before, and nothing else
    return columns


def windows(ids: np.ndarray, model: ModelConfig) -> dict[str, np.ndarray]:
    """Windows (n, W) as they are, with their documents for a model that keeps these apart."""
    return {"ids": ids, "documents": documents(ids)} if model.document_mask else {"ids": ids}


def shifted(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets of next-token prediction: (B, T + 1) -> (B, T), (B, T)."""
    return ids[:, :-1], ids[:, 1:]


def logits_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and targets (B, T) of every token but the first of each window."""
    inputs, targets = shifted(batch["ids"])
    conditions = {name: batch[name] for name in CONDITIONS if name in batch}
    return model(inputs, **conditions), targets


def token_nats_of(model: nn.Module, batch: Batch) -> Tensor:
    """Nats of every token but the first of each window: (B, T)."""
    return token_nats(*logits_of(model, batch))


def _summed(values: Tensor, batch: Batch) -> Tensor:
    """The sum over tokens, or over those under the mask where there is one."""
    return (values * batch["mask"][:, 1:] if "mask" in batch else values).sum()


def window_nats(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Nats of every token but the first of each window, or of those under the mask; summed."""
    return _summed(token_nats_of(model, batch), batch), {}


def restrained(stability: StabilityConfig) -> Loss:
    """`window_nats` with the terms that hold logits down, where they have weights.

    What is logged as `loss` holds them; `nats` is the loss without.
    """
    weights = {z_loss: stability.z_loss, max_z_loss: stability.max_z_loss}
    used = {term: weight for term, weight in weights.items() if weight}
    if not used:
        return window_nats

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        logits, targets = logits_of(model, batch)
        nats = _summed(token_nats(logits, targets), batch)
        terms = {term.__name__: _summed(term(logits), batch) for term in used}
        added = sum(weight * terms[term.__name__] for term, weight in used.items())
        return nats + added, {"nats": nats.item()} | {n: v.item() for n, v in terms.items()}

    return loss


def routed(loss: Loss, model: ModelConfig) -> Loss:
    """A loss with the terms that keep a model's experts in even use, where it has some.

    They are means over tokens, so they count once for every token of the loss. What is logged as
    `loss` holds them; `nats` is the loss without.
    """
    if (moe := model.moe) is None:
        return loss
    weights = {"balance": moe.balance_weight, "router_z": moe.router_z_weight}

    def both(module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        nats, extra = loss(module, batch)
        found = router_losses(module)
        count = answer_tokens(batch) if "mask" in batch else batch["ids"][:, 1:].numel()
        added = sum(weight * found[name] for name, weight in weights.items())
        logged = {name: count * value.item() for name, value in found.items()}
        return nats + count * added, {"nats": nats.item()} | extra | logged

    return both


def answer_nats(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Nats of the tokens under the mask (B, T + 1), summed: only answers are learned."""
    inputs, targets = shifted(batch["ids"])
    return (token_nats(model(inputs), targets) * batch["mask"][:, 1:]).sum(), {}


def answer_tokens(batch: Batch) -> float:
    return float(batch["mask"][:, 1:].sum().item())


def pair_log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of the answers (P, 2): chosen, rejected, from rows 2p and 2p + 1."""
    inputs, targets = shifted(batch["ids"])
    rows = sequence_log_probability(model(inputs), targets, batch["mask"][:, 1:])
    return rows.view(-1, 2)


def preference(
    model: nn.Module, batch: Batch, beta: float, nll_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """DPO over pairs with stored `reference` (2P,), plus a share of the chosen's nats; summed.

    The second term keeps the chosen answer likely, not only likelier than the rejected.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; Dubey et al. 2024, arXiv:2407.21783,
    sec. 4.1.4 (the term).
    """
    policy = pair_log_probabilities(model, batch)
    losses, margin = dpo(policy, batch["reference"].view(-1, 2), beta)
    nats = -policy[:, 0] / batch["mask"][::2, 1:].sum(dim=-1)
    extra = {
        "preference_accuracy": (margin > 0).float().sum().item(),
        "preference_margin": margin.sum().item(),
    }
    return (losses + nll_weight * nats).sum(), extra

"""Gradient noise scale: the batch below which more data a step buys nearly as much as more steps.

Source: McCandlish et al. 2018, arXiv:1812.06162, eq. 2.8 and app. A.1.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from train.config import RunSpec
from train.parallel import Ranks, total

if TYPE_CHECKING:
    from train.step import Batch, Objective

# Both terms are noisy, and the mean of their ratios is not the ratio of their means: this many
# measurements are averaged before they are divided. Ours.
AVERAGED = 20
TRACE, SQUARE = "noise_trace", "noise_gradient_square"


@dataclass(frozen=True)
class Terms:
    """tr(Sigma) of the gradient of one token, and |G|^2 of the true gradient, both unbiased."""

    trace: float
    square: float


def terms(small: float, small_tokens: float, big: float, big_tokens: float) -> Terms:
    """From the squared norms of the gradients of a small batch and of a big one.

    Source: McCandlish et al. 2018, arXiv:1812.06162, eq. A.2.
    """
    square = (big_tokens * big - small_tokens * small) / (big_tokens - small_tokens)
    return Terms((small - big) / (1 / small_tokens - 1 / big_tokens), square)


def ratio(found: Iterable[Terms]) -> float | None:
    """The noise scale in tokens; None where noise still hides the gradient."""
    traces, squares = zip(*((each.trace, each.square) for each in found), strict=True)
    return sum(traces) / sum(squares) if sum(squares) > 0 and sum(traces) > 0 else None


def gradient_square(module: nn.Module, objective: "Objective", batch: "Batch") -> float:
    """Squared norm of the gradient of a batch's mean loss; the module's own gradients stay."""
    loss, _ = objective.loss(module, batch)
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return sum(float(g.square().sum()) for g in gradients if g is not None)


class Small(NamedTuple):
    """Squared gradient norm of a small batch, the mean over ranks; its tokens, and the whole's."""

    square: float
    tokens: float
    whole: float


class NoiseScale:
    """Measures every few steps: a part of each rank's batch against the whole of all.

    A measurement costs one forward and backward of at most a micro-batch.
    """

    def __init__(self, spec: RunSpec, ranks: Ranks) -> None:
        self.every, self.ranks = spec.evals.noise_scale_every, ranks
        self.micro_batch_size = spec.batch.micro_batch_size
        self.seen: deque[Terms] = deque(maxlen=AVERAGED)

    def due(self, step: int) -> bool:
        """Whether a step (from 1) is measured."""
        return self.every > 0 and step % self.every == 0

    def resume(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in what earlier attempts logged."""
        self.seen.extend(Terms(line[TRACE], line[SQUARE]) for line in lines if TRACE in line)

    def small(self, module: nn.Module, objective: "Objective", batch: "Batch") -> Small:
        """The small batch of a step that is yet to be taken; at most half of the whole."""
        rows, world = len(next(iter(batch.values()))), self.ranks.world_size
        size = min(self.micro_batch_size, max(1, rows * world // 2), rows)
        part = {name: tensor[:size] for name, tensor in batch.items()}
        tokens = objective.weight(part) / world
        square = gradient_square(module, objective, part) / tokens**2
        return Small(total([square], self.ranks)[0] / world, tokens, objective.weight(batch))

    def big(self, small: Small, norm: float) -> dict[str, float]:
        """What to log once the gradient norm of the whole batch is known."""
        found = terms(small.square, small.tokens, norm**2, small.whole)
        self.seen.append(found)
        scale = ratio(self.seen)
        logged = {TRACE: found.trace, SQUARE: found.square}
        return logged if scale is None else logged | {"noise_scale": scale}

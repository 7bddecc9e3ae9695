"""Norms of every layer's gradient, update and output, and its largest attention logit.

Logged at chosen steps as QUANTITY/LAYER, such as `gradient_norm/block.3`. They tell of a run that
gets unstable before its loss does: attention logits and outputs grow, gradients sink into the
optimizer's eps. Source: Dehghani et al. 2023, arXiv:2302.05442, sec. 2.1 (attention logits);
Wortsman et al. 2023, arXiv:2309.14322, sec. 3.1 and 3.4 (logits, gradients); an update by the size
of its weights: You et al. 2017, arXiv:1708.03888, sec. 4.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from train.config import RunSpec
from train.parallel import Ranks
from train.probes import Probes, layer_of, square
from train.shards import gradient_shard, weight_shard

# L2 over a layer: of the gradient of the global batch's mean loss before clipping (squared they add
# up to grad_norm squared), of the weights before the step, and of what it changed; that over those.
GRADIENT, WEIGHT, UPDATE, RATIO = "gradient_norm", "weight_norm", "update_norm", "update_ratio"
# The root of the mean square of all outputs over the global batch, padding included; and the
# largest score that enters a softmax, signed, over all heads and all keys that are seen.
OUTPUT, LOGIT = "activation_rms", "attention_logit_max"

Sums = dict[str, Tensor]
Parts = Sequence[Tensor | None]


class LayerNorms:
    """Measures every few steps; the others cost nothing.

    A measurement is a pass over outputs, scores, gradients and weights, a copy of the weights that
    this rank updates, and one collective. It draws nothing at random and changes nothing.
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine, spec: RunSpec, ranks: Ranks) -> None:
        self.every, self.engine, self.ranks = spec.evals.layer_norms_every, engine, ranks
        self.module: Any = engine.module
        trained = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in trained]
        self.layers = [layer_of(name) for name, _ in trained]
        self.watching = False
        self.gradients: Sums = {}
        self.before: Parts = ()

    def due(self, step: int) -> bool:
        """Whether a step (from 1) is measured."""
        return self.every > 0 and step % self.every == 0

    @contextmanager
    def of(self, step: int) -> Generator[dict[str, float]]:
        """What to log of the step that is taken meanwhile; filled in afterwards, where it is due.

        Between every backward and its engine's step `before_update` must be called.
        """
        found: dict[str, float] = {}
        probes = Probes(self.module)
        self.watching = self.due(step)
        if not self.watching:
            yield found
            return
        with probes.attached():
            yield found
        self.watching = False
        found |= self._found(probes)

    def before_update(self) -> None:
        """Take the gradients, and the weights that the coming step is to change."""
        if self.watching and self.engine.is_gradient_accumulation_boundary():
            gradients = (gradient_shard(p, self.ranks) for p in self.parameters)
            self.gradients = self._squares(gradients)
            self.before = [None if w is None else w.clone() for w in self._weights()]

    def _weights(self) -> Iterable[Tensor | None]:
        return (weight_shard(parameter, self.ranks) for parameter in self.parameters)

    def _squares(self, parts: Iterable[Tensor | None]) -> Sums:
        """Sums of squares by layer, over parts of each parameter."""
        zero = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        sums = dict.fromkeys(self.layers, zero)
        for layer, part in zip(self.layers, parts, strict=True):
            if part is not None:
                sums[layer] = sums[layer] + square(part)
        return sums

    def _found(self, probes: Probes) -> dict[str, float]:
        before, self.before = self.before, ()
        assert before, "the step that was to be measured was not taken"
        pairs = zip(before, self._weights(), strict=True)
        changes = (None if old is None or new is None else new - old for old, new in pairs)
        squares = {
            GRADIENT: self.gradients,
            WEIGHT: self._squares(before),
            UPDATE: self._squares(changes),
            OUTPUT: probes.mean_squares(self.ranks.world_size),
        }
        return over_ranks(squares, probes.largest, self.ranks)


def over_ranks(squares: dict[str, Sums], largest: Sums, ranks: Ranks) -> dict[str, float]:
    """The norms over all ranks, from sums of squares and the largest logits that each found.

    Every rank must have the same names. One that is no number is left out: JSON has no word for it.
    """
    own = {f"{name}/{layer}": x for name, sums in squares.items() for layer, x in sums.items()}
    table = gathered(torch.stack([*own.values(), *largest.values()]), ranks)
    summed, most = table.sum(dim=0)[: len(own)], table.amax(dim=0)[len(own) :]
    found = dict(zip(own, summed.sqrt().tolist(), strict=True))
    for layer in squares[UPDATE]:
        if weight := found[f"{WEIGHT}/{layer}"]:
            found[f"{RATIO}/{layer}"] = found[f"{UPDATE}/{layer}"] / weight
    found |= zip((f"{LOGIT}/{layer}" for layer in largest), most.tolist(), strict=True)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def gathered(own: Tensor, ranks: Ranks) -> Tensor:
    """The vector (n,) of every rank, in all of them: (ranks, n)."""
    if ranks.world_size == 1:
        return own[None]
    rows = [torch.empty_like(own) for _ in range(ranks.world_size)]
    dist.all_gather(rows, own)
    return torch.stack(rows)

"""What the forwards of a step show, watched by hooks: the RMS of outputs, the largest scores.

Shapes: B batch, T queries, S keys, H heads, K kv heads, E d_head.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import ScaledDotProduct
from model.masks import Mask
from model.transformer import Block

# Scores held at once: 64 MB of fp32.
SCORES = 2**24
# Numbers whose squares are added in fp32.
ROW = 256
NEVER = -math.inf


def layer_of(name: str) -> str:
    """The layer that a parameter or a module of a Transformer belongs to, by its dotted name.

    "decoder.blocks.3.attention.query.weight" is of "block.3", "encoder.norm.weight" of
    "encoder.norm", "embedding.weight" of "embedding".
    """
    parts = name.removeprefix("decoder.").split(".")
    if "blocks" in parts:
        place = parts.index("blocks")
        return ".".join([*parts[:place], "block", parts[place + 1]])
    return ".".join(parts[:-1]) or name


def square(numbers: Tensor) -> Tensor:
    """The sum of squares, as precise as in fp64: torch's own over 1e8 numbers errs by a percent."""
    flat = numbers.flatten()
    whole = len(flat) // ROW * ROW
    rows, rest = flat[:whole].view(-1, ROW), flat[whole:][None]
    norms = [torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32) for x in (rows, rest)]
    return torch.cat(norms).double().square().sum()


class Probes:
    """Sums over the forwards of this rank, while they are attached; nothing is changed by them.

    `squares` and `counts` are of the outputs of the embedding, of each block and of the head;
    `largest` is the largest attention logit of each block.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.squares: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.largest: dict[str, Tensor] = {}

    def mean_squares(self, world_size: int) -> dict[str, Tensor]:
        """This rank's part of the mean of squares over `world_size` ranks of one batch shape."""
        return {layer: x / (self.counts[layer] * world_size) for layer, x in self.squares.items()}

    @contextmanager
    def attached(self) -> Generator[None]:
        """Hooks on the module's layers, for as long as this lasts."""
        handles = []
        for name, module in self.module.named_modules():
            if isinstance(module, Block) or name in ("embedding", "head"):
                handles.append(module.register_forward_hook(partial(self._output, layer_of(name))))
            if isinstance(module, ScaledDotProduct):
                cross = ".cross" if ".cross." in name else ""
                watch = partial(self._scores, layer_of(name) + cross)
                handles.append(module.register_forward_pre_hook(watch))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _output(self, layer: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.squares[layer] = square(output) + self.squares.get(layer, 0.0)
        self.counts[layer] = self.counts.get(layer, 0) + output.numel()

    @torch.no_grad()
    def _scores(self, layer: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        query, key, _, mask = inputs
        found = largest_logit(query, key, mask)
        seen = self.largest.get(layer)
        self.largest[layer] = found if seen is None else torch.maximum(seen, found)


def largest_logit(query: Tensor, key: Tensor, mask: Mask, scores: int = SCORES) -> Tensor:
    """The largest score that a softmax meets: q k / sqrt(E), shifted by position, where seen.

    `query` (B, H, T, E), `key` (B, K, S, E). About `scores` of them are computed at once.
    """
    batch, heads, time, width = query.shape
    groups = key.shape[1]
    rows = max(1, scores // (batch * heads * key.shape[2]))
    query = query * width**-0.5
    found = []
    for start in range(0, time, rows):
        end = min(start + rows, time)
        keys = key[:, :, :end] if mask.causal else key
        part = query[:, :, start:end].unflatten(1, (groups, -1)).flatten(2, 3)  # (B, K, H/K*t, E)
        score = (part @ keys.mT).unflatten(2, (-1, end - start)).flatten(1, 2)  # (B, H, t, S)
        found.append(_seen(score, mask, start, end).amax())
    return torch.stack(found).amax().double()


def _seen(score: Tensor, mask: Mask, start: int, end: int) -> Tensor:
    """Scores (B, H, t, S) of queries `start` to `end` as the softmax has them."""
    if mask.causal:
        ahead = torch.ones_like(score[0, 0], dtype=torch.bool).triu(start + 1)
        return score.masked_fill(ahead, NEVER)
    if mask.table is None:
        return score
    table = mask.table if mask.table.shape[2] == 1 else mask.table[:, :, start:end]
    return score.masked_fill(~table, NEVER) if table.dtype == torch.bool else score + table

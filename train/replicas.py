"""Silent corruption: what all ranks must hold alike is compared bit for bit, and the odd one named.

A checksum is a sum of the bits, read as integers, times odd weights, modulo 2^64: exact whatever
the order of summing, so equal bits give equal sums on every device, and one flipped bit never does.

What is alike depends on ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054). At stage 0 every rank
holds parameters, averaged gradients and the optimizer's state, and each makes the whole update:
what differs once differs for ever, and the next check finds it. At stages 1 and 2 gradients and
state are cut into shards that nobody else has: parameters alone are compared, once as the step used
them and once after they were gathered. Gathering overwrites what differed, so a check there speaks
of its own step; a wrong shard reaches all ranks alike and is seen by none of this: that is what a
replay on other hosts is for (train.replay). At stage 3 there are no replicas.

The ranks must be of one kind of hardware: two kinds may round an update differently.

Source: Dixit et al. 2021, arXiv:2102.11245, and Hochschild et al. 2021, "Cores that don't count",
HotOS, on processors that compute wrongly and say nothing; the check itself is ours.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from train.config import RunSpec
from train.parallel import Ranks
from train.place import node_name
from train.runlog import RunDir

PIECE = 1 << 20  # numbers summed at once: what the sum needs of memory does not grow with a tensor
ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # any odd number: 2^64 over the golden ratio, as a signed one
# Of 64-bit numbers halves are read: twice the top bit of 64 would be nothing.
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
SHOWN = 20  # tensors that an event names

Named = dict[str, Tensor]


class Corrupted(RuntimeError):
    """Replicas differ; `hosts` hold what no majority does, or all where there is no majority."""

    def __init__(self, message: str, hosts: tuple[str, ...]) -> None:
        super().__init__(message)
        self.hosts = hosts


def _weights(count: int, device: torch.device) -> Tensor:
    return torch.arange(1, 2 * count, 2, dtype=torch.int64, device=device) * ODD


def checksum(tensor: Tensor) -> Tensor:
    """A number (int64, on the tensor's device) that any flipped bit changes."""
    bits = tensor.detach().contiguous().view(-1).view(BITS[tensor.element_size()])
    found = torch.zeros((), dtype=torch.int64, device=tensor.device)
    weights = _weights(min(PIECE, bits.numel()), tensor.device)
    for piece in bits.split(PIECE):
        found = found * ODD + (piece.to(torch.int64) * weights[: piece.numel()]).sum()
    return found


def checksums(tensors: Named) -> Tensor:
    """The checksum of each, in order."""
    return torch.stack([checksum(tensor) for tensor in tensors.values()])


def fold(sums: Tensor) -> Tensor:
    """One checksum of several."""
    return (sums * _weights(len(sums), sums.device)).sum()


def odd_ones(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The ranks whose rows differ from those of most others; all ranks where that is a tie.

    Ranks that go wrong each in its own way differ from one another, too: two that agree are right
    where no other two do.
    """
    counts = Counter(tuple(row) for row in rows)
    (most, count), *others = counts.most_common()
    if count == 1 or (others and others[0][1] == count):
        return tuple(range(len(rows))) if others else ()
    return tuple(rank for rank, row in enumerate(rows) if tuple(row) != most)


class Replicas:
    """Compares the ranks of a run every few steps; with one rank, or never, it does nothing."""

    def __init__(
        self, engine: deepspeed.DeepSpeedEngine, spec: RunSpec, run: RunDir, ranks: Ranks
    ) -> None:
        every = spec.stability.replica_check_every
        self.every = every if ranks.world_size > 1 else 0
        self.engine, self.run, self.ranks = engine, run, ranks
        self.whole = spec.parallel.zero_stage == 0
        self._used: tuple[list[str], Tensor] | None = None
        if self.every:
            optimizer: Any = engine.basic_optimizer
            optimizer.register_step_pre_hook(self._before_update)
        elif every:
            run.event("replicas_unchecked", why="one process: no other to compare it with")

    def check(self, step: int, kept: bool = False) -> None:
        """Compare after a step that is due, or whose state is to be kept. Raises Corrupted.

        Whatever is kept was compared just before, so that no later attempt goes on from a state
        that differed already. All ranks raise, or none: it is one collective of a number a rank.
        """
        if not self.every or not (self._used or kept):
            return
        tensors = self._held("after the update")
        names, sums = list(tensors), checksums(tensors)
        if self._used:
            names, sums = [*self._used[0], *names], torch.cat([self._used[1], sums])
            self._used = None
        if len(set(self._gather(fold(sums)[None]))) > 1:
            self._accuse(step, names, self._gather(sums))

    def _before_update(self, *_: object) -> None:
        """What the step computed with, before the update changes it; DeepSpeed updates by group."""
        if self._used is None and (self.engine.global_steps + 1) % self.every == 0:
            tensors = self._held("in the step")
            if self.whole:
                tensors |= {
                    f"gradient of {name}": parameter.grad
                    for name, parameter in self._parameters()
                    if parameter.grad is not None
                }
            self._used = (list(tensors), checksums(tensors))

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        module: Any = self.engine.module
        yield from module.named_parameters()

    def _held(self, when: str) -> Named:
        found: Named = {f"{name} {when}": parameter for name, parameter in self._parameters()}
        optimizer: Any = self.engine.basic_optimizer
        for name, parameter in self._parameters() if self.whole else ():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{key} of {name} {when}"] = value.to(parameter.device)
        return found

    def _gather(self, sums: Tensor) -> list[tuple[int, ...]]:
        """The sums of every rank."""
        found = [torch.empty_like(sums) for _ in range(self.ranks.world_size)]
        dist.all_gather(found, sums)
        return [tuple(each.tolist()) for each in found]

    def _accuse(self, step: int, names: list[str], rows: list[tuple[int, ...]]) -> None:
        places: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(places, node_name())
        odd = odd_ones(rows)
        tensors = [
            n for n, c in zip(names, zip(*rows, strict=True), strict=True) if len(set(c)) > 1
        ]
        hosts = tuple(dict.fromkeys(places[rank] for rank in odd))
        if self.ranks.first:
            said = {"tensors": tensors[:SHOWN], "differing": len(tensors)}
            self.run.event("corrupted", step=step, ranks=odd, hosts=hosts, **said)
        raise Corrupted(_words(step, odd, places, tensors), hosts)


def _words(step: int, odd: Sequence[int], places: Sequence[str], tensors: Sequence[str]) -> str:
    named = ", ".join(f"rank {rank} ({places[rank]})" for rank in odd)
    what = f"in {len(tensors)} tensors, such as {tensors[0]}"
    if len(odd) == len(places):
        return (
            f"step {step}: replicas differ {what}, and no majority says which is wrong: {named}; "
            "`sweeper bisect-nodes` replays a step on parts of the hosts"
        )
    return f"step {step}: {named} differs from the other {len(places) - len(odd)} ranks {what}"

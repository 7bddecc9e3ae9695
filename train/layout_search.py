"""The layouts in which a model can be trained on so many GPUs, the fastest that fit first.

Every combination of the choices below is looked at; what is legal and fits is timed. No torch here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from model.config import ModelConfig
from train.activations import OURS, Kernels
from train.choices import ZERO_STAGES, OptimizerName
from train.hardware import GIB, Hardware
from train.layout import Case, ContextKind, Layout, total_layers
from train.layout_legal import divisors, problems
from train.memory import peak_bytes
from train.setting import EFFICIENCY, Efficiency, Setting
from train.step_time import StepTime, step_time


@dataclass(frozen=True)
class Wish:
    """What is to be trained, on what: `sequences` are the global batch.

    `memory_share` of a GPU's memory may be planned for: the rest is the libraries' and what
    fragments (ours, assumed). With `engine` only layouts that our engine trains rightly.
    """

    model: ModelConfig
    gpus: int
    sequences: int
    hardware: Hardware
    optimizer: OptimizerName = "adamw"
    number_bytes: int = 2
    gradient_bytes: int = 4
    engine: bool = True
    kernels: Kernels = OURS
    efficiency: Efficiency = EFFICIENCY
    memory_share: float = 0.9


@dataclass(frozen=True)
class Ranked:
    """A layout, how long a step takes in it, and what its fullest rank holds."""

    layout: Layout
    time: StepTime
    peak_bytes: int


def ranked(wish: Wish) -> list[Ranked]:
    """Legal layouts that fit, by their step time.

    Of those that are equal in three digits first the one of the fewest micro-batches (what kernels
    lose on small ones is not in our model), then the least split, then the smallest. Raises
    ValueError where there is none.
    """
    limit = int(wish.memory_share * wish.hardware.memory_bytes)
    smallest, found = None, []
    for layout in legal_layouts(wish):
        held = peak_bytes(wish.model, layout, wish.optimizer, wish.kernels).total
        smallest = held if smallest is None else min(smallest, held)
        if held <= limit:
            setting = Setting(wish.model, layout, wish.hardware, wish.kernels, wish.efficiency)
            found.append(Ranked(layout, step_time(setting), held))
    if smallest is None:
        raise ValueError(
            f"gpus={wish.gpus} with a batch of {wish.sequences} sequences: no layout is legal; "
            "use a number of GPUs whose factors divide the batch, the layers or the heads"
        )
    if not found:
        raise ValueError(
            f"gpus={wish.gpus} of {wish.hardware.memory_bytes / GIB:.0f} GiB: the smallest layout "
            f"holds {smallest / GIB:.1f} GiB a rank, and {wish.memory_share:.0%} of the memory may "
            "be planned for; use more GPUs, or a smaller model"
        )
    return sorted(found, key=_order)


def _order(one: Ranked) -> tuple[float, ...]:
    layout = one.layout
    split = layout.tp * layout.pp * layout.cp * layout.ep
    return float(f"{one.time.total:.3g}"), layout.microbatches, split, one.peak_bytes


def legal_layouts(wish: Wish) -> Iterator[Layout]:
    """Every legal layout of all GPUs whose batch comes out whole."""
    for degrees in _degrees(wish):
        if _legal(wish, degrees):
            for layout in _schedules(wish, degrees):
                if _legal(wish, layout):
                    yield layout


def _legal(wish: Wish, layout: Layout) -> bool:
    return not problems(Case(wish.model, layout, wish.gpus, wish.optimizer), engine=wish.engine)


def _degrees(wish: Wish) -> Iterator[Layout]:
    """Degrees whose product are all GPUs; tensor parallelism stays in a node."""
    experts = divisors(wish.model.moe.n_experts) if wish.model.moe else (1,)
    for tp, pp, cp in product(divisors(wish.gpus), repeat=3):
        split = tp * pp * cp
        if wish.gpus % split or tp > wish.hardware.gpus_per_node or pp > total_layers(wish.model):
            continue
        dp = wish.gpus // split
        if wish.sequences % dp:
            continue
        kinds = get_args(ContextKind) if cp > 1 else ("ring",)
        for ep, kind in product(experts, kinds):
            yield Layout(
                dp=dp, tp=tp, pp=pp, cp=cp, ep=ep, zero_stage=ZERO_STAGES[wish.optimizer][0],
                context_kind=kind, sequence_parallel=tp > 1,
                number_bytes=wish.number_bytes, gradient_bytes=wish.gradient_bytes,
            )  # fmt: skip


def _schedules(wish: Wish, layout: Layout) -> Iterator[Layout]:
    """Of the same degrees every ZeRO stage, recomputation, micro-batch and number of chunks."""
    each = wish.sequences // layout.dp
    again = ("none", "selective", "full") if wish.kernels.keeps_scores else ("none", "full")
    chunks = range(1, total_layers(wish.model) // layout.pp + 1)
    if wish.engine or layout.pp == 1:
        chunks = (1,)
    stages = ZERO_STAGES[wish.optimizer]
    for stage, recompute, size, pieces in product(stages, again, divisors(each), chunks):
        yield replace(
            layout, zero_stage=stage, recompute=recompute, micro_batch_size=size,
            microbatches=each // size, chunks=pieces,
        )  # fmt: skip

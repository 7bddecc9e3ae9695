"""Seconds of one training step in any layout on any cluster, part by part. No torch here.

Ranks are numbered with tensor parallelism innermost, then context, data, pipeline. A part that does
not overlap with computing is added to it; what overlaps counts where it takes longer.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from model.config import ModelConfig
from model.counts import flops_per_token, params_matrices
from train.activations import OURS, Kernels, layer_bytes, logit_bytes, score_bytes
from train.hardware import (
    Group,
    Hardware,
    exchange_seconds,
    gather_seconds,
    send_seconds,
)
from train.layout import ContextKind, Layout, Recompute, layers_on, tokens_of_rank, total_layers
from train.memory import keys_and_values, params_of_rank


@dataclass(frozen=True)
class Efficiency:
    """Shares of a peak that real kernels and links reach: the only numbers that no source states.

    Ours: round numbers, set by hand from the smallest and the largest row of Narayanan et al. 2021,
    arXiv:2104.04473, table 1, before the other rows of tests/train/published_runs.py were
    predicted, and not changed since: all 34 come out within 20 %. Least squares on the two rows
    give 0.67 and 0.87 for matrix products and memory. `overlap` is the share of a backward pass
    that hides data-parallel messages; it and `links` matter to ZeRO 3 alone (elsewhere a tenth
    moves no row by more than 3 %).
    """

    matmul: float = 0.65
    memory: float = 0.8
    links: float = 0.8
    overlap: float = 0.5


EFFICIENCY = Efficiency()


@dataclass(frozen=True)
class Setting:
    """What a step is timed for."""

    model: ModelConfig
    layout: Layout
    hardware: Hardware
    kernels: Kernels = OURS
    efficiency: Efficiency = EFFICIENCY

    @property
    def tensor(self) -> Group:
        return Group(self.layout.tp, 1)

    @property
    def context(self) -> Group:
        return Group(self.layout.cp, self.layout.tp)

    @property
    def data(self) -> Group:
        """Ranks of the same weights, context-parallel ones among them."""
        return Group(self.layout.data_ranks, self.layout.tp)

    @property
    def experts(self) -> Group:
        return Group(self.layout.ep, self.layout.tp * self.layout.cp)

    @property
    def pipeline(self) -> Group:
        return Group(self.layout.pp, self.layout.tp * self.layout.data_ranks)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on the busiest rank, what overlaps taken off.

    Matrix products and attention; what is bound by memory; messages of each kind of parallelism;
    the pipeline's idle time; the optimizer's own step.
    """

    matmul: float
    memory: float
    tensor: float
    context: float
    experts: float
    pipeline: float
    bubble: float
    data: float
    optimizer: float

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))


# Forward passes of a layer that its backward pass repeats: of its scores, of the rest of it.
AGAIN: dict[Recompute, tuple[int, int]] = {"none": (0, 0), "selective": (1, 0), "full": (1, 1)}


def step_time(setting: Setting) -> StepTime:
    """A step: micro-batches through the slowest stage, the pipeline's fill, then the optimizer.

    Source: Narayanan et al. 2021, arXiv:2104.04473, sec. 2.2 (with v chunks the bubble is
    (p - 1) / (v m) of the work).
    """
    layout = setting.layout
    layers = float(max(layers_on(setting.model, layout, stage) for stage in range(layout.pp)))
    last = float(layers_on(setting.model, layout, layout.pp - 1))
    stages = [_micro_batch(setting, layers, head=False), _micro_batch(setting, last, head=True)]
    slowest = max(stages, key=sum)
    matmul, memory, tensor, context, experts, pipeline = slowest
    count = layout.microbatches
    return StepTime(
        matmul=count * matmul,
        memory=count * memory,
        tensor=count * tensor,
        context=count * context,
        experts=count * experts,
        pipeline=count * pipeline,
        bubble=(layout.pp - 1) / layout.chunks * sum(slowest),
        data=_data(setting, 2 / 3 * (matmul + memory)),
        optimizer=_optimizer(setting),
    )


def _micro_batch(setting: Setting, layers: float, *, head: bool) -> tuple[float, ...]:
    """Seconds of a micro-batch on a stage, forward and backward, in the order of StepTime."""
    scores_again, rest_again = AGAIN[setting.layout.recompute]
    if not setting.kernels.keeps_scores and not rest_again:
        scores_again = 0  # fused attention computes them anew within its own backward pass
    scores, rest = _scores(setting), _rest(setting)
    matmul = layers * ((3 + scores_again) * scores[0] + (3 + rest_again) * rest[0])
    memory = layers * ((3 + scores_again) * scores[1] + (3 + rest_again) * rest[1])
    if head:
        matmul, memory = matmul + 3 * _head(setting)[0], memory + _head(setting)[1]
    exchange = EXCHANGES[setting.layout.context_kind](setting)
    # All of it overlaps with attention; what takes longer than that shows.
    context = max(0.0, exchange - scores[0]) if setting.layout.context_kind == "ring" else exchange
    passes = 2 + rest_again
    return (
        matmul,
        memory,
        layers * passes * _tensor(setting),
        layers * (3 + rest_again) * context,
        layers * passes * _experts(setting),
        _between_stages(setting),
    )


def _scores(setting: Setting) -> tuple[float, float]:
    """Of a layer's attention of all to all, forward: seconds of its products, of its memory.

    A fused kernel reaches its own share of the peak, and half of the scores need no computing.
    """
    model, layout, kernels, hardware = (
        setting.model, setting.layout, setting.kernels, setting.hardware
    )  # fmt: skip
    tokens = tokens_of_rank(model, layout)
    matrices = params_matrices(model) + model.vocab_size * model.d_model
    flops = (flops_per_token(model) - 6 * matrices) / 3 / total_layers(model) * tokens / layout.tp
    if kernels.skips_masked and model.window is None:
        flops /= 2
    reached = setting.efficiency.matmul if kernels.keeps_scores else hardware.fused_attention
    traffic = 2 * tokens * float(score_bytes(model, layout, kernels))
    return (
        flops / (reached * hardware.peak_flops),
        traffic / (setting.efficiency.memory * hardware.memory_bandwidth),
    )


def _rest(setting: Setting) -> tuple[float, float]:
    """Of the rest of a layer, forward: seconds of its matrix products, of its memory.

    What a layer keeps is what its norms, activations and sums write once and read once.
    """
    model, layout, hardware = setting.model, setting.layout, setting.hardware
    tokens = tokens_of_rank(model, layout)
    flops = 2 * tokens * params_matrices(model) / total_layers(model) / layout.tp
    kept = layer_bytes(model, layout, setting.kernels) - score_bytes(model, layout, setting.kernels)
    return (
        flops / (setting.efficiency.matmul * hardware.peak_flops),
        2 * tokens * float(kept) / (setting.efficiency.memory * hardware.memory_bandwidth),
    )


def _head(setting: Setting) -> tuple[float, float]:
    """Of the output projection: seconds of a forward product, of all reading of its logits."""
    model, layout, hardware = setting.model, setting.layout, setting.hardware
    flops = 2 * tokens_of_rank(model, layout) * model.vocab_size * model.d_model / layout.tp
    traffic = 2 * logit_bytes(model, layout, setting.kernels)
    return (
        flops / (setting.efficiency.matmul * hardware.peak_flops),
        traffic / (setting.efficiency.memory * hardware.memory_bandwidth),
    )


def _tensor(setting: Setting) -> float:
    """Of a layer, one way: an all-reduce after each half, or as much in two pieces around it.

    A parallel block has one for both. Source: Shoeybi et al. 2019, arXiv:1909.08053, sec. 3;
    Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.2.2.
    """
    model, layout = setting.model, setting.layout
    size = tokens_of_rank(model, layout) * model.d_model * layout.number_bytes
    halves = 1 if model.parallel_blocks else 2
    reached = setting.efficiency.links
    return 2 * halves * gather_seconds(setting.hardware, setting.tensor, size, reached)


def _ring(setting: Setting) -> float:
    """Keys and values go around, a neighbour's at a time. Liu et al. 2023, arXiv:2310.01889."""
    return gather_seconds(
        setting.hardware, setting.context, _context_bytes(setting), setting.efficiency.links
    )


def _all_gather(setting: Setting) -> float:
    """As much at once, before attention. Dubey et al. 2024, arXiv:2407.21783, sec. 3.3.2."""
    return _ring(setting)


def _ulysses(setting: Setting) -> float:
    """All-to-alls of queries, keys and values, and of what attention mixes.

    Source: Jacobs et al. 2023, arXiv:2309.14509, sec. 3.
    """
    model, layout = setting.model, setting.layout
    numbers = keys_and_values(model, layout) + 2 * model.n_heads * model.d_head // layout.tp
    size = tokens_of_rank(model, layout) * numbers * layout.number_bytes
    return exchange_seconds(setting.hardware, setting.context, size, setting.efficiency.links)


# Seconds of a layer's messages of context parallelism, one way.
EXCHANGES: dict[ContextKind, Callable[[Setting], float]] = {
    "ring": _ring,
    "all_gather": _all_gather,
    "ulysses": _ulysses,
}


def _context_bytes(setting: Setting) -> float:
    """Keys and values of a whole sequence."""
    model, layout = setting.model, setting.layout
    tokens = layout.cp * tokens_of_rank(model, layout)
    return tokens * keys_and_values(model, layout) * layout.number_bytes


def _experts(setting: Setting) -> float:
    """Of a layer, one way: tokens go to their experts and back.

    Source: Lepikhin et al. 2020, arXiv:2006.16668, sec. 3.
    """
    model, layout = setting.model, setting.layout
    if model.moe is None:
        return 0.0
    copies = tokens_of_rank(model, layout) * model.moe.top_k / layout.tp
    size = copies * model.d_model * layout.number_bytes
    reached = setting.efficiency.links
    return 2 * exchange_seconds(setting.hardware, setting.experts, size, reached)


def _between_stages(setting: Setting) -> float:
    """Each piece of layers sends its outputs on and gradients back; tp ranks send a part each.

    Source: Narayanan et al. 2021, arXiv:2104.04473, sec. 4.1 (scatter/gather).
    """
    model, layout = setting.model, setting.layout
    if layout.pp == 1:
        return 0.0
    size = tokens_of_rank(model, layout) * model.d_model * layout.number_bytes / layout.tp
    one = send_seconds(setting.hardware, setting.pipeline, size, setting.efficiency.links)
    return 2 * layout.chunks * one


def _data(setting: Setting, backward: float) -> float:
    """Of a step: gradients are summed and weights handed out, as far as no backward pass hides it.

    ZeRO 0 and 1 do it after the last micro-batch; 2 hands gradients over after each; 3 gathers the
    weights too, twice, layer by layer. Source: Rajbhandari et al. 2020, arXiv:1910.02054, sec. 7.
    """
    layout, count = setting.layout, setting.layout.microbatches
    pieces = total_layers(setting.model) if layout.zero_stage == 3 else 1
    weights = _gathered(setting, layout.number_bytes, pieces)
    gradients = _gathered(setting, layout.gradient_bytes, pieces)
    seconds = {
        0: 2 * gradients,
        1: gradients + weights,
        2: count * gradients + weights,
        3: count * (gradients + 2 * weights),
    }[layout.zero_stage]
    hidden = backward * (count if layout.zero_stage >= 2 else 1)
    return max(0.0, seconds - setting.efficiency.overlap * hidden)


def _gathered(setting: Setting, size: int, pieces: int) -> float:
    """Seconds to gather, or to reduce and scatter, a number of `size` bytes a parameter."""
    dense, experts = params_of_rank(setting.model, setting.layout)
    reached, data = setting.efficiency.links, setting.data
    fewer = Group(data.size // setting.layout.ep, data.stride * setting.layout.ep)
    return gather_seconds(setting.hardware, data, dense * size, reached, pieces) + (
        gather_seconds(setting.hardware, fewer, experts * size, reached, pieces) if experts else 0.0
    )


# Bytes of a parameter that AdamW reads and writes: weights, master copy, two moments, gradient.
OPTIMIZER_BYTES = 2 * (2 * 4 + 4) + 4 + 4


def _optimizer(setting: Setting) -> float:
    """AdamW over a rank's share; it is bound by memory."""
    layout = setting.layout
    held = sum(params_of_rank(setting.model, layout))
    share = held / layout.data_ranks if layout.zero_stage else held
    bandwidth = setting.efficiency.memory * setting.hardware.memory_bandwidth
    return share * OPTIMIZER_BYTES / bandwidth

"""Seconds of one training step in any layout on any cluster, part by part. No torch here.

A part that does not overlap with computing is added to it; what overlaps counts where it takes
longer.
"""

from dataclasses import dataclass, fields

from model.counts import flops_per_token, params_matrices
from train.activations import layer_bytes, logit_bytes, score_bytes
from train.layout import Recompute, layers_on, tokens_of_rank, total_layers
from train.memory import params_of_rank
from train.messages import (
    context_seconds,
    data_seconds,
    expert_seconds,
    stage_seconds,
    tensor_seconds,
)
from train.setting import Setting


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
        data=data_seconds(setting, 2 / 3 * (matmul + memory)),
        optimizer=_optimizer(setting),
    )


def _micro_batch(setting: Setting, layers: float, *, head: bool) -> tuple[float, ...]:
    """Seconds of a micro-batch on a stage, forward and backward, in the order of StepTime."""
    scores_again, rest_again = AGAIN[setting.layout.recompute]
    if not setting.kernels.keeps_scores and not rest_again:
        scores_again = 0  # fused attention computes them anew within its own backward pass
    scores, rest = _scores(setting), _rest(setting)
    products = max((3 + rest_again) * rest[0], _weight_traffic(setting, 2 + rest_again))
    matmul = layers * ((3 + scores_again) * scores[0] + products)
    memory = layers * ((3 + scores_again) * scores[1] + (3 + rest_again) * rest[1])
    if head:
        matmul, memory = matmul + 3 * _head(setting)[0], memory + _head(setting)[1]
    passes = 2 + rest_again
    return (
        matmul,
        memory,
        layers * passes * tensor_seconds(setting),
        layers * context_seconds(setting, scores[0], rest_again),
        layers * passes * expert_seconds(setting),
        stage_seconds(setting),
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


def _weight_traffic(setting: Setting, reads: int) -> float:
    """Seconds to read a layer's weights so often, and to read and write its gradients once.

    Products of fewer tokens than that takes wait for it: some hundreds, on these GPUs.
    """
    model, layout, hardware = setting.model, setting.layout, setting.hardware
    each = reads * layout.number_bytes + 2 * layout.gradient_bytes
    matrices = params_matrices(model) / total_layers(model) / layout.tp
    return matrices * each / (setting.efficiency.memory * hardware.memory_bandwidth)


def _head(setting: Setting) -> tuple[float, float]:
    """Of the output projection: seconds of a forward product, of all reading of its logits."""
    model, layout, hardware = setting.model, setting.layout, setting.hardware
    flops = 2 * tokens_of_rank(model, layout) * model.vocab_size * model.d_model / layout.tp
    traffic = 2 * logit_bytes(model, layout, setting.kernels)
    return (
        flops / (setting.efficiency.matmul * hardware.peak_flops),
        traffic / (setting.efficiency.memory * hardware.memory_bandwidth),
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

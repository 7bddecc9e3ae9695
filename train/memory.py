"""Bytes that one rank holds at the peak of a step, in any layout. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from model.config import ModelConfig
from model.counts import (
    kv_cache_bytes,
    mlp_matrices,
    params_matrices,
    params_non_embedding,
    params_total,
)
from train.activations import FLOAT_BYTES, OURS, Kernels, activation_bytes, logit_bytes
from train.choices import OptimizerName
from train.layout import ContextKind, Layout, layers_on, tokens_of_rank, total_layers
from train.moments import MOMENTS


@dataclass(frozen=True)
class RankBytes:
    """Bytes of one process at the peak of a step, without the libraries' own.

    `buffers` are what is gathered or received for a while: weights of the layers at work with ZeRO
    3, keys and values of others with context parallelism.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int = 0

    @property
    def total(self) -> int:
        kept = self.weights + self.gradients + self.optimizer
        return kept + self.activations + self.logits + self.buffers


def peak_bytes(
    model: ModelConfig,
    layout: Layout,
    optimizer: OptimizerName = "adamw",
    kernels: Kernels = OURS,
) -> RankBytes:
    """What the fullest pipeline stage holds: the first has most in flight, the last the logits."""
    stages = {0, layout.pp - 1}
    held = (rank_bytes(model, layout, optimizer, kernels, stage) for stage in stages)
    return max(held, key=lambda one: one.total)


def rank_bytes(
    model: ModelConfig,
    layout: Layout,
    optimizer: OptimizerName = "adamw",
    kernels: Kernels = OURS,
    stage: int = 0,
) -> RankBytes:
    """What one process of a pipeline stage holds.

    ZeRO stage 1 shares the optimizer's part (a master copy in fp32 and the moments) among the
    ranks of the same weights, 2 the gradients too, 3 the weights too; stage 0 nothing, and needs no
    master copy of fp32 weights. Source: Rajbhandari et al. 2020, arXiv:1910.02054, sec. 3.1 and 5.
    """
    dense, experts = params_of_rank(model, layout, stage)
    held, zero = dense + experts, layout.zero_stage
    master = held if zero or layout.number_bytes < FLOAT_BYTES else 0
    # Of another optimizer than AdamW the moments of a part are an even share.
    moments = MOMENTS[optimizer](model) * held // params_total(model)
    shared = Fraction(dense + experts * layout.ep, layout.data_ranks * held)

    def share(numbers: int, size: int, *, of_zero: int) -> int:
        return ceil(size * numbers * shared) if zero >= of_zero else size * numbers

    context = tokens_of_rank(model, layout) * CONTEXT_NUMBERS[layout.context_kind](model, layout)
    return RankBytes(
        weights=share(held, layout.number_bytes, of_zero=3),
        gradients=share(held, layout.gradient_bytes, of_zero=2),
        optimizer=share(master + moments, FLOAT_BYTES, of_zero=1),
        activations=activation_bytes(model, layout, kernels, stage),
        logits=logit_bytes(model, layout, kernels) if stage == layout.pp - 1 else 0,
        buffers=_gathered_layers(model, layout) + context * layout.number_bytes,
    )


def params_of_rank(model: ModelConfig, layout: Layout, stage: int = 0) -> tuple[int, int]:
    """Parameters of one rank: those that all data ranks hold, and those of its own experts.

    Tensor parallelism shares matrices and the vocabulary, and leaves norms, biases, routers and
    positions whole. Source: Shoeybi et al. 2019, arXiv:1909.08053, sec. 3.
    """
    part = layers_on(model, layout, stage) / total_layers(model)
    experts, routers = _expert_params(model)
    matrices = params_matrices(model, active=False) - experts - routers
    whole = params_non_embedding(model) - experts - matrices
    ends = _tables(model, layout, stage)
    dense = ceil(part * (Fraction(matrices, layout.tp) + whole) + ends)
    return dense, ceil(part * experts / (layout.tp * layout.ep))


def _expert_params(model: ModelConfig) -> tuple[int, int]:
    """Parameters of the experts that are chosen among, and of the routers that choose."""
    if model.moe is None:
        return 0, 0
    one = mlp_matrices(model) * model.d_model * model.d_expert
    routers = model.d_model * model.moe.n_experts
    return total_layers(model) * model.moe.n_experts * one, total_layers(model) * routers


def _tables(model: ModelConfig, layout: Layout, stage: int) -> Fraction:
    """Input, output and position tables of a stage; tied ones stand on both ends of a pipeline."""
    first, last = stage == 0, stage == layout.pp - 1
    tables = first + last - (first and last and model.tied_embeddings)
    positions = model.seq_len * model.d_model if first and model.position == "learned" else 0
    return Fraction(tables * model.vocab_size * model.d_model, layout.tp) + positions


def _gathered_layers(model: ModelConfig, layout: Layout) -> int:
    """With ZeRO 3 the weights of the layer at work and of the next are whole for a while."""
    if layout.zero_stage < 3 or layout.data_ranks == 1:
        return 0
    layer = Fraction(params_matrices(model, active=False), total_layers(model) * layout.tp)
    return ceil(2 * layout.number_bytes * layer)


def _passed_around(model: ModelConfig, layout: Layout) -> int:
    """Keys and values of a neighbour, and the next ones on their way."""
    return 2 * keys_and_values(model, layout) if layout.cp > 1 else 0


def _collected(model: ModelConfig, layout: Layout) -> int:
    """Keys and values of all ranks of the sequence."""
    return layout.cp * keys_and_values(model, layout) if layout.cp > 1 else 0


def _exchanged(model: ModelConfig, layout: Layout) -> int:
    """Queries, keys and values of all positions for a part of the heads."""
    queries = model.n_heads * model.d_head // layout.tp
    return queries + keys_and_values(model, layout) if layout.cp > 1 else 0


def keys_and_values(model: ModelConfig, layout: Layout) -> int:
    """Numbers of both for a token of one rank."""
    return 2 * model.n_kv_heads * model.d_head // layout.tp


# Numbers a token of a rank that context parallelism holds beside the rank's own.
CONTEXT_NUMBERS: dict[ContextKind, Callable[[ModelConfig, Layout], int]] = {
    "ring": _passed_around,
    "all_gather": _collected,
    "ulysses": _exchanged,
}


def kv_cache_of_rank(model: ModelConfig, layout: Layout, sequences: int, length: int) -> int:
    """Bytes of keys and values while so many sequences a data rank are written, to this length."""
    whole = sequences * kv_cache_bytes(model, length, layout.number_bytes)
    part = layers_on(model, layout, 0) / total_layers(model)
    return ceil(whole * part / (layout.tp * layout.cp))

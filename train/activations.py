"""Bytes that a forward pass keeps for the backward pass, in any layout. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from model.config import GATED, ModelConfig
from train.layout import Layout, Recompute, layers_on, tokens_of_rank, total_layers

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Kernels:
    """What an implementation keeps for the backward pass, and which scores it computes.

    `head_numbers` a channel of a head; the scores of every pair of tokens where `keeps_scores`; the
    logits in fp32 so many times (themselves, log-probabilities, gradient). `skips_masked` computes
    no score that the causal mask hides.
    """

    head_numbers: int
    keeps_scores: bool
    skips_masked: bool
    logit_copies: int


# Our model: queries, keys and values as attended to, what they mix, and what rotation and
# projection keep; attention is torch's fused one.
OURS = Kernels(head_numbers=6, keeps_scores=False, skips_masked=True, logit_copies=3)
# Attention as three operations. Source: Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.1.
UNFUSED = Kernels(head_numbers=4, keeps_scores=True, skips_masked=False, logit_copies=1)


def activation_bytes(
    model: ModelConfig, layout: Layout, kernels: Kernels = OURS, stage: int = 0
) -> int:
    """What all micro-batches in flight on a stage keep below the logits.

    Source: Korthikanti et al. 2022, arXiv:2205.05198, eq. 1-6 and sec. 4.2.3.
    """
    tokens, shared = tokens_of_rank(model, layout), layout.stream_ranks
    flying = layers_in_flight(model, layout, stage)
    kept = flying * KEPT[layout.recompute](model, layout, kernels)
    if layout.recompute == "full":
        kept += layer_bytes(model, layout, kernels)  # the one that is computed anew
    if stage == 0 and model.dropout:
        kept += Fraction(min(layout.pp, layout.microbatches) * model.d_model, shared)
    if stage == layout.pp - 1:
        kept += Fraction(2 * model.d_model * layout.number_bytes, shared)
    return ceil(tokens * kept)


def layers_in_flight(model: ModelConfig, layout: Layout, stage: int) -> Fraction:
    """Layers times micro-batches whose activations a stage keeps at once under 1F1B.

    Source: Narayanan et al. 2021, arXiv:2104.04473, sec. 2.2 (pieces of layers in warm-up).
    """
    layers, after = layers_on(model, layout, stage), layout.pp - 1 - stage
    warm_up = after if layout.chunks == 1 else 2 * after + (layout.chunks - 1) * layout.pp
    pieces = min(warm_up + 1, layout.microbatches * layout.chunks)
    return layers * Fraction(pieces, layout.chunks)


def layer_bytes(model: ModelConfig, layout: Layout, kernels: Kernels) -> Fraction:
    """Bytes a token that one layer keeps with nothing computed anew."""
    return _without_scores(model, layout, kernels) + score_bytes(model, layout, kernels)


def _without_scores(model: ModelConfig, layout: Layout, kernels: Kernels) -> Fraction:
    """A layer keeps the input and the output of each norm, the heads' numbers with a normaliser a
    head where scores are not kept, and what its feed-forward block keeps.
    """
    size, attentions = layout.number_bytes, _attentions(model)
    masks = 2 * model.d_model if model.dropout else 0
    heads = kernels.head_numbers * model.n_heads * model.d_head
    normaliser = 0 if kernels.keeps_scores else model.n_heads
    normed = 2 * (model.n_heads + model.n_kv_heads) * model.d_head if model.qk_norm else 0
    streams = 2 * _norms(model, attentions) * model.d_model * size + masks
    split = attentions * (heads + normaliser + normed) + _feed_forward(model)
    return Fraction(streams, layout.stream_ranks) + Fraction(size * split, layout.tp)


def _norms(model: ModelConfig, attentions: Fraction) -> Fraction:
    if model.shared_norm:
        return Fraction(1)
    return (1 + attentions) * (2 if model.norm_placement == "sandwich" else 1)


def _attentions(model: ModelConfig) -> Fraction:
    """Attentions a layer: those of a decoder that reads an encoder attend to it too."""
    return 1 + Fraction(model.n_layers if model.n_encoder_layers else 0, total_layers(model))


def _feed_forward(model: ModelConfig) -> int:
    """Numbers a token: four of d_ff where gated, else two; with experts, sent and returned too."""
    wide = 4 if model.activation in GATED else 2
    if model.moe is None:
        return wide * model.d_ff
    met = model.moe.top_k + model.moe.n_shared
    return met * wide * model.d_expert + 2 * model.moe.top_k * model.d_model


def score_bytes(model: ModelConfig, layout: Layout, kernels: Kernels) -> Fraction:
    """Bytes a token of attention probabilities; with dropout also of its mask and its output."""
    if not kernels.keeps_scores:
        return Fraction(0)
    size = layout.number_bytes
    each = 2 * size + 1 if model.dropout else size
    return Fraction(each * _attentions(model) * model.n_heads * model.context, layout.tp)


def _input(model: ModelConfig, layout: Layout, kernels: Kernels) -> Fraction:
    return Fraction(model.d_model * layout.number_bytes, layout.stream_ranks)


# Bytes a token that one layer keeps until its backward pass.
KEPT: dict[Recompute, Callable[[ModelConfig, Layout, Kernels], Fraction]] = {
    "none": layer_bytes,
    "selective": _without_scores,
    "full": _input,
}


def activations_per_token(model: ModelConfig) -> int:
    """Numbers that our model keeps of a token on one rank, below the logits."""
    layout = Layout(number_bytes=1)
    return int(total_layers(model) * layer_bytes(model, layout, OURS)) + 2 * model.d_model


def logit_bytes(model: ModelConfig, layout: Layout, kernels: Kernels = OURS) -> int:
    """Logits are fp32 in every precision, and shared by the vocabulary."""
    tokens = tokens_of_rank(model, layout)
    return ceil(Fraction(kernels.logit_copies * FLOAT_BYTES * tokens * model.vocab_size, layout.tp))

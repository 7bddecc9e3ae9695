"""Sizes of a model from one dial: any target has a shape near it, and a larger one no smaller."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pydantic import Field

from model.config import ModelConfig, Traits
from model.counts import flops_per_token, mlp_matrices, params_active
from train.config import Frozen

# How far from its target a size may be unnoticed.
NEAR = 0.02
# Widths and depths above the smallest that are looked through: beyond every model.
WIDEST, DEEPEST = 1 << 20, 1 << 12

Measure = Callable[[ModelConfig], float]


class ShapeRule(Frozen):
    """Sizes from one dial: the width; heads follow by `d_head`, depth by `aspect`.

    `aspect` is d_model / n_layers, with `min_layers` at least. All sizes have `n_kv_heads` (Llama 3
    has 8 at every size: Dubey et al. 2024, arXiv:2407.21783, table 3). Widths are multiples of
    d_head x n_kv_heads, and below eight times that of its half, its quarter and so on; there the
    heads together may be a little wider or narrower than the model. `ff_ratio` is d_ff / d_model of
    a feed-forward block of three matrices; one of two gets 3/2 of it, and the same parameters.
    Between two widths d_ff goes up from the one and down from the other, from a third to thrice the
    ratio, in steps of `ff_multiple`, halved where one such step is more than 2 % of the model.
    Source: Shazeer 2020, arXiv:2002.05202, sec. 3 (d_ff by 2/3 for gated units).
    """

    aspect: float = Field(default=32.0, gt=0)
    min_layers: int = Field(default=1, gt=0)
    d_head: int = Field(default=16, gt=0)
    n_kv_heads: int = Field(default=1, gt=0)
    ff_ratio: float = Field(default=8 / 3, gt=0)
    ff_multiple: int = Field(default=8, gt=0)


class Family(NamedTuple):
    """What decides the shapes of a recipe, and nothing else of it: many runs share their search."""

    seq_len: int
    vocab_size: int
    model: Traits
    rule: ShapeRule


def width_at(rule: ShapeRule, width: int) -> int:
    """The widest legal width that is no wider; half a head is the least."""
    width = max(width, rule.d_head // 2)
    step = rule.d_head * rule.n_kv_heads
    while step % 4 == 0 and 8 * step > width:
        step //= 2
    return max(step, width - width % step)


def ruled_d_ff(kin: Family, d_model: int) -> int:
    """What the ratio asks for, in whole multiples."""
    ratio = kin.rule.ff_ratio * 3 / mlp_matrices(kin.model)
    blocks = round(ratio * d_model / kin.rule.ff_multiple)
    return max(1, blocks) * kin.rule.ff_multiple


def ruled(kin: Family, d_model: int, n_layers: int) -> ModelConfig:
    """The model of a width and a depth, its other sizes by the shape rule."""
    return _model(kin, d_model, n_layers, ruled_d_ff(kin, d_model))


@lru_cache(maxsize=4096)
def _model(kin: Family, d_model: int, n_layers: int, d_ff: int) -> ModelConfig:
    rule = kin.rule
    groups = max(1, round(d_model / (rule.d_head * rule.n_kv_heads)))
    return ModelConfig(
        vocab_size=kin.vocab_size,
        seq_len=kin.seq_len,
        n_layers=n_layers,
        n_encoder_layers=n_layers if kin.model.architecture == "encoder_decoder" else 0,
        d_model=d_model,
        n_heads=groups * rule.n_kv_heads,
        n_kv_heads=rule.n_kv_heads,
        d_head=rule.d_head,
        d_ff=d_ff,
        **kin.model.model_dump(),
    )


def nearest(kin: Family, measure: Measure, target: float) -> ModelConfig:
    """The shape of the ladder whose measure is nearest the target, in logs.

    The ladder is a fixed row of shapes: one depth after the other; of each the widths; between two
    widths other d_ff than the ruled, up to the middle of the narrower, beyond it of the wider. So a
    larger target never has a smaller model. Where the depth grows, the width falls: the ratio of
    both goes from above the rule's to below it.
    """
    n_layers, low, high = _depth(kin, measure, target)
    narrow, wide = _around(kin, measure, n_layers, target)
    middle = math.sqrt(measure(narrow) * measure(wide))
    candidates = [
        *_by_d_ff(kin, measure, narrow, target, low, min(middle, high)),
        *_by_d_ff(kin, measure, wide, target, max(middle, low), high),
    ]
    return min(
        candidates or [narrow, wide], key=lambda model: abs(math.log(measure(model) / target))
    )


def _depth(kin: Family, measure: Measure, target: float) -> tuple[int, float, float]:
    """The layers of a target, and from and to which measure models have as many.

    The border lies midway, in logs, between the models whose width is `aspect` times their depth.
    """

    def border(n_layers: int) -> float:
        sizes = (
            measure(ruled(kin, width_at(kin.rule, int(kin.rule.aspect * deep)), deep))
            for deep in (n_layers, n_layers + 1)
        )
        return math.sqrt(math.prod(sizes))

    first = kin.rule.min_layers
    n_layers = first + bisect_right(range(first, first + DEEPEST), target, key=border)
    return n_layers, border(n_layers - 1) if n_layers > first else 0.0, border(n_layers)


def _around(
    kin: Family, measure: Measure, n_layers: int, target: float
) -> tuple[ModelConfig, ModelConfig]:
    """Models of neighbouring widths and the ruled d_ff that have the target between them."""

    def at(width: int) -> ModelConfig:
        return ruled(kin, width_at(kin.rule, width), n_layers)

    first = kin.rule.d_head // 2
    widths = range(first, first + WIDEST)
    wide = at(first + min(WIDEST - 1, bisect_left(widths, target, key=lambda w: measure(at(w)))))
    return at(max(first, wide.d_model - 1)), wide


def _by_d_ff(
    kin: Family, measure: Measure, model: ModelConfig, target: float, low: float, high: float
) -> list[ModelConfig]:
    """Of this width and depth the models just below and above the target, between two measures."""

    def at(d_ff: int) -> ModelConfig:
        return _model(kin, model.d_model, model.n_layers, d_ff)

    def of(d_ff: int) -> float:
        return measure(at(d_ff))

    step = _step(kin.rule, of, model.d_ff)
    choices = range(model.d_ff, model.d_ff + 1)
    if step:
        fewer, more = 2 * model.d_ff // 3 // step, 2 * model.d_ff // step
        choices = range(model.d_ff - fewer * step, model.d_ff + more * step + 1, step)
    allowed = choices[bisect_left(choices, low, key=of) : bisect_right(choices, high, key=of)]
    place = bisect_left(allowed, target, key=of)
    return [at(d_ff) for d_ff in allowed[max(0, place - 1) : place + 1]]


def _step(rule: ShapeRule, of: Callable[[int], float], d_ff: int) -> int:
    """The steps of d_ff at a width; 0 where d_ff moves nothing (experts of a stated width)."""
    step = rule.ff_multiple
    if of(d_ff + step) == of(d_ff):
        return 0
    while step % 2 == 0 and of(d_ff + step) > (1 + NEAR) * of(d_ff):
        step //= 2
    return step


@lru_cache(maxsize=4096)
def nearest_by_params(kin: Family, params_target: float) -> ModelConfig:
    return nearest(kin, params_active, params_target)


@lru_cache(maxsize=4096)
def nearest_by_cost(kin: Family, budget: float, tokens_per_param: float) -> ModelConfig:
    def cost(model: ModelConfig) -> float:
        return flops_per_token(model) * tokens_per_param * params_active(model)

    return nearest(kin, cost, budget)

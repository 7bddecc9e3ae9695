"""The ladder: any target has a shape within 2 %, and a larger target no smaller a model."""

import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model.config import MoEConfig, Traits
from model.counts import params_active
from sweeper.recipe import family
from sweeper.shapes import Family, ShapeRule, nearest_by_params, ruled, ruled_d_ff, width_at
from sweeper.study_file import load

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.py"))
KINDS = (
    Traits(),
    Traits(activation="gelu", norm="layernorm", bias=True),
    Traits(tied_embeddings=True, position="learned"),
    Traits(moe=MoEConfig(n_experts=8)),
    Traits(architecture="encoder_decoder", position="relative"),
)
RULES = st.builds(
    ShapeRule,
    aspect=st.floats(16, 128),
    min_layers=st.integers(1, 6),
    d_head=st.sampled_from([4, 8, 16, 32, 64, 80, 128]),
    n_kv_heads=st.sampled_from([1, 2, 4, 8]),
    ff_ratio=st.floats(1.5, 4),
    ff_multiple=st.sampled_from([1, 8, 64, 256]),
)
FAMILIES = st.builds(Family, st.just(128), st.integers(64, 32_000), st.sampled_from(KINDS), RULES)
SIZES = st.floats(math.log(1e4), math.log(1e12)).map(math.exp)


def off(kin: Family, target: float) -> float:
    return abs(params_active(nearest_by_params(kin, target)) / target - 1)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
@given(SIZES)
def test_every_target_is_within_two_per_cent_by_the_rule_of_a_study(
    path: Path, target: float
) -> None:
    assert off(family(load(path).base), target) < 0.02


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.architecture)
@given(SIZES)
def test_every_target_is_within_two_per_cent_by_the_default_rule(
    kind: Traits, target: float
) -> None:
    assert off(Family(128, 512, kind, ShapeRule()), target) < 0.02


@given(FAMILIES, SIZES)
def test_every_target_from_two_heads_up_is_within_two_per_cent_by_any_rule(
    kin: Family, target: float
) -> None:
    """Of models that are no mere vocabulary: a channel more of 32,000 words cannot be made up."""
    two_heads = ruled(kin, width_at(kin.rule, 2 * kin.rule.d_head), kin.rule.min_layers)
    assume(target > params_active(two_heads))
    model = nearest_by_params(kin, target)
    assume(kin.vocab_size * model.d_model < 0.8 * target)
    assert abs(params_active(model) / target - 1) < 0.02


@given(FAMILIES, SIZES, st.floats(1, 1.5))
def test_a_larger_target_has_no_smaller_model(kin: Family, target: float, more: float) -> None:
    small, large = (nearest_by_params(kin, t) for t in (target, target * more))
    assert params_active(small) <= params_active(large)
    assert small.d_model <= large.d_model or small.n_layers < large.n_layers
    assert small.n_layers <= large.n_layers


@given(FAMILIES, SIZES)
def test_the_size_of_a_shape_asks_for_that_shape(kin: Family, target: float) -> None:
    model = nearest_by_params(kin, target)
    assert nearest_by_params(kin, float(params_active(model))) == model


@given(FAMILIES, SIZES)
def test_a_shape_keeps_the_rule(kin: Family, target: float) -> None:
    rule, model = kin.rule, nearest_by_params(kin, target)
    unit = rule.d_head * rule.n_kv_heads
    wide = model.d_model / rule.aspect
    assert wide < 2 * model.n_layers or model.d_model < rule.d_head
    assert wide > model.n_layers / 2 or model.n_layers == rule.min_layers
    assert (model.d_head, model.n_kv_heads) == (rule.d_head, rule.n_kv_heads)
    assert model.d_model % unit == 0 or model.d_model < 8 * unit
    if model.d_model % unit == 0:
        assert model.n_heads * model.d_head == model.d_model
    d_ff = ruled_d_ff(kin, model.d_model)
    assert d_ff / 3 <= model.d_ff <= 3 * d_ff


@given(st.floats(1e9, 1e12), st.sampled_from([4, 16, 64, 128]))
def test_the_blocks_of_large_models_are_whole_multiples(target: float, d_head: int) -> None:
    rule = ShapeRule(d_head=d_head, ff_multiple=16)
    assert nearest_by_params(Family(128, 512, Traits(), rule), target).d_ff % 16 == 0


def test_experts_of_a_stated_width_leave_the_width_alone_to_be_chosen() -> None:
    kin = Family(128, 512, Traits(moe=MoEConfig(n_experts=8, d_expert=32)), ShapeRule())
    model = nearest_by_params(kin, 1e6)
    assert model == ruled(kin, model.d_model, model.n_layers)
    assert params_active(model) == pytest.approx(1e6, rel=0.1)

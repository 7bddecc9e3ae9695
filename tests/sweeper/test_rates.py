"""Rates and batches by rule, against what was published."""

from typing import Any, get_args

import pytest

from analysis.hyper.laws import PUBLISHED
from model.config import ModelConfig
from model.counts import flops_per_token, params_active, params_non_embedding
from sweeper.overrides import parse_override, with_values
from sweeper.rates import BATCH_RULES, LR_RULES, batch_of, batch_tokens, peak_rate, ramp_of
from sweeper.recipe import Recipe, horizon, pretrain_spec, shape
from sweeper.rules import (
    BatchRule,
    BatchSizeRule,
    LearningRateRule,
    PowerLaw,
    RampRule,
    fitted,
    recipe_lines,
)
from train.choices import BatchConfig
from train.config import DataConfig, RunSpec, steps, tokens_after
from train.ramp import segments

RECIPE = Recipe(
    data=DataConfig(vocab_size=512, digest="0", sentinels=40),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=2048, micro_batch_size=4),
)
POWER = PowerLaw(coefficient=2.0, params=0.1, tokens=0.5)


def deepseek(layers: int, width: int, d_ff: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=102_400, seq_len=4096, n_layers=layers, d_model=width, n_heads=width // 128,
        n_kv_heads=width // 128, d_head=128, d_ff=d_ff
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "sequences"),
    [(deepseek(30, 4096, 11008), 2304), (deepseek(95, 8192, 22016), 4608)],
)
def test_deepseeks_batches_are_the_published_ones(model: ModelConfig, sequences: int) -> None:
    """Bi et al. 2024, table 2: batches of 2304 and 4608 sequences of 4096 for 7B and 67B."""
    batch = BATCH_RULES["deepseek"](RECIPE, model, 2_000_000_000_000)
    assert batch / 4096 == pytest.approx(sequences, rel=0.1)


def test_steplaw_is_the_law_that_the_analysis_shows_beside_a_fit() -> None:
    model, tokens = deepseek(30, 4096, 11008), 100_000_000_000
    known = {"params": params_non_embedding(model), "tokens": tokens}
    law = PUBLISHED["StepLaw"]
    rules = (LR_RULES["steplaw"], "lr"), (BATCH_RULES["steplaw"], "batch_tokens")
    for rule, knob in rules:
        published = 2.718281828459045 ** law[knob].log_value(known)
        assert rule(RECIPE, model, tokens) == pytest.approx(published, rel=1e-9)


def test_steplaw_at_a_billion_parameters_and_a_hundred_billion_tokens() -> None:
    """Li et al. 2025, eq. 1, by hand: 1.79 x 10^(-6.417) x 10^(3.377); 0.58 x 10^(6.281)."""
    assert 1.79 * 10 ** (-9 * 0.713 + 11 * 0.307) == pytest.approx(1.633e-3, rel=1e-3)
    batch = BATCH_RULES["steplaw"](RECIPE, deepseek(30, 4096, 11008), 100_000_000_000)
    assert batch == pytest.approx(0.58 * 10 ** (11 * 0.571), rel=1e-9)
    assert batch == pytest.approx(1.108e6, rel=1e-3)


def rule_of(rule: BatchSizeRule, scale: float = 1.0) -> Recipe:
    power = POWER if rule == "power" else None
    chosen = BatchRule(rule=rule, power=power, scale=scale)
    return RECIPE.model_copy(update={"batch_rule": chosen})


@pytest.mark.parametrize("rule", BATCH_RULES)
def test_every_batch_rule_gives_whole_micro_batches_and_follows_the_scale(
    rule: BatchSizeRule,
) -> None:
    model, tokens = shape(RECIPE, 200_000), 400_000_000
    one, four = (batch_tokens(rule_of(rule, scale), model, tokens) for scale in (1.0, 4.0))
    grain = 128 * 4
    assert one % grain == four % grain == 0
    assert four == pytest.approx(4 * one, abs=3 * grain)


@pytest.mark.parametrize("rule", BATCH_RULES)
def test_every_batch_rule_leads_to_a_legal_run(rule: BatchSizeRule) -> None:
    recipe = rule_of(rule)
    model = shape(recipe, 200_000)
    tokens = horizon(recipe, model, 1e13)
    spec = pretrain_spec(recipe, model, tokens, study="s", trial=0, budget=1e13, seed=0)
    assert tokens_after(spec, steps(spec)) == pytest.approx(tokens, rel=0.02)
    assert tokens * flops_per_token(model) == pytest.approx(1e13, rel=0.05)


def test_rules_that_may_be_named_exist() -> None:
    assert set(LR_RULES) == set(get_args(LearningRateRule))
    assert set(BATCH_RULES) == set(get_args(BatchSizeRule))


def test_a_power_law_is_in_active_parameters_tokens_and_flops() -> None:
    model = shape(RECIPE, 200_000)
    law = PowerLaw(coefficient=3.0, params=-0.5, tokens=0.25, flops=-0.125)
    lr = {"rule": "power", "power": law.model_dump()}
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"lr": lr})
    n, d = params_active(model), 1_000_000
    expected = 3 * n**-0.5 * d**0.25 * (flops_per_token(model) * d) ** -0.125
    assert peak_rate(recipe, model, d) == pytest.approx(expected)


def test_a_rate_is_transferred_over_widths_by_mup() -> None:
    mup = {"init": "mup", "mup_base_width": 64}
    lr = {"rule": "mup", "value": 0.02, "scale": 0.5}
    recipe = Recipe.model_validate(
        RECIPE.model_dump() | {"lr": lr, "model": RECIPE.model.model_dump() | mup}
    )
    assert {peak_rate(recipe, shape(recipe, n), 10**6) for n in (1e5, 1e6)} == {0.01}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr.rule": "power"}, "needs the coefficients"),
        ({"batch_rule.rule": "power"}, "needs the coefficients"),
        ({"lr.rule": "mup"}, "needs a value, as 'mup' does"),
        ({"ramp.until_fraction": 1.0}, "less than 1"),
    ],
)
def test_rules_that_lack_what_they_need_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_values(RECIPE, values)


def test_a_ramp_is_a_line_from_its_start_to_the_full_batch() -> None:
    ramp = ramp_of(RampRule(until_fraction=0.1, start_fraction=0.25, pieces=4), 4096, 512, 300_000)
    assert ramp == ((0, 1024), (10_000, 2048), (20_000, 3072), (30_000, 4096))


def test_a_line_of_few_grains_has_each_size_once() -> None:
    ramp = ramp_of(RampRule(until_fraction=0.5, start_fraction=0.1, pieces=9), 1024, 512, 8000)
    assert ramp == ((0, 512), (3000, 1024))
    assert ramp_of(RampRule(until_fraction=0.5), 512, 512, 8000) == ()


def planned(values: dict[str, Any]) -> RunSpec:
    recipe = with_values(RECIPE, values)
    model = shape(recipe, 100_000)
    tokens = horizon(recipe, model, 1e12)
    return pretrain_spec(recipe, model, tokens, study="s", trial=0, budget=1e12, seed=0, dp=2)


@pytest.mark.parametrize(
    ("values", "path", "expected"),
    [
        ({"optim.name": "muon"}, "parallel.zero_stage", 0),
        ({"optim.name": "lion"}, "optim.beta2", 0.99),
        ({"optim.name": "lion", "optim.beta2": 0.9}, "optim.beta2", 0.9),
        ({"optim.decay_embeddings": False}, "optim.decay_embeddings", False),
        ({"schedule.kind": "wsd", "schedule.decay_fraction": 0.3}, "schedule.decay_fraction", 0.3),
        ({"objective.kind": "ul2"}, "objective.kind", "ul2"),
        ({"objective.kind": "span", "objective.corruption": 0.3}, "objective.corruption", 0.3),
        ({"ramp.until_fraction": 0.2}, "batch.global_batch_tokens", 2048),
        ({"evals.noise_scale_every": 10}, "evals.noise_scale_every", 10),
    ],
)
def test_axes_reach_every_choice_of_a_recipe(
    values: dict[str, Any], path: str, expected: object
) -> None:
    place: Any = planned(values)
    for key in path.split("."):
        place = getattr(place, key)
    assert place == expected


def test_a_ramp_of_the_recipe_reaches_the_run_with_micro_batches_that_fit() -> None:
    spec = planned({"ramp.until_fraction": 0.2, "ramp.pieces": 4})
    sizes = [each.batch_tokens for each in segments(spec.batch)]
    assert sizes == [256, 768, 1536, 2048]
    assert spec.batch.micro_batch_size == 1
    listed = planned({"batch.ramp": ((0, 1024), (5000, 2048))})
    assert batch_of(RECIPE, listed.model, 1, 2).ramp == ()
    assert [each.batch_tokens for each in segments(listed.batch)] == [1024, 2048]


def test_a_fitted_law_is_a_rule_that_a_study_takes() -> None:
    coef = {"lr_coefficient": 1.79, "lr_params_exponent": -0.713, "lr_tokens_exponent": 0.307}
    (line,) = recipe_lines(coef)
    path, rule = parse_override(line.split('"')[1])
    recipe = with_values(RECIPE, {path.removeprefix("base."): rule})
    model = shape(recipe, 200_000)
    expected = 1.79 * params_active(model) ** -0.713 * 1e6**0.307
    assert peak_rate(recipe, model, 1_000_000) == pytest.approx(expected)
    assert fitted(coef, "batch_tokens") is None
    batch = fitted(
        {"batch_tokens_coefficient": 0.292, "batch_tokens_flops_exponent": 0.33}, "batch_tokens"
    )
    assert batch == PowerLaw(coefficient=0.292, flops=0.33)

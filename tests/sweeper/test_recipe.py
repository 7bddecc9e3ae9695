import pytest

from model.config import ModelConfig
from model.counts import flops_per_token, params_active
from sweeper.rates import LR_RULES, deepseek_rate, micro_batch, peak_rate
from sweeper.recipe import (
    LearningRate,
    OptimRule,
    Recipe,
    ShapeRule,
    centre_params,
    horizon,
    pretrain_spec,
    shape,
)
from sweeper.rules import LearningRateRule, PowerLaw
from train.config import BatchConfig, DataConfig, OptimConfig

RECIPE = Recipe(
    data=DataConfig(vocab_size=512, digest="0"),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=2048, micro_batch_size=16),
    shape=ShapeRule(aspect=16, d_head=4),
)


def test_a_size_below_every_shape_is_refused_with_the_smallest_one() -> None:
    with pytest.raises(ValueError, match=r"no shape near it: the nearest has [\d,]+ active"):
        shape(RECIPE, 100)


def test_the_centre_spends_the_budget_at_the_asked_tokens_per_param() -> None:
    params = centre_params(RECIPE, 1e13, tokens_per_param=20)
    model = shape(RECIPE, params)
    assert params_active(model) == params
    assert horizon(RECIPE, model, 1e13) / params == pytest.approx(20, rel=0.35)


def test_the_horizon_is_whole_batches_and_spends_the_budget() -> None:
    model = shape(RECIPE, 50_000)
    tokens = horizon(RECIPE, model, 1e12)
    assert tokens % RECIPE.batch.global_batch_tokens == 0
    assert tokens * flops_per_token(model) == pytest.approx(1e12, rel=0.01)


@pytest.mark.parametrize(
    ("layers", "width", "d_ff", "published"), [(30, 4096, 11008, 4.2e-4), (95, 8192, 21848, 3.2e-4)]
)
def test_the_deepseek_rule_gives_the_rates_of_the_published_models(
    layers: int, width: int, d_ff: int, published: float
) -> None:
    """DeepSeek LLM 7B and 67B: Bi et al. 2024, arXiv:2401.02954, table 2; 2T tokens."""
    model = ModelConfig(
        vocab_size=102_400,
        seq_len=4096,
        n_layers=layers,
        d_model=width,
        n_heads=width // 128,
        n_kv_heads=width // 128,
        d_head=128,
        d_ff=d_ff,
    )
    assert deepseek_rate(RECIPE, model, 2_000_000_000_000) == pytest.approx(published, rel=0.03)


def rate(rule: LearningRateRule, scale: float = 1.0) -> LearningRate:
    value = 1e-3 if rule in ("constant", "mup") else None
    power = PowerLaw(coefficient=2.0, params=-0.3) if rule == "power" else None
    return LearningRate(rule=rule, value=value, power=power, scale=scale)


@pytest.mark.parametrize("rule", set(LR_RULES) - {"mup"})
def test_every_learning_rate_rule_follows_the_scale(rule: LearningRateRule) -> None:
    def lr(scale: float) -> float:
        recipe = RECIPE.model_copy(update={"lr": rate(rule, scale)})
        model = shape(recipe, 50_000)
        spec = pretrain_spec(recipe, model, 1_024_000, study="s", trial=0, budget=1.0, seed=0)
        return spec.optim.lr

    assert lr(2.0) == pytest.approx(2 * lr(1.0))


def test_a_rate_is_not_transferred_without_mup() -> None:
    recipe = RECIPE.model_copy(update={"lr": rate("mup")})
    with pytest.raises(ValueError, match=r"set model\.init='mup'"):
        peak_rate(recipe, shape(recipe, 50_000), 1_024_000)


def test_every_learning_rate_rule_that_may_be_named_exists() -> None:
    assert set(LR_RULES) == set(LearningRate.model_fields["rule"].annotation.__args__)


def test_the_recipe_knows_every_field_of_the_optimizer_but_the_rate() -> None:
    assert set(OptimRule.model_fields) == set(OptimConfig.model_fields) - {"lr"}


def test_two_matrices_hold_what_three_do() -> None:
    gated, plain = (
        shape(Recipe.model_validate(RECIPE.model_dump() | {"model": {"activation": a}}), 1e6)
        for a in ("swiglu", "relu2")
    )
    assert (gated.d_model, gated.n_layers) == (plain.d_model, plain.n_layers)
    assert params_active(gated) == pytest.approx(params_active(plain), rel=0.02)


def test_more_processes_get_smaller_micro_batches_of_the_same_batch() -> None:
    assert micro_batch(RECIPE, 1).micro_batch_size == 16
    assert micro_batch(RECIPE, 4) == BatchConfig(global_batch_tokens=2048, micro_batch_size=4)


def test_a_batch_that_cannot_be_dealt_to_the_processes_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of seq_len x dp = 384"):
        micro_batch(RECIPE, 3)

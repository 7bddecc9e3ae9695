"""A recipe: how any model of the ladder is made from a budget and a size.

One dial, the number of active parameters, gives the shape; the budget gives the tokens; a rule
gives the learning rate.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from model.config import (
    Activation,
    ModelConfig,
    Position,
    flops_per_token,
    mlp_matrices,
    params_active,
)
from train.config import (
    BatchConfig,
    DataConfig,
    EvalConfig,
    Frozen,
    OptimConfig,
    ParallelConfig,
    RunSpec,
    ScheduleConfig,
    StabilityConfig,
)

LearningRateRule = Literal["constant", "deepseek"]


class Architecture(Frozen):
    """The fields of ModelConfig that are not sizes: what every model of a ladder shares."""

    activation: Activation = "swiglu"
    position: Position = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    tied_embeddings: bool = False


class ShapeRule(Frozen):
    """Sizes from one dial: the width; heads follow by `d_head`, depth by `aspect`.

    `aspect` is d_model / n_layers, with `min_layers` at least. All sizes have `n_kv_heads`, and
    widths that are multiples of d_head x n_kv_heads (Llama 3 has 8 at every size: Dubey et al.
    2024, arXiv:2407.21783, table 3). `ff_ratio` is d_ff / d_model of a feed-forward block of three
    matrices; one of two gets 3/2 of it, and the same parameters.
    Source: Shazeer 2020, arXiv:2002.05202, sec. 3 (d_ff by 2/3 for gated units).
    """

    aspect: float = Field(default=32.0, gt=0)
    min_layers: int = Field(default=1, gt=0)
    d_head: int = Field(default=16, gt=0)
    n_kv_heads: int = Field(default=1, gt=0)
    ff_ratio: float = Field(default=8 / 3, gt=0)
    ff_multiple: int = Field(default=8, gt=0)


class LearningRate(Frozen):
    """The peak learning rate: a rule of LR_RULES times `scale`; `value` belongs to "constant"."""

    rule: LearningRateRule = "deepseek"
    value: float | None = Field(default=None, gt=0)
    scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if (self.value is None) == (self.rule == "constant"):
            raise ValueError(
                f"rule={self.rule!r} with value={self.value}: rule='constant' needs a value, "
                "every other rule computes its own (use scale to change it)"
            )
        return self


class OptimRule(Frozen):
    """The fields of OptimConfig that do not follow from the size."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    gradient_clipping: float = Field(default=1.0, gt=0)


class ScheduleRule(Frozen):
    """Warm-up as a fraction of the run, then cosine to `final_fraction` of the peak."""

    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    final_fraction: float = Field(default=0.1, ge=0, le=1)


class Recipe(Frozen):
    """Everything that the runs of a study share; axes point into it by dotted path."""

    data: DataConfig = DataConfig()
    seq_len: int = Field(gt=0)
    batch: BatchConfig
    model: Architecture = Architecture()
    shape: ShapeRule = ShapeRule()
    lr: LearningRate = LearningRate()
    optim: OptimRule = OptimRule()
    schedule: ScheduleRule = ScheduleRule()
    stability: StabilityConfig = StabilityConfig()
    evals: EvalConfig = EvalConfig()


def model_config(recipe: Recipe, d_model: int, n_layers: int) -> ModelConfig:
    """The model of a width and a depth, its other sizes by the recipe's shape rule."""
    rule = recipe.shape
    n_heads = d_model // rule.d_head
    matrices = mlp_matrices(ModelConfig.model_construct(activation=recipe.model.activation))
    blocks = round(rule.ff_ratio * d_model * 3 / matrices / rule.ff_multiple)
    return ModelConfig(
        vocab_size=recipe.data.vocab_size,
        seq_len=recipe.seq_len,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=rule.n_kv_heads,
        d_head=rule.d_head,
        d_ff=max(1, blocks) * rule.ff_multiple,
        **recipe.model.model_dump(),
    )


def _nearest_model(
    recipe: Recipe, measure: Callable[[ModelConfig], float], target: float
) -> ModelConfig:
    """The legal shape whose measure (growing with width) is nearest the target, in logs."""
    step = recipe.shape.d_head * recipe.shape.n_kv_heads

    def depths(width: int) -> set[int]:
        ideal = width * step / recipe.shape.aspect
        return {
            max(recipe.shape.min_layers, near) for near in (math.floor(ideal), math.ceil(ideal))
        }

    def at(width: int, depth: int) -> ModelConfig:
        return model_config(recipe, width * step, depth)

    def shallow(width: int) -> float:
        return measure(at(width, min(depths(width))))

    middle = 1 + bisect_left(range(1, 100_000), target, key=shallow)
    # One layer more is worth about aspect / (2 step) widths.
    reach = 2 + math.ceil(recipe.shape.aspect / step)
    near = range(max(1, middle - reach), middle + reach)
    candidates = [at(width, depth) for width in near for depth in depths(width)]
    return min(candidates, key=lambda model: abs(math.log(measure(model) / target)))


def shape(recipe: Recipe, params_target: float) -> ModelConfig:
    """The legal shape whose active parameters are nearest the target, in logs.

    Raises ValueError where even the nearest is off by a factor of two.
    """
    model = _nearest_model(recipe, params_active, params_target)
    params = params_active(model)
    if not 0.5 <= params / params_target <= 2:
        raise ValueError(
            f"params_target={params_target:,.0f} has no shape near it: the nearest has {params:,} "
            f"active parameters (d_model={model.d_model}, n_layers={model.n_layers}, vocab_size="
            f"{model.vocab_size}); raise the budget, or lower data.vocab_size or shape.d_head"
        )
    return model


def centre_params(recipe: Recipe, budget: float, tokens_per_param: float) -> int:
    """Active parameters of the shape that spends the budget at this many tokens a parameter."""

    def cost(model: ModelConfig) -> float:
        return flops_per_token(model) * tokens_per_param * params_active(model)

    return params_active(_nearest_model(recipe, cost, budget))


def horizon(recipe: Recipe, model: ModelConfig, budget: float) -> int:
    """Tokens that the budget (FLOPs) pays for, in whole batches."""
    batch = recipe.batch.global_batch_tokens
    return round(budget / flops_per_token(model) / batch) * batch


def constant(recipe: Recipe, model: ModelConfig, tokens: int) -> float:
    """The recipe's own value."""
    assert recipe.lr.value is not None
    return recipe.lr.value


def deepseek(recipe: Recipe, model: ModelConfig, tokens: int) -> float:
    """0.3118 C^-0.125, with C the non-embedding FLOPs of the run (no vocabulary projection).

    Source: Bi et al. 2024, arXiv:2401.02954, eq. 1 and 2.
    """
    vocabulary = 6 * model.vocab_size * model.d_model
    return 0.3118 * ((flops_per_token(model) - vocabulary) * tokens) ** -0.125


LR_RULES: dict[LearningRateRule, Callable[[Recipe, ModelConfig, int], float]] = {
    "constant": constant,
    "deepseek": deepseek,
}


def micro_batch(recipe: Recipe, dp: int) -> BatchConfig:
    """The recipe's batch, its micro-batch the largest up to the recipe's own that dp divides.

    Raises ValueError where the sequences of a batch cannot be dealt to dp processes.
    """
    sequences, left = divmod(recipe.batch.global_batch_tokens, recipe.seq_len * dp)
    if left or not sequences:
        raise ValueError(
            f"batch.global_batch_tokens={recipe.batch.global_batch_tokens} is not a multiple of "
            f"seq_len x dp = {recipe.seq_len * dp}; change the batch, seq_len or dp"
        )
    sizes = range(1, recipe.batch.micro_batch_size + 1)
    size = max(n for n in sizes if sequences % n == 0)
    return BatchConfig(global_batch_tokens=recipe.batch.global_batch_tokens, micro_batch_size=size)


def pretrain_spec(
    recipe: Recipe,
    model: ModelConfig,
    tokens: int,
    *,
    study: str,
    trial: int,
    budget: float,
    seed: int,
    dp: int = 1,
) -> RunSpec:
    """The pretraining run of one shape over `tokens` tokens, laid out over dp processes."""
    lr = LR_RULES[recipe.lr.rule](recipe, model, max(tokens, 1)) * recipe.lr.scale
    return RunSpec(
        study=study,
        trial=trial,
        budget=budget,
        seed=seed,
        model=model,
        data=recipe.data,
        batch=micro_batch(recipe, dp),
        optim=OptimConfig(lr=lr, **recipe.optim.model_dump()),
        schedule=ScheduleConfig(
            warmup_tokens=int(recipe.schedule.warmup_fraction * tokens),
            final_fraction=recipe.schedule.final_fraction,
        ),
        tokens=tokens,
        stability=recipe.stability,
        parallel=ParallelConfig(dp=dp),
        evals=recipe.evals,
    )

"""A recipe: how any model of the ladder is made from a budget and a size.

One dial, the number of active parameters, gives the shape; the budget gives the tokens; a rule
gives the learning rate.
"""

from pydantic import Field

from model.config import ModelConfig, Traits
from model.counts import flops_per_token, params_active
from sweeper.rates import batch_of, batch_tokens, peak_rate
from sweeper.rules import BatchRule, LearningRate, OptimRule, RampRule, ScheduleRule
from sweeper.shapes import Family, ShapeRule, nearest_by_cost, nearest_by_params
from train.choices import ZERO_STAGES, Start, ZeroStage
from train.config import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    Frozen,
    ObjectiveConfig,
    ParallelConfig,
    Phase,
    RunSpec,
    StabilityConfig,
)


class Recipe(Frozen):
    """Everything that the runs of a study share; axes point into it by dotted path."""

    data: DataConfig = DataConfig()
    seq_len: int = Field(gt=0)
    batch: BatchConfig
    batch_rule: BatchRule = BatchRule()
    ramp: RampRule = RampRule()
    model: Traits = Traits()
    start: Start | None = None
    shape: ShapeRule = ShapeRule()
    objective: ObjectiveConfig = ObjectiveConfig()
    phases: tuple[Phase, ...] = ()
    lr: LearningRate = LearningRate()
    optim: OptimRule = OptimRule()
    schedule: ScheduleRule = ScheduleRule()
    stability: StabilityConfig = StabilityConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evals: EvalConfig = EvalConfig()


def family(recipe: Recipe) -> Family:
    return Family(recipe.seq_len, recipe.data.vocab_size, recipe.model, recipe.shape)


def shape(recipe: Recipe, params_target: float) -> ModelConfig:
    """The legal shape whose active parameters are nearest the target, in logs.

    Raises ValueError where even the nearest is off by a factor of two.
    """
    model = nearest_by_params(family(recipe), params_target)
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
    kin = family(recipe)
    by_cost = nearest_by_cost(kin, budget, tokens_per_param)
    # Of the shapes between two widths, the ladder by parameters may have the next.
    return params_active(nearest_by_params(kin, float(params_active(by_cost))))


def horizon(recipe: Recipe, model: ModelConfig, budget: float) -> int:
    """Tokens that the budget (FLOPs) pays for, in whole batches.

    Raises ValueError where it does not pay for one.
    """
    tokens = budget / flops_per_token(model)
    batch = batch_tokens(recipe, model, round(tokens))
    batches = round(tokens / batch)
    if not batches:
        raise ValueError(
            f"budget={budget:g} does not pay for one batch of {batch:,} tokens at "
            f"{params_active(model):,} active parameters; raise the budget, or lower "
            "batch.global_batch_tokens"
        )
    return batches * batch


def zero_stage(recipe: Recipe, dp: int) -> ZeroStage:
    """The first that every optimizer of a run can have; one process has nothing to share."""
    if dp == 1:
        return 0
    later = [ZERO_STAGES[phase.optim.name] for phase in recipe.phases if phase.optim is not None]
    possible = [ZERO_STAGES[recipe.optim.name], *later]
    return next(stage for stage in possible[0] if all(stage in each for each in possible))


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
    shortest: int | None = None,
) -> RunSpec:
    """The pretraining run of one shape over `tokens` tokens, laid out over dp processes.

    Its warm-up is that of a run of `shortest` tokens, where it shares one with that.
    """
    return RunSpec(
        study=study,
        trial=trial,
        budget=budget,
        seed=seed,
        model=model,
        start=recipe.start,
        data=recipe.data,
        objective=recipe.objective,
        phases=recipe.phases,
        batch=batch_of(recipe, model, tokens, dp),
        optim=recipe.optim.at(peak_rate(recipe, model, tokens)),
        schedule=recipe.schedule.over(tokens, shortest),
        tokens=tokens,
        stability=recipe.stability,
        parallel=ParallelConfig(dp=dp, zero_stage=zero_stage(recipe, dp)),
        checkpoints=recipe.checkpoints,
        evals=recipe.evals,
    )

"""A study of the same parts as studies/tiny.py, small enough for a test."""

from sweeper.recipe import LearningRate, Recipe, ShapeRule
from sweeper.study import (
    Axis,
    Cluster,
    GateLimits,
    IsoFLOP,
    OneAtATime,
    PostTraining,
    PromotionPlan,
    Study,
)
from train.config import BatchConfig, DataConfig, EvalConfig

SMALLEST = Recipe(
    data=DataConfig(bytes_per_source=400_000, validation_fraction=0.1, vocab_size=300),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=4 * 128, micro_batch_size=2),
    shape=ShapeRule(aspect=64, min_layers=2, d_head=8),
    # Half of what the rule says: its batches grow with the budget, these are of 512 tokens.
    lr=LearningRate(rule="deepseek", scale=0.5),
    evals=EvalConfig(validation_tokens=16_384),
)

STUDY = Study(
    name="smallest",
    question="Does every part work with every other?",
    base=SMALLEST,
    budgets=(1.5e10, 3e10, 6e10, 1.2e11),
    axes=(
        Axis(name="activation", path="model.activation", levels=("swiglu", "gelu")),
        # A rate a hundred times too high: a divergence must not stop the study.
        Axis(name="rate", path="lr.scale", levels=(0.5, 100.0), scale="log"),
    ),
    designs=(
        IsoFLOP(sizes_per_budget=5, spread=3.5, tokens_per_param=16),
        OneAtATime(budget=1.5e10, seeds=(0, 1), tokens_per_param=16),
    ),
    cluster=Cluster(workers=2),
    promotion=PromotionPlan(
        target=3e11,
        dp=2,
        stages=(
            PostTraining(stage="sft", tokens=20 * 512, lr=1e-3),
            PostTraining(stage="dpo", tokens=20 * 512, lr=3e-4),
        ),
        # The parts are under test, not the laws: noise of one-second runs is let through.
        gates=GateLimits(fit_quality=9, interval_width=9.0, extrapolation=2.0, backtest_error=1.0),
    ),
)

"""The whole way on two CPU cores in minutes: a ladder, an ablation, a forecast, a promoted run.

The text is that of this project's own pinned packages, so it is on any machine that can run this.
"""

from sweeper.recipe import LearningRate, Recipe, ScheduleRule, ShapeRule
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
from train.config import BatchConfig, DataConfig

TINY = Recipe(
    data=DataConfig(bytes_per_source=3_000_000, validation_fraction=0.05, vocab_size=512),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=8 * 128, micro_batch_size=8),
    # Two layers throughout: a depth that changes within the ladder is a step in every curve.
    shape=ShapeRule(aspect=64, min_layers=2, d_head=8, n_kv_heads=1),
    lr=LearningRate(rule="deepseek"),
    # The largest models of a budget have some hundred steps: a short warm-up would hold them back.
    schedule=ScheduleRule(warmup_fraction=0.2),
)

STUDY = Study(
    name="tiny",
    question="What do 2.4e12 FLOPs buy on program text, and which activation buys most?",
    base=TINY,
    budgets=(7.5e10, 1.5e11, 3e11, 6e11),
    axes=(Axis(name="activation", path="model.activation", levels=("swiglu", "gelu", "relu2")),),
    designs=(
        IsoFLOP(sizes_per_budget=5, spread=2.8, tokens_per_param=24),
        OneAtATime(budget=7.5e10, seeds=(0, 1, 2), tokens_per_param=24),
    ),
    cluster=Cluster(workers=2),
    promotion=PromotionPlan(
        target=2.4e12,
        dp=2,
        stages=(
            PostTraining(stage="sft", tokens=300_000, lr=2e-3),
            PostTraining(stage="dpo", tokens=200_000, lr=2e-4),
        ),
        # Four budgets leave two back-tests, where Student's t is 4.3: the interval is wide.
        # Models this small are no power law yet, and no irreducible loss is in sight.
        gates=GateLimits(fit_quality=2, interval_width=0.8, backtest_error=0.1),
    ),
)

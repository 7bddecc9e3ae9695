"""The whole way on two CPU cores in minutes: a ladder, an ablation, a forecast, a promoted run.

The text is that of this project's own pinned packages, so it is on any machine that can run this.
"""

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
from train.config import BatchConfig, DataConfig

TINY = Recipe(
    data=DataConfig(bytes_per_source=2_000_000, vocab_size=320),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=16 * 128, micro_batch_size=16),
    shape=ShapeRule(aspect=16, d_head=8, queries_per_kv=2),
    lr=LearningRate(rule="deepseek"),
)

STUDY = Study(
    name="tiny",
    question="What does 4e12 FLOPs buy on source code, and which activation buys most?",
    base=TINY,
    budgets=(5e10, 1.2e11, 3.5e11, 1e12),
    axes=(Axis(name="activation", path="model.activation", levels=("swiglu", "gelu", "relu2")),),
    designs=(
        # At this scale some 60 to 100 tokens a parameter are best, not the 20 of large models.
        IsoFLOP(sizes_per_budget=5, spread=3.0, tokens_per_param=80),
        OneAtATime(budget=1.2e11, seeds=(0, 1), tokens_per_param=80),
    ),
    cluster=Cluster(workers=2),
    promotion=PromotionPlan(
        target=4e12,
        dp=2,
        stages=(
            PostTraining(stage="sft", tokens=400_000, lr=1e-3),
            PostTraining(stage="dpo", tokens=200_000, lr=1e-4),
        ),
        gates=GateLimits(fit_quality=1),
    ),
)

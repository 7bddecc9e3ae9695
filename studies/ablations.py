"""Which choices matter for a small model: one at a time against a baseline, three seeds each.

It ends in the report's table of effects, each with its noise over seeds. There is no ladder here,
so nothing is forecast and nothing promoted; minutes on two CPU cores.
"""

from sweeper.recipe import LearningRate, Recipe, ScheduleRule, ShapeRule
from sweeper.study import Axis, Cluster, OneAtATime, PromotionPlan, Study
from train.config import BatchConfig, DataConfig

BASE = Recipe(
    data=DataConfig(bytes_per_source=3_000_000, validation_fraction=0.05, vocab_size=512),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=8 * 128, micro_batch_size=8),
    shape=ShapeRule(aspect=64, min_layers=2, d_head=8, n_kv_heads=1),
    lr=LearningRate(rule="deepseek"),
    schedule=ScheduleRule(warmup_fraction=0.2),
)

STUDY = Study(
    name="ablations",
    question="Which choices of a small decoder matter on program text, beyond the noise of seeds?",
    base=BASE,
    budgets=(7.5e10,),
    seeds=(0, 1, 2),
    axes=(
        Axis(name="activation", path="model.activation", levels=("swiglu", "gelu")),
        Axis(name="position", path="model.position", levels=("rope", "alibi", "none")),
        Axis(name="norm", path="model.norm", levels=("rmsnorm", "layernorm")),
        Axis(name="placement", path="model.norm_placement", levels=("pre", "post")),
        Axis(name="qk_norm", path="model.qk_norm", levels=(False, True)),
        Axis(name="parallel", path="model.parallel_blocks", levels=(False, True)),
        Axis(name="tied", path="model.tied_embeddings", levels=(False, True)),
        Axis(name="schedule", path="schedule.kind", levels=("cosine", "wsd")),
        Axis(name="decay", path="optim.weight_decay", levels=(0.1, 0.0)),
    ),
    designs=(OneAtATime(budget=7.5e10, seeds=(0, 1, 2), tokens_per_param=24),),
    cluster=Cluster(workers=2),
    promotion=PromotionPlan(target=7.5e11, approve="hold"),
)

"""A ladder whose runs share trunks: four budgets of five sizes for 58 % of their FLOPs.

Each size is trained once at its peak rate, and every budget's run leaves it where it begins to cool
down. Minutes on two CPU cores; `sweeper plan studies/trunks.py designs.0.trunks=False` is the
ladder of separate runs that it stands for.
"""

from sweeper.recipe import LearningRate, Recipe, ScheduleRule, ShapeRule
from sweeper.study import Cluster, IsoFLOP, PromotionPlan, Study
from train.config import BatchConfig, DataConfig

BASE = Recipe(
    data=DataConfig(bytes_per_source=3_000_000, validation_fraction=0.05, vocab_size=512),
    seq_len=128,
    batch=BatchConfig(global_batch_tokens=8 * 128, micro_batch_size=8),
    shape=ShapeRule(aspect=64, min_layers=2, d_head=8, n_kv_heads=1),
    # A rate that follows the tokens of a run could not be held on a trunk.
    lr=LearningRate(rule="constant", value=5e-3),
    schedule=ScheduleRule(kind="wsd", warmup_fraction=0.2, decay_fraction=0.2),
)

STUDY = Study(
    name="trunks",
    question="What do 1.6e12 FLOPs buy on program text, by runs that share their trunks?",
    base=BASE,
    # With the last fifth of a run its own, budgets a factor of sqrt(3) apart cost 58 %.
    budgets=(7.5e10, 1.3e11, 2.25e11, 3.9e11),
    designs=(IsoFLOP(sizes_per_budget=5, spread=2.8, tokens_per_param=24, trunks=True),),
    cluster=Cluster(workers=2),
    promotion=PromotionPlan(target=1.56e12, approve="hold"),
)

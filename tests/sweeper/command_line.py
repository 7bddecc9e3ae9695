"""The command line in processes of its own, on a study small enough for a test."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STUDY = """\
from sweeper.recipe import Recipe, ShapeRule
from sweeper.study import (
    Adaptive, Axis, Cluster, GateLimits, IsoFLOP, OneAtATime, PostTraining, PromotionPlan, Study,
)
from train.config import BatchConfig, DataConfig

STUDY = Study(
    name="small",
    question="Does the manager lose or double a run?",
    base=Recipe(
        data=DataConfig(corpus={corpus!r}, vocab_size=300),
        seq_len=64,
        batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=16),
        shape=ShapeRule(aspect=16, d_head=4),
    ),
    budgets=(1e12, 4e12, 1.6e13, 6.4e13),
    axes=(Axis(name="activation", path="model.activation", levels=("swiglu", "gelu")),),
    designs=(
        IsoFLOP(sizes_per_budget=5, spread=3.0, tokens_per_param=80),
        OneAtATime(budget=1e12, seeds=(0, 1), tokens_per_param=80),
    ),
    cluster=Cluster(workers=2, environment=("FAKE_SECONDS",)),
    promotion=PromotionPlan(
        target=2.56e14,
        dp=2,
        stages=(
            PostTraining(stage="sft", tokens=4096, lr=1e-3),
            PostTraining(stage="dpo", tokens=2048, lr=1e-4),
        ),
        gates=GateLimits(interval_width=0.3),
    ),
)
"""


class CommandLine:
    """The real command line in processes of its own, with the fake trainer in its jobs."""

    def __init__(self, home: Path, study: Path) -> None:
        self.home = home
        self.study = study
        self.environment = os.environ | {
            "SWEEPER_HOME": str(home),
            # The tree that these tests lie in, wherever the installed package points.
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent.parent))),
            "FAKE_SECONDS": "0.1",
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(HERE / "drive.py"), *arguments],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and everything that was said."""
        with self.start(*arguments, **environment) as process:
            said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def launch(self, *overrides: str, **environment: str) -> tuple[int, str]:
        return self.run("launch", str(self.study), *overrides, **environment)

    def rows(self, sql: str) -> list[str]:
        """The rows that `sweeper sql` prints, below its header."""
        code, said = self.run("sql", str(self.study), sql)
        assert code == 0, said
        return [" ".join(line.split()) for line in said.splitlines()[1:]]

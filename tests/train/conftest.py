"""A corpus and runs small enough to train within seconds."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# Programs and helpers lie beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from model.config import ModelConfig
from train.config import (
    BatchConfig,
    DataConfig,
    EvalConfig,
    OptimConfig,
    RunSpec,
    ScheduleConfig,
)
from train.data.curate import with_digest
from train.data.prepare import prepare
from train.runlog import RunDir, create_run

MODEL = ModelConfig(
    vocab_size=300,
    seq_len=128,
    n_layers=2,
    d_model=16,
    n_heads=2,
    n_kv_heads=1,
    d_head=8,
    d_ff=24,
)
BATCH_TOKENS = 512


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one prepared corpus in it."""
    home = tmp_path_factory.mktemp("home")
    prepare(corpus(), home)
    return home


def corpus() -> DataConfig:
    return with_digest(
        DataConfig(bytes_per_source=200_000, validation_fraction=0.1, vocab_size=300)
    )


def small_run(home: Path, **fields: Any) -> RunDir:
    """The run directory of a small RunSpec; keywords replace its fields."""
    content = {
        "study": "test",
        "trial": 0,
        "budget": 1e8,
        "model": MODEL,
        "data": corpus(),
        "batch": BatchConfig(global_batch_tokens=BATCH_TOKENS, micro_batch_size=2),
        "optim": OptimConfig(lr=0.01),
        "schedule": ScheduleConfig(warmup_tokens=2 * BATCH_TOKENS),
        "evals": EvalConfig(validation_tokens=2048),
        "tokens": 20 * BATCH_TOKENS,
    }
    return create_run(home, RunSpec(**(content | fields)))


@pytest.fixture
def make_run(home: Path) -> Callable[..., RunDir]:
    """Creates the run directory of a small RunSpec; keywords replace its fields."""
    return partial(small_run, home)


@pytest.fixture(scope="session")
def make_spec(home: Path) -> RunSpec:
    """A small RunSpec by itself."""
    return small_run(home).spec()


@pytest.fixture(scope="module")
def make_shared_run(home: Path) -> Callable[..., RunDir]:
    """The same for what the tests of a module share."""
    return partial(small_run, home)

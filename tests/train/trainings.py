"""Runs trained in processes of their own, as tests of faults want them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from model.config import ModelConfig
from train.config import BatchConfig, DataConfig, EvalConfig, OptimConfig, RunSpec, ScheduleConfig
from train.data.curate import with_digest
from train.runlog import Failure, Result, RunDir, create_run, read_lines

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
TRAIN = (sys.executable, "-m", "train", "--threads", "1")


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


def start(*runs: RunDir, program: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """`python -m train`, or a program that does the same with a fault in it."""
    command = TRAIN if program is None else (sys.executable, str(program))
    return subprocess.Popen(
        [*command, *(str(run.path) for run in runs)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(*runs: RunDir, program: Path | None = None, **environment: str) -> int:
    """The exit status of a job that nothing disturbs."""
    with start(*runs, program=program, **environment) as process:
        said, _ = process.communicate(timeout=300)
    print(said)
    return process.returncode


def child(process: subprocess.Popen[str]) -> psutil.Process:
    """The child in which a job of one process trains."""
    found = psutil.Process(process.pid).children()
    assert len(found) == 1, found
    return found[0]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def lines(run: RunDir, attempt: int = 1) -> int:
    return sum(1 for _ in read_lines(run.metrics(attempt)))


def done(run: RunDir) -> Result:
    result = run.result()
    assert result is not None, list(read_lines(run.events))
    return result


def failed(run: RunDir, attempt: int = 1) -> Failure:
    failure = run.failure(attempt)
    assert failure is not None
    return failure


def curve(run: RunDir, *attempts: int) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm as logged by these attempts, in turn (by default the first)."""
    logs = (read_lines(run.metrics(attempt)) for attempt in attempts or (1,))
    return [(line["step"], line["loss"], line["grad_norm"]) for log in logs for line in log]


def events(run: RunDir, name: str) -> list[dict[str, object]]:
    return [event for event in read_lines(run.events) if event["event"] == name]


def twin(run: RunDir, folder: Path, **fields: object) -> RunDir:
    """The same run in another store, over the same prepared data; keywords replace its fields."""
    folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(run.home / "data")
    return create_run(folder, run.spec().model_copy(update=fields))

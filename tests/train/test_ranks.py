"""Runs of several processes through signals and the death of one of them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from trainings import TRAIN, curve, done, failed, lines, twin, until

from train.config import ParallelConfig
from train.runlog import RunDir, Stop

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]
Ranks = list[subprocess.Popen[bytes]]


@contextmanager
def together(*runs: RunDir, world_size: int = 2) -> Generator[Ranks]:
    """Several processes, for one run after another, with the variables that torchrun, too, sets."""
    shared = {
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "TORCHELASTIC_RUN_ID": time.time_ns(),
    }
    ranks = [
        subprocess.Popen(
            [*TRAIN, *(str(run.path) for run in runs)],
            env=os.environ
            | {k: str(v) for k, v in (shared | {"RANK": n, "LOCAL_RANK": n}).items()},
        )
        for n in range(world_size)
    ]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def ended(ranks: Ranks, seconds: float = 120) -> list[int]:
    return [rank.wait(timeout=seconds) for rank in ranks]


def test_a_signal_to_one_rank_ends_all_with_one_checkpoint(
    make_run: MakeRun, tmp_path: Path
) -> None:
    undisturbed = make_run(seed=70, tokens=200 * 512, parallel=ParallelConfig(dp=2))
    with together(undisturbed) as ranks:
        assert ended(ranks) == [0, 0]
    run = twin(undisturbed, tmp_path / "home")
    with together(run) as ranks:
        until(lambda: lines(run) > 5)
        ranks[1].send_signal(signal.SIGTERM)
        assert ended(ranks) == [1, 1]
    assert (failed(run).cause, failed(run).step) == ("preempted", lines(run))
    with together(run) as ranks:
        assert ended(ranks) == [0, 0]
    assert curve(run, 1, 2) == curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token


def test_an_order_to_stop_ends_all_ranks(make_run: MakeRun) -> None:
    run = make_run(seed=71, tokens=1000 * 512, parallel=ParallelConfig(dp=2))
    with together(run) as ranks:
        until(lambda: lines(run) > 5)
        run.write_stop(1, Stop(state="PRUNED", cause="rung 1", study="test"))
        assert ended(ranks) == [0, 0]
    assert (failed(run).cause, failed(run).step) == ("stopped", lines(run))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others_promptly_and_is_no_exception_of_the_code(
    make_run: MakeRun, tmp_path: Path, victim: int
) -> None:
    spec_of = make_run(seed=72, tokens=1000 * 512, parallel=ParallelConfig(dp=2))
    run = twin(spec_of, tmp_path / "home")
    with together(run) as ranks:
        until(lambda: lines(run) > 5)
        ranks[victim].kill()
        assert 0 not in ended(ranks, seconds=30)
    assert failed(run).cause == "killed"

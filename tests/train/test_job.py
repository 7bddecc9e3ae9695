"""Real runs of `python -m train`: stages, layouts, interruption, divergence, failure."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from train import checkpoint
from train.config import BatchConfig, OptimConfig, ParallelConfig
from train.runlog import Result, RunDir, create_run, read_lines

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]
TRAIN = (sys.executable, "-m", "train", "--threads", "1")


def train(*runs: RunDir) -> None:
    subprocess.run([*TRAIN, *(str(run.path) for run in runs)], check=True, timeout=300)


def train_status(*runs: RunDir) -> int:
    return subprocess.run([*TRAIN, *(str(run.path) for run in runs)], timeout=300).returncode


def train_together(run: RunDir, world_size: int) -> None:
    """Several processes with the variables that torchrun, too, sets."""
    together = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "TORCHELASTIC_RUN_ID": 1}
    processes = [
        subprocess.Popen(
            [*TRAIN, str(run.path)],
            env=os.environ
            | {name: str(value) for name, value in together.items()}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.wait(timeout=300)
    assert [process.returncode for process in processes] == [0] * world_size


def done(run: RunDir) -> Result:
    result = run.result()
    assert result is not None, list(read_lines(run.events))
    return result


def curve(run: RunDir, attempt: int = 1) -> list[tuple[int, float, float]]:
    lines = read_lines(run.metrics(attempt))
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def test_every_stage_that_a_spec_may_name_has_its_row_in_the_table() -> None:
    program = (
        "from train.config import Stage; from train.attempt import STAGES; "
        "assert set(STAGES) == set(Stage.__args__), STAGES"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_pretraining_then_sft_then_dpo_each_start_from_the_weights_before(
    make_run: MakeRun,
) -> None:
    pretrain = make_run(seed=10, tokens=60 * 512)
    sft = make_run(seed=10, stage="sft", parent=pretrain.path.name)
    dpo = make_run(seed=10, stage="dpo", parent=sft.path.name)
    train(pretrain, sft, dpo)
    for run in (pretrain, sft, dpo):
        assert done(run).state == "DONE"
        assert checkpoint.is_whole(run.final)
    first, last = curve(pretrain)[0][1], done(pretrain).nats_per_token
    assert last is not None
    assert last < first - 0.5
    assert curve(sft)[0][1] < first
    assert curve(sft)[-1][1] < curve(sft)[0][1]
    # Before its first step the policy is the reference: ln 2, plus the weighted nats of an answer.
    assert 0 <= done(dpo).metrics["preference_accuracy"] <= 1
    assert curve(dpo)[0][1] > 0.69


def test_a_finished_run_is_not_trained_again(make_run: MakeRun) -> None:
    run = make_run(seed=11, tokens=3 * 512)
    train(run)
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    train(run)
    assert {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()} == before


def test_layouts_and_accumulation_follow_one_trajectory(make_run: MakeRun) -> None:
    """Sums in another order differ by rounding alone: 1e-5 in fp32 over twenty steps."""
    alone = make_run(seed=12)
    accumulated = make_run(seed=12, batch=BatchConfig(global_batch_tokens=512, micro_batch_size=1))
    shared = make_run(seed=12, parallel=ParallelConfig(dp=2))
    train(alone, accumulated)
    train_together(shared, 2)
    for other in (accumulated, shared):
        for mine, theirs in zip(curve(alone), curve(other), strict=True):
            assert theirs == pytest.approx(mine, rel=1e-5)
    assert done(shared).nats_per_token == pytest.approx(done(alone).nats_per_token, rel=1e-5)


def wait_for_steps(run: RunDir, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(curve(run)) < count:
        assert time.monotonic() < deadline, "the run never got going"
        time.sleep(0.05)


def interrupt(run: RunDir, number: signal.Signals) -> None:
    process = subprocess.Popen([*TRAIN, str(run.path)])
    wait_for_steps(run, 30)
    process.send_signal(number)
    process.wait(timeout=120)


def twin(run: RunDir, folder: Path) -> RunDir:
    """The same run in another store, over the same prepared data."""
    folder.mkdir()
    (folder / "data").symlink_to(run.home / "data")
    return create_run(folder, run.spec())


def test_a_preempted_run_goes_on_bit_for_bit(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(seed=13, tokens=400 * 512)
    undisturbed = twin(run, tmp_path / "home")
    train(undisturbed)
    interrupt(run, signal.SIGTERM)
    assert run.result() is None
    failure = run.failure(1)
    assert failure is not None
    assert (failure.cause, failure.step) == ("preempted", len(curve(run)))
    train(run)
    first, second = curve(run, 1), curve(run, 2)
    assert first[-1][0] + 1 == second[0][0]
    assert first + second == curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token
    assert done(run).seconds > 0
    assert not run.resume_states()


def test_a_killed_run_starts_again_and_ends_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(seed=14, tokens=200 * 512)
    undisturbed = twin(run, tmp_path / "home")
    train(undisturbed)
    interrupt(run, signal.SIGKILL)
    assert run.result() is None
    train(run)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token


def test_a_rate_a_hundred_times_too_high_is_diverged_and_has_no_loss(make_run: MakeRun) -> None:
    run = make_run(seed=16, optim=OptimConfig(lr=1.0), tokens=100 * 512)
    train(run)
    result = done(run)
    assert (result.state, result.cause, result.nats_per_token) == ("DIVERGED", "diverged", None)
    assert result.tokens < 100 * 512


def test_a_loss_that_is_no_number_in_the_first_step_is_diverged(make_run: MakeRun) -> None:
    parent = make_run(seed=18, tokens=3 * 512)
    run = make_run(seed=18, stage="sft", parent=parent.path.name)
    train(parent)
    weights = load_file(parent.final / "model.safetensors")
    weights["embedding.weight"][:] = float("nan")
    save_file(weights, parent.final / "model.safetensors")
    manifest = json.dumps(checkpoint._manifest(parent.final))
    (parent.final / "manifest.json").write_text(manifest)
    train(run)
    assert (done(run).state, done(run).nats_per_token) == ("DIVERGED", None)
    assert [step for step, *_ in curve(run)] == [1]


def test_a_failed_run_says_why_and_the_next_one_is_trained(make_run: MakeRun) -> None:
    orphan = make_run(seed=17, stage="sft", parent="0" * 16)
    healthy = make_run(seed=17, tokens=3 * 512)
    assert train_status(orphan, healthy) == 1
    failure = orphan.failure(1)
    assert failure is not None
    assert failure.cause == "exception"
    assert "missing or damaged" in failure.message
    assert orphan.result() is None
    assert done(healthy).state == "DONE"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    refused = subprocess.run(
        [*TRAIN, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert refused.returncode == 2
    assert "holds no run.json" in refused.stderr
    assert "Traceback" not in refused.stderr

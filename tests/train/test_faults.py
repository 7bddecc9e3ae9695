"""Training through deaths, orders and full disks: nothing lost, nothing written twice.

Real runs in real processes; what a later attempt makes of it is compared with an undisturbed twin.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from trainings import (
    child,
    curve,
    done,
    events,
    failed,
    lines,
    start,
    train,
    twin,
    until,
)

from train import checkpoint
from train.config import BatchConfig
from train.job import claim
from train.place import Place
from train.runlog import Attempt, Failure, RunDir, Stop

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]
LONG = 400 * 512
SMALL_MEMORY = Path(__file__).with_name("small_memory.py")


def cause(run: RunDir, attempt: int = 1) -> str:
    failure = run.failure(attempt)
    return failure.cause if failure else ""


def test_a_killed_child_says_so_and_the_next_run_is_trained(make_run: MakeRun) -> None:
    killed, next_one = make_run(seed=40, tokens=LONG), make_run(seed=41, tokens=3 * 512)
    with start(killed, next_one) as process:
        until(lambda: lines(killed) > 5)
        child(process).kill()
        process.communicate(timeout=120)
    assert process.returncode == 1
    assert (failed(killed).cause, failed(killed).step) == ("killed", 0)
    assert failed(killed).message == "killed by signal 9 (SIGKILL)"
    assert done(next_one).state == "DONE"


def test_a_crash_of_one_run_is_not_the_end_of_the_list(make_run: MakeRun) -> None:
    crashed, next_one = make_run(seed=42, tokens=LONG), make_run(seed=43, tokens=3 * 512)
    with start(crashed, next_one) as process:
        until(lambda: lines(crashed) > 5)
        child(process).send_signal(signal.SIGSEGV)
        process.communicate(timeout=120)
    assert failed(crashed).message == "killed by signal 11 (SIGSEGV)"
    assert done(next_one).state == "DONE"


def test_the_child_dies_with_its_parent(make_run: MakeRun) -> None:
    run = make_run(seed=44, tokens=LONG)
    with start(run) as process:
        until(lambda: lines(run) > 5)
        trainer = child(process)
        process.kill()
        until(lambda: not trainer.is_running() or trainer.status() == "zombie", 10)
    assert run.failure(1) is None
    assert run.result() is None


@pytest.mark.parametrize(
    ("number", "limit_seconds", "expected"),
    [
        (signal.SIGTERM, None, "preempted"),
        (signal.SIGUSR2, None, "preempted"),
        (signal.SIGUSR2, 3600, "preempted"),
        (signal.SIGUSR2, 60, "timeout"),
    ],
)
def test_a_signal_is_named_and_costs_nothing(
    make_run: MakeRun,
    tmp_path: Path,
    number: signal.Signals,
    limit_seconds: int | None,
    expected: str,
) -> None:
    run = twin(make_run(seed=45, tokens=LONG), tmp_path / "home")
    ends = {"SLURM_JOB_END_TIME": str(int(time.time()) + limit_seconds)} if limit_seconds else {}
    with start(run, **ends) as process:
        until(lambda: lines(run) > 5)
        process.send_signal(number)
        process.communicate(timeout=120)
    assert process.returncode == 1
    assert (failed(run).cause, failed(run).step) == (expected, lines(run))
    assert run.resume_step() == lines(run)


def test_signals_that_follow_each_other_leave_one_whole_checkpoint(make_run: MakeRun) -> None:
    run = make_run(seed=46, tokens=LONG)
    with start(run) as process:
        until(lambda: lines(run) > 5)
        trainer = child(process)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            if trainer.is_running():
                os.kill(trainer.pid, signal.SIGTERM)
            time.sleep(0.001)
        process.communicate(timeout=120)
    assert cause(run) == "preempted"
    assert checkpoint.newest_whole(run) is not None
    assert not events(run, "checkpoint_damaged")


def test_a_signal_before_the_first_step_ends_the_job_and_claims_no_more(
    make_run: MakeRun,
) -> None:
    first, second = make_run(seed=47, tokens=LONG), make_run(seed=48, tokens=LONG)
    with start(first, second) as process:
        until(lambda: first.attempts())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 1
    assert cause(first) == "preempted"
    assert failed(first).step == lines(first)
    assert not second.attempts()


def test_an_order_to_stop_is_obeyed_with_a_checkpoint(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(seed=49, tokens=4 * LONG)
    order = Stop(state="PRUNED", cause="rung 1", study="test")
    with start(run) as process:
        until(lambda: lines(run) > 5)
        run.write_stop(1, order)
        process.communicate(timeout=120)
    assert process.returncode == 0, "the order was given by those who wait for it"
    assert (failed(run).cause, failed(run).step) == ("stopped", lines(run))
    assert run.resume_step() == lines(run)


def test_an_attempt_that_was_told_to_stop_before_it_began_does_not_begin(
    make_run: MakeRun,
) -> None:
    run = make_run(seed=50, tokens=3 * 512)
    run.write_stop(1, Stop(state="CANCELLED", cause="by hand", study="test"))
    assert train(run) == 0
    assert run.attempts() == []


def test_what_was_thought_dead_writes_nothing_over_its_successor(make_run: MakeRun) -> None:
    run = make_run(seed=51, tokens=LONG)
    with start(run) as process:
        until(lambda: lines(run) > 5)
        zombie = child(process)
        zombie.suspend()
        assert train(run) == 0
        before = contents(run)
        zombie.resume()
        process.communicate(timeout=120)
    assert cause(run) == "superseded"
    allowed = {"failure.1.json", "events.jsonl", "metrics.1.jsonl"}
    after = contents(run)
    assert {name for name in after if after[name] != before.get(name)} <= allowed
    assert set(before) - set(after) == set()
    assert done(run).state == "DONE"


def contents(run: RunDir) -> dict[str, bytes]:
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name != ".reserve")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def place(job: str) -> Place:
    return Place(job, 1, 0, 1, 0, Path("unused"))


def attempt(number: int, job: str) -> Attempt:
    return Attempt(number=number, job=job)


def test_a_job_that_is_started_again_goes_on_with_the_next_attempt(make_run: MakeRun) -> None:
    run = make_run(seed=52)
    assert claim(run, 1, place("a")) == 1
    assert claim(run, 1, place("b")) is None
    assert claim(run, 1, place("a")) == 2
    run.write_failure(Failure(attempt=2, cause="timeout", message="time"))
    assert claim(run, 1, place("a")) == 3
    run.write_failure(Failure(attempt=3, cause="exception", message="a bug"))
    assert claim(run, 1, place("a")) is None
    assert claim(run, 4, place("a")) == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder))
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(("umount", "-l", str(folder)), check=True)


def fill(disk: Path, leave: int) -> Path:
    """Occupy the disk but for `leave` bytes."""
    ballast = disk / "ballast"
    with ballast.open("ab") as file:
        file.write(b"\0" * (shutil.disk_usage(disk).free - leave))
    return ballast


def test_a_disk_that_fills_under_a_checkpoint_keeps_the_last_good_one(
    make_run: MakeRun, tmp_path: Path, small_disk: Path
) -> None:
    undisturbed = make_run(seed=53, tokens=LONG)
    assert train(undisturbed) == 0
    run = twin(undisturbed, small_disk)
    with start(run) as process:
        until(lambda: lines(run) > 5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    good = run.resume_step()
    with start(run) as process:
        until(lambda: lines(run, 2) > 5)
        ballast = fill(small_disk, leave=100_000)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    assert (cause(run, 2), failed(run, 2).step) == ("disk_full", good), said
    assert [path.parent.name for path in run.resume_states()] == ["attempt-1"]
    ballast.unlink()
    assert train(run) == 0
    assert curve(run, 1) + curve(run, 3) == curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token


def test_a_disk_that_fills_under_the_metrics_is_said_and_loses_a_line_at_most(
    make_run: MakeRun, small_disk: Path
) -> None:
    undisturbed = make_run(seed=54, tokens=LONG)
    assert train(undisturbed) == 0
    run = twin(undisturbed, small_disk)
    with start(run) as process:
        until(lambda: lines(run) > 5)
        ballast = fill(small_disk, leave=0)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert cause(run) == "disk_full", said
    ballast.unlink()
    assert train(run) == 0
    assert curve(run, 2) == curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token


def checkpoints_of(run: RunDir, count: int) -> list[Path]:
    """States of `count` interrupted attempts, newest first."""
    for number in range(1, count + 1):
        with start(run) as process:
            until(lambda number=number: lines(run, number) > 5)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
    return run.resume_states()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "unfinished"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_resumed(
    make_run: MakeRun, tmp_path: Path, damage: str
) -> None:
    undisturbed = make_run(seed=55, tokens=LONG)
    if undisturbed.result() is None:
        assert train(undisturbed) == 0
    run = twin(undisturbed, tmp_path / "home")
    newest, older = checkpoints_of(run, 2)
    state = next(newest.glob("*optim_states.pt"))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flipped":
        state.write_bytes(content)
    elif damage == "truncated":
        state.write_bytes(content[:-100])
    else:
        (state if damage == "missing" else newest / "manifest.json").unlink()
    assert train(run) == 0
    said = [event["path"] for event in events(run, "checkpoint_damaged")]
    assert said == [f"checkpoints/attempt-2/{newest.name}"]
    resumed = events(run, "resume")[-1]
    assert resumed["path"] == f"checkpoints/attempt-1/{older.name}"
    assert curve(run, 1) + curve(run, 3) == curve(undisturbed)


def test_two_checkpoints_are_kept_whoever_wrote_them(make_run: MakeRun) -> None:
    run = make_run(seed=56, tokens=2 * LONG)
    states = checkpoints_of(run, 3)
    assert [path.parent.name for path in states] == ["attempt-3", "attempt-2"]


def test_out_of_memory_halves_the_forward_and_changes_no_result(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """Sums in another order differ by rounding alone: 1e-5 in fp32 over thirty steps."""
    batch = BatchConfig(global_batch_tokens=16 * 128, micro_batch_size=16)
    plain = make_run(seed=57, batch=batch, tokens=30 * 16 * 128)
    assert train(plain) == 0
    run = twin(plain, tmp_path / "home")
    for number, size in ((1, 16), (2, 8)):
        assert train(run, program=SMALL_MEMORY, MEMORY="4") == 1
        assert failed(run, number).cause == "out_of_memory"
        assert "DefaultCPUAllocator" in failed(run, number).message
        assert run.attempts()[-1].micro_batch_size == size
    assert train(run, program=SMALL_MEMORY, MEMORY="4") == 0
    assert run.attempts()[-1].micro_batch_size == 4
    assert events(run, "micro_batch_reduced")[-1]["size"] == 4
    for mine, theirs in zip(curve(run, 3), curve(plain), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    assert done(run).nats_per_token == pytest.approx(done(plain).nats_per_token, rel=1e-5)
    assert done(run).run_id == done(plain).run_id


def test_a_checkpoint_of_a_larger_forward_is_resumed_by_a_smaller(
    make_run: MakeRun, tmp_path: Path
) -> None:
    batch = BatchConfig(global_batch_tokens=4 * 128, micro_batch_size=4)
    plain = make_run(seed=58, batch=batch, tokens=LONG)
    assert train(plain) == 0
    run = twin(plain, tmp_path / "home")
    (state,) = checkpoints_of(run, 1)
    assert train(run, program=SMALL_MEMORY, MEMORY="2") == 1
    assert failed(run, 2).step == int(state.name.removeprefix("step-"))
    assert train(run, program=SMALL_MEMORY, MEMORY="2") == 0
    assert done(run).nats_per_token == pytest.approx(done(plain).nats_per_token, rel=1e-3)

"""Being asked to end: what a signal means, and when it is heard."""

import os
import signal
from collections.abc import Generator

import pytest

from train.isolation import death, in_child
from train.stopping import REASONS, AskedToStop, StopSignal, meaning, reason_of


@pytest.fixture
def stop() -> Generator[StopSignal]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield StopSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "end", "expected"),
    [
        (signal.SIGTERM, "1100", "preempted"),
        (signal.SIGUSR2, "1100", "timeout"),
        (signal.SIGUSR2, "9000", "preempted"),
        (signal.SIGUSR2, "", "preempted"),
        (signal.SIGUSR2, "soon", "preempted"),
    ],
)
def test_a_signal_is_a_time_limit_only_where_one_is_near(
    number: int, end: str, expected: str
) -> None:
    assert meaning(number, {"SLURM_JOB_END_TIME": end}, now=1000.0) == expected


def test_the_first_signal_says_why(stop: StopSignal) -> None:
    assert stop.cause is None
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert stop.cause == "preempted"


def test_a_signal_ends_at_once_what_need_not_be_finished(stop: StopSignal) -> None:
    ended = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # heard, and breaks into nothing
            ended.append("tidied up")

    with pytest.raises(AskedToStop), stop.at_once():
        work()
    assert ended == ["tidied up"]
    with pytest.raises(AskedToStop), stop.at_once():
        pytest.fail("an earlier signal was forgotten")
    os.kill(os.getpid(), signal.SIGTERM)


def test_of_several_reasons_the_first_of_the_list_counts() -> None:
    assert reason_of([0.0] * len(REASONS)) is None
    assert reason_of([1.0] * len(REASONS)) == "superseded"
    assert reason_of([0.0, 0.0, 1.0, 2.0]) == "timeout"


def test_a_child_knows_of_the_signal_that_came_before_it(stop: StopSignal) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert in_child(lambda own: 7 if own.cause == "preempted" else 1, stop) == 7


def test_a_child_hears_the_signals_of_its_parent(stop: StopSignal) -> None:
    def wait(own: StopSignal) -> int:
        os.kill(os.getppid(), signal.SIGUSR2)
        while own.cause is None:
            signal.pause()
        return 7

    assert in_child(wait, stop) == 7
    assert stop.cause == "preempted"


def test_how_a_child_died_is_said() -> None:
    assert death(-9) == "killed by signal 9 (SIGKILL)"
    assert death(3) == "ended with exit status 3"


def test_an_error_of_a_child_is_its_exit_status(
    stop: StopSignal, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_: StopSignal) -> int:
        raise RuntimeError("broken")

    assert in_child(fail, stop) == 1
    assert "RuntimeError: broken" in capfd.readouterr().err

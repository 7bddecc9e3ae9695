"""Steps of a run once more: what gives the same bits, and what gives others."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from train.runlog import RunDir

AGAIN = Path(__file__).with_name("replay_again.py")
Answers = dict[str, str]


@pytest.fixture(scope="module")
def answers(make_shared_run: Callable[..., RunDir]) -> Answers:
    run = make_shared_run(seed=98)
    ended = subprocess.run(
        [sys.executable, str(AGAIN), str(run.path)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert not run.metrics(1).exists()
    return TypeAdapter(Answers).validate_json(ended.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_step_replayed_again_is_the_same_bit_for_bit_and_another_is_not(
    answers: Answers,
) -> None:
    assert answers["step 3"] == answers["step 3 again"]
    others = ("step 3", "step 4", "steps 3 and 4", "step 5")
    assert len({answers[name] for name in others}) == 4


@pytest.mark.slow
def test_weights_of_a_state_and_of_the_end_replay_alike_where_they_are_alike(
    answers: Answers,
) -> None:
    assert answers["step 5 from a state"] == answers["step 5 from the end"]
    assert answers["step 5 from a state"] != answers["step 5"]


@pytest.mark.slow
def test_damaged_weights_are_said_and_not_replayed(answers: Answers) -> None:
    assert "is damaged or gone; replay from another state" in answers["damaged"]

"""Pruning in a whole launch: what falls behind is told to save and end, in its real job."""

import pytest
from command_line import CommandLine
from observing import HOLD, made, runs

from train.runlog import read_lines

pytestmark = pytest.mark.slow

DRAWN = "{'kind': 'random', 'trials': 2, 'seeds': (0, 1, 2, 3), 'budget': 1e12}"


def test_trials_that_fall_behind_end_early_and_are_taken_up_by_a_study_that_needs_them(
    quick: CommandLine,
) -> None:
    asked = (f"designs=({DRAWN},)", HOLD)
    pruning = "pruning={'kind': 'median', 'min_fraction': 0.25}"
    code, said = quick.launch(*asked, pruning, FAKE_SECONDS="8")
    assert code == 0, said
    ended = [run for run in runs(quick.home) if run.result() is None]
    assert ended, said
    assert f"{len(ended)} PRUNED" in said
    for run in ended:
        assert [failure.cause for failure in run.failures()] == ["stopped"]
        assert made(run)[-1] < 4
        assert not any(event["event"] == "failed" for event in read_lines(run.events))
    code, said = quick.launch(*asked, "name=other", FAKE_SECONDS="0")
    assert code == 0, said
    assert {tuple(made(run)) for run in runs(quick.home)} == {(1, 2, 3, 4)}
    assert all(run.result() for run in runs(quick.home))

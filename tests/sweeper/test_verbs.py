"""What a person does to a study at work: cancel, retry, watch, leave alone, take elsewhere."""

import json
import re

import psutil
import pytest
from command_line import CommandLine
from observing import HOLD, runs, starts, until

from sweeper.folders import StudyDir
from sweeper.ledger import read
from train.runlog import RunDir, read_lines

pytestmark = pytest.mark.slow


def states(command: CommandLine) -> dict[str, int]:
    code, said = command.run("status", str(command.study), HOLD, "--json")
    assert code == 0, said
    return json.loads(said)["states"]


def begun(command: CommandLine) -> int:
    return len(list((command.home / "runs").glob("*/metrics.1.jsonl")))


def test_a_study_cancelled_while_its_driver_is_at_work_ends_and_can_be_taken_up(
    quick: CommandLine,
) -> None:
    with quick.start("launch", str(quick.study), HOLD, FAKE_SECONDS="2") as driver:
        until(lambda: begun(quick) >= 3)
        code, said = quick.run("cancel", "small")
        assert code == 0, said
        assert "the driver at work was asked" in said
        driver.communicate(timeout=60)
    stopped = states(quick)
    assert stopped.keys() <= {"DONE", "CANCELLED"}
    assert stopped["CANCELLED"] > 10
    code, said = quick.run("retry", "small")
    assert code == 0, said
    code, said = quick.launch(HOLD)
    assert code == 0, said
    assert states(quick).keys() == {"DONE"}
    # What had begun goes on where it stopped: no step is made twice.
    for run in runs(quick.home):
        lines = [line for path in run.path.glob("metrics.*") for line in read_lines(path)]
        assert sorted(line["step"] for line in lines) == [1, 2, 3, 4]


def test_one_run_is_cancelled_without_a_driver_and_the_others_go_on(quick: CommandLine) -> None:
    quick.launch("designs.1.seeds=(0, 13)", HOLD)
    failed = [run.path.name for run in runs(quick.home) if run.result() is None]
    (quick.home / "runs" / failed[0] / "failure.1.json").unlink()
    code, said = quick.run("cancel", "small", failed[0])
    assert code == 0, said
    assert "1 runs cancelled by" in said
    place = StudyDir(quick.home, "small")
    assert read(place.ledger).decisions[failed[0]].state == "CANCELLED"
    code, said = quick.launch("designs.1.seeds=(0, 13)", HOLD)
    assert len(RunDir(place.runs / failed[0]).attempts()) == 1


def test_a_failed_run_is_tried_anew_after_retry_and_not_before(quick: CommandLine) -> None:
    quick.launch("designs.1.seeds=(0, 13)", HOLD)
    code, said = quick.run("retry", "small", "--cause", "bad luck")
    assert code == 0, said
    assert "2 runs to be tried anew" in said
    quick.launch("designs.1.seeds=(0, 13)", HOLD)
    broken = [run for run in runs(quick.home) if run.result() is None]
    assert [starts(run) for run in broken] == [2, 2]


def test_a_detached_driver_goes_on_without_its_terminal(quick: CommandLine) -> None:
    code, said = quick.run("launch", str(quick.study), HOLD, "--detach")
    assert code == 0, said
    pid = int(re.search(r"driver (\d+) goes on", said)[1])  # pyright: ignore[reportOptionalSubscript]
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 90)
    assert states(quick).keys() == {"DONE"}
    assert "forecast for" in (StudyDir(quick.home, "small").driver_log).read_text()


def test_the_same_study_runs_in_the_driver_s_own_process(quick: CommandLine) -> None:
    few = ["promotion.dp=1", HOLD, "designs=({'kind': 'grid', 'budgets': (1e12,)},)"]
    code, said = quick.launch(*few, "--cluster", "debug")
    assert code == 0, said
    assert {run.attempts()[0].world_size for run in runs(quick.home)} == {1}
    assert all(run.result() for run in runs(quick.home))


def test_runs_that_fail_alike_stop_the_study_and_say_what_to_type(quick: CommandLine) -> None:
    code, said = quick.launch("seeds=(13,)", HOLD)
    assert code == 1
    assert "runs failed alike: ValueError: seed 13 brings bad luck" in said
    assert "sweeper retry small" in said
    assert sum(starts(run) for run in runs(quick.home)) < len(runs(quick.home))


def test_jobs_get_no_variable_that_they_do_not_need(quick: CommandLine) -> None:
    quick.environment |= {"SECRET_TOKEN": "s3cret"}
    quick.launch(HOLD)
    home = quick.home
    assert not any(b"s3cret" in path.read_bytes() for path in home.rglob("*") if path.is_file())
    jobs = StudyDir(home, "small").jobs
    assert jobs.stat().st_mode & 0o077 == 0

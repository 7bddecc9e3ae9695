"""Whole launches on a full disk, under a clock that steps, beside a store that others hold.

What must hold after each: no run lost, none trained twice, one message and no trace.
"""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from command_line import CommandLine
from disks import fill, small_disk
from holding import held
from observing import CONTROLLER, HOLD, TASK, made, processes, runs, starts, under_way, until

from sweeper.folders import StudyDir

pytestmark = pytest.mark.slow

GRID = "designs=({{'kind': 'grid', 'budgets': (1e12, 4e12), 'seeds': {seeds}}},)"
FEW, MORE = ((GRID.format(seeds=seeds), HOLD) for seeds in ((0,), (0, 1)))
DAY = 86_400.0


def whole(command: CommandLine, count: int) -> None:
    """So many runs are DONE, in their folders and in the store; each made each step once."""
    assert [made(run) for run in runs(command.home)] == [[1, 2, 3, 4]] * count
    assert all(run.result() is not None for run in runs(command.home))
    ended = "select state, count(*) from runs where state != 'PLANNED' group by 1"
    assert command.rows(ended) == [f"DONE {count}"]


@pytest.fixture
def on_a_small_disk(command: CommandLine, tmp_path: Path) -> Generator[CommandLine]:
    """A command line whose home is a file system of its own."""
    with small_disk(tmp_path / "disk", 40) as disk:
        quick = CommandLine(disk / "home", command.study)
        yield quick
        for module in (CONTROLLER, TASK):
            for process in processes(quick.home, module):
                process.kill()


def is_said(code: int | None, said: str, home: Path) -> None:
    assert code == 1, said
    assert f"no space is left on the disk of {home}" in said
    assert "free some, then the same command goes on" in said
    assert "Traceback" not in said


def test_a_disk_that_fills_at_the_start_at_work_and_at_the_end_loses_and_doubles_nothing(
    on_a_small_disk: CommandLine,
) -> None:
    command, home = on_a_small_disk, on_a_small_disk.home
    disk = home.parent
    ballast = fill(disk)
    is_said(*command.launch(*FEW), home)
    ballast.unlink()
    with command.start("launch", str(command.study), *FEW, FAKE_SECONDS="2") as driver:
        until(lambda: under_way(home))
        ballast = fill(disk)
        said, _ = driver.communicate(timeout=60)
    is_said(driver.returncode, said, home)
    ballast.unlink()
    # Enough for the rest of the runs, and not for the store.
    ballast = fill(disk, leave=700_000)
    is_said(*command.launch(*FEW), home)
    ballast.unlink()
    assert sum(run.result() is not None for run in runs(home)) == 4
    code, said = command.launch(*FEW)
    assert (code, "nothing was left to train" in said) == (0, True), said
    whole(command, 4)
    assert all(starts(run) <= 2 for run in runs(home))


def test_a_clock_that_steps_back_a_day_loses_and_doubles_nothing(
    quick: CommandLine, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    quick.environment["SWEEPER_TEST_CLOCK"] = str(clock)
    with quick.start("launch", str(quick.study), *FEW, FAKE_SECONDS="2") as driver:
        until(lambda: under_way(quick.home))
        _set(clock, -DAY)
        until(lambda: any(run.result() for run in runs(quick.home)))
        driver.kill()
    code, said = quick.run("status", str(quick.study), *FEW, "--json")
    assert code == 0, said
    assert json.loads(said)["seconds_left"] >= 0
    code, said = quick.launch(*FEW, FAKE_SECONDS="0.4")
    assert code == 0, said
    _set(clock, 2 * DAY)
    code, said = quick.launch(*FEW)
    assert (code, "nothing was left to train" in said) == (0, True), said
    whole(quick, 4)
    assert {starts(run) for run in runs(quick.home)} == {1}
    # In the order in which they came, whatever the clock said.
    states = quick.rows("select state from changes order by rowid")
    assert (states[0], states[-1]) == ("PLANNED", "DONE")


def _set(clock: Path, seconds: float) -> None:
    fresh = clock.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(clock)


def test_a_store_that_another_process_holds_during_a_launch_stops_nothing(
    quick: CommandLine,
) -> None:
    code, said = quick.launch(*FEW)
    assert code == 0, said
    with held(StudyDir(quick.home, "small").store) as pid:
        code, said = quick.launch(*MORE)
        assert code == 0, said
        assert f"(PID {pid})" in said
        assert "spare.duckdb is used until then" in said
        assert "4 trained now" in said
        assert "Traceback" not in said
        _, said = quick.run("sql", "small", "select state, count(*) from runs group by 1")
        assert said.split()[-2:] == ["DONE", "8"]
    code, said = quick.launch(*MORE)
    assert (code, "nothing was left to train" in said) == (0, True), said
    assert "spare.duckdb" not in said
    whole(quick, 8)
    assert {starts(run) for run in runs(quick.home)} == {1}

"""Launches under every kind of death, in real processes and real jobs.

What must hold after each: no run lost, none trained twice.
"""

import random
import re
import shutil
import signal
import time
from collections import Counter

import psutil
import pytest
from command_line import CommandLine
from observing import (
    CONTROLLER,
    HOLD,
    TASK,
    kill_under_way,
    processes,
    runs,
    starts,
    under_way,
    until,
)

from sweeper.designs import expand
from sweeper.folders import StudyDir
from sweeper.local import living
from sweeper.study_file import load
from train.runlog import RunDir

pytestmark = pytest.mark.slow


def test_the_driver_is_killed_again_and_again(quick: CommandLine) -> None:
    instants = random.Random(7)
    for _ in range(10):
        driver = quick.start("launch", str(quick.study), FAKE_SECONDS="0.4")
        time.sleep(instants.uniform(0.3, 4.0))
        driver.kill()
        driver.communicate()
    code, said = quick.launch()
    assert code == 0, said
    assert {starts(run) for run in runs(quick.home)} == {1}
    planned = {p.run_id for p in expand(load(quick.study))}
    assert len(runs(quick.home)) == len(planned) + 3
    assert "inside the interval" in said


def test_a_killed_worker_is_replaced_and_its_run_tried_again(quick: CommandLine) -> None:
    with quick.start("launch", str(quick.study), HOLD, FAKE_SECONDS="1") as driver:
        victim, pid = kill_under_way(quick.home)
        said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    again = [run for run in runs(quick.home) if len(run.attempts()) > 1]
    assert [run.path for run in again] == [victim.path]
    assert starts(victim) == 2
    assert victim.attempts()[0].pid == pid
    assert Counter(map(starts, runs(quick.home)))[1] == len(runs(quick.home)) - 1


def test_a_second_driver_is_refused_with_the_first_ones_process(quick: CommandLine) -> None:
    with quick.start("launch", str(quick.study), HOLD) as driver:
        lock = StudyDir(quick.home, "small").lock
        until(lambda: lock.exists() and lock.read_text())
        code, said = quick.launch(HOLD)
        assert code == 4
        assert f'"pid": {driver.pid}' in said
        first_said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, first_said
    assert {starts(run) for run in runs(quick.home)} == {1}


def test_interrupting_the_driver_leaves_its_jobs_running(quick: CommandLine) -> None:
    with quick.start("launch", str(quick.study), HOLD, FAKE_SECONDS="1") as driver:
        until(lambda: len(under_way(quick.home)) >= 2)
        # To the whole group, as a terminal does.
        psutil.Process(driver.pid).send_signal(signal.SIGINT)
        for module in (CONTROLLER, TASK):
            for process in processes(quick.home, module):
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGHUP)
        said, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert "jobs that run are left running" in said
    assert len(living(quick.home.resolve())) == 2
    code, said = quick.launch(HOLD)
    assert code == 0, said
    assert {starts(run) for run in runs(quick.home)} == {1}


def test_a_run_that_fails_is_said_and_not_tried_again(quick: CommandLine) -> None:
    for _ in range(2):
        code, said = quick.launch("designs.1.seeds=(0, 13)", HOLD)
        assert code == 1
        failures = re.findall(r"^FAILED trial \d+ \(run (\w+)\): ValueError: seed 13", said, re.M)
        assert len(failures) == 2
        assert re.search(r"log: .*_log\.err", said)
        assert "to try again when the cause is mended: sweeper retry small" in said
    broken = [run for run in runs(quick.home) if run.result() is None]
    assert [starts(run) for run in broken] == [1, 1]
    code, said = quick.run("status", str(quick.study), "designs.1.seeds=(0, 13)", HOLD)
    assert "seed 13 brings bad luck" in said


def test_a_failed_run_is_tried_again_when_its_folder_is_removed(quick: CommandLine) -> None:
    quick.launch("designs.1.seeds=(0, 66)", HOLD, FAKE_SECONDS="0")
    name = next(run.path.name for run in runs(quick.home) if len(run.attempts()) == 2)
    shutil.rmtree(quick.home / "runs" / name)
    code, said = quick.launch("designs.1.seeds=(0, 66)", HOLD, FAKE_SECONDS="0")
    assert code == 0, said
    assert len(RunDir(quick.home / "runs" / name).attempts()) == 2


def test_a_run_that_is_always_killed_is_given_up_after_three_attempts(quick: CommandLine) -> None:
    code, said = quick.launch("designs.1.seeds=(67,)", HOLD, FAKE_SECONDS="0")
    assert code == 1
    assert "killed: 3 attempts, the last: it ended without a word" in said
    given_up = [run for run in runs(quick.home) if run.result() is None]
    assert [starts(run) for run in given_up] == [3, 3]


def test_a_diverged_trial_is_a_result_that_the_fit_leaves_out(quick: CommandLine) -> None:
    hot = ["axes.0.name=rate", "axes.0.path=lr.scale", "axes.0.levels=(1.0, 1000.0)"]
    code, said = quick.launch(*hot, HOLD)
    assert code == 0, said
    assert "2 DIVERGED" in said
    assert "forecast for 2.56e+14 FLOPs" in said


def test_text_that_cannot_be_prepared_is_said_with_its_reason(quick: CommandLine) -> None:
    code, said = quick.launch("base.data.vocab_size=3000")
    assert code == 1
    assert "the data cannot be prepared: " in said
    assert "vocab_size=3000" in said
    assert not any((quick.home / "runs").glob("*/attempt.*.json"))


def test_out_of_memory_halves_the_micro_batch_until_the_run_fits(quick: CommandLine) -> None:
    code, said = quick.launch("designs.1.seeds=(68,)", HOLD, FAKE_SECONDS="0")
    assert code == 0, said
    sizes = [[a.micro_batch_size for a in run.attempts()] for run in runs(quick.home)]
    assert sizes.count([16, 8, 4]) == 2
    assert sizes.count([16]) == len(sizes) - 2
    counted = quick.rows("select cause, count(*) from attempts where cause is not null group by 1")
    assert counted == ["out_of_memory 4"]


def test_a_torn_result_is_trained_again_and_no_other(quick: CommandLine) -> None:
    quick.launch(HOLD, FAKE_SECONDS="0")
    torn = runs(quick.home)[0].path / "result.json"
    torn.write_bytes(torn.read_bytes()[:40])
    code, said = quick.launch(HOLD, FAKE_SECONDS="0")
    assert code == 0, said
    assert "1 trained now" in said
    again = {run.path.name: len(run.attempts()) for run in runs(quick.home)}
    assert again.pop(torn.parent.name) == 2
    assert set(again.values()) == {1}

"""Attempts on another machine of a shared home are judged by what they write."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import CommandLine
from observing import HOLD, kill_under_way, runs, starts, under_way, until

from sweeper import elsewhere
from sweeper.designs import expand
from sweeper.jobs import Ended, Scan
from sweeper.record import Job, Record
from sweeper.runs import Runs
from sweeper.study import Study
from train.config import RunSpec, run_id
from train.runlog import Attempt, RunDir, create_run

JOB = "swp-0-0001"
# A host of its own name that sees its own processes alone, on the same disk.
HOST = ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c")
COMMAND = 'hostname elsewhere && exec "$0" "$@"'


@pytest.fixture
def spec(study: Study) -> RunSpec:
    return expand(study)[0].spec


@pytest.fixture
def run(spec: RunSpec, tmp_path: Path) -> RunDir:
    """A run whose first attempt is made on another machine."""
    run = create_run(tmp_path, spec)
    run.claim(Attempt(number=1, job=JOB, host="elsewhere", pid=1, started=time.time()))
    return run


def state(runs: Runs, scan: Scan, record: Record | None = None) -> str:
    """As a scan says that was made after the attempt was seen first."""
    runs.look(record or Record(), Scan())
    now = replace(scan, time=time.monotonic())
    (seen,) = runs.look(record or Record(), now).values()
    return seen.state


def test_it_lives_while_it_writes_and_is_dead_when_it_was_quiet_for_long(
    run: RunDir, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Runs(run.path.parent, {run_id(spec): spec})
    assert state(seen, Scan()) == "RUNNING"
    _age(run, 3600.0)
    assert state(seen, Scan()) == "RUNNING", "not before we have watched for a while"
    monkeypatch.setattr(elsewhere, "WATCHED_SECONDS", 0.0)
    assert state(seen, Scan()) == "PLANNED"
    run.metrics(1).write_text("{}\n")
    assert state(seen, Scan()) == "RUNNING"


def test_one_that_was_quiet_for_a_day_is_dead_at_the_first_look(run: RunDir, spec: RunSpec) -> None:
    _age(run, 86_400.0)
    assert state(Runs(run.path.parent, {run_id(spec): spec}), Scan()) == "PLANNED"


def _age(run: RunDir, seconds: float) -> None:
    for path in run.path.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_clock_that_runs_ahead_there_keeps_nothing_alive_for_ever(
    run: RunDir, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(run.path / "attempt.1.json", (time.time() + 1e6,) * 2)
    seen = Runs(run.path.parent, {run_id(spec): spec})
    assert state(seen, Scan()) == "RUNNING"
    monkeypatch.setattr(elsewhere, "QUIET_SECONDS", 1e-9)
    assert state(seen, Scan()) == "PLANNED"


def test_a_scheduler_knows_its_own_jobs_better(run: RunDir, spec: RunSpec) -> None:
    everywhere = Scan(everywhere=True)
    record = Record(jobs=[Job(JOB, "trials", ((run_id(spec), 1),), 1, 0.0)])
    assert state(Runs(run.path.parent, {run_id(spec): spec}), everywhere, record) == "PLANNED"
    over = replace(everywhere, ended={JOB: Ended("node_failure", "Slurm says NODE_FAIL")})
    assert state(Runs(run.path.parent, {run_id(spec): spec}), over) == "PLANNED"
    # Another study's, that is no job of this scheduler.
    assert state(Runs(run.path.parent, {run_id(spec): spec}), everywhere) == "RUNNING"


def on_another_host(command: CommandLine, *arguments: str) -> "subprocess.Popen[str]":
    drive = str(Path(__file__).with_name("drive.py"))
    return subprocess.Popen(
        [*HOST, COMMAND, sys.executable, drive, *arguments],
        env=command.environment | {"FAKE_SECONDS": "1", "TEST_QUIET_SECONDS": "6"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_driver_on_another_host_doubles_what_lives_and_takes_up_what_died(
    quick: CommandLine,
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*HOST, "true"]).returncode:
        pytest.skip("a host of its own cannot be made here: that needs unshare and root")
    few = ("designs=({'kind': 'grid', 'budgets': (1e12, 4e12)},)", HOLD)
    with quick.start("launch", str(quick.study), *few, FAKE_SECONDS="8") as first:
        until(lambda: len(under_way(quick.home)) >= 2)
        first.kill()
    victim, _ = kill_under_way(quick.home)
    with on_another_host(quick, "launch", str(quick.study), *few) as second:
        said, _ = second.communicate(timeout=100)
    assert second.returncode == 0, said
    tried = {run.path.name: starts(run) for run in runs(quick.home)}
    assert tried.pop(victim.path.name) == 2
    assert set(tried.values()) == {1}
    assert {run.attempts()[-1].host for run in runs(quick.home)} >= {"elsewhere"}

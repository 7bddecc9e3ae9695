"""Which jobs are started next, and what becomes of jobs that do nothing."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_trainer
import pytest
from rich.console import Console

from sweeper import driver
from sweeper.designs import expand
from sweeper.driver import Driver, Request, next_jobs
from sweeper.errors import JobsFailed
from sweeper.folders import StudyDir
from sweeper.jobs import Scan
from sweeper.ledger import Job, read
from sweeper.runs import RunView
from sweeper.speed import Speed
from sweeper.study import Cluster, Study
from sweeper.watch import Display
from train.config import ParallelConfig, RunSpec, State, run_id
from train.runlog import RunDir

SPEED = Speed()
TWO = Cluster(workers=2)


def seen(spec: RunSpec, state: State = "PLANNED", attempts: int = 0) -> RunView:
    return RunView(run_id(spec), spec, state, attempts)


@pytest.fixture
def specs(study: Study) -> list[RunSpec]:
    return list({p.run_id: p.spec for p in expand(study)}.values())


def live(world_size: int = 1) -> Job:
    return Job("swp-0-0001", "trials", (), world_size, 0.0)


def test_every_worker_gets_the_same_list_longest_first(specs: list[RunSpec]) -> None:
    first, second = next_jobs(map(seen, specs), [], TWO, SPEED)
    assert first == second
    by_id = {run_id(spec): spec for spec in specs}
    seconds = [SPEED.seconds(by_id[run]) for run, _ in first.grants]
    assert len(seconds) == len(specs)
    assert seconds == sorted(seconds, reverse=True)


def test_no_more_workers_start_than_there_are_runs(specs: list[RunSpec]) -> None:
    assert len(next_jobs([seen(specs[0])], [], TWO, SPEED)) == 1


def test_a_free_place_is_filled_while_runs_wait(specs: list[RunSpec]) -> None:
    waiting = [seen(spec, "QUEUED") for spec in specs]
    assert len(next_jobs(waiting, [live()], TWO, SPEED)) == 1
    assert next_jobs(waiting, [live(), live()], TWO, SPEED) == []


def test_nothing_starts_when_nothing_waits(specs: list[RunSpec]) -> None:
    states: list[State] = ["RUNNING", "DONE", "DIVERGED", "FAILED"]
    views = [seen(spec, state) for spec, state in zip(specs, states, strict=False)]
    assert next_jobs(views, [], TWO, SPEED) == []


def test_the_attempt_after_the_last_is_granted(specs: list[RunSpec]) -> None:
    (job,) = next_jobs([seen(specs[0], attempts=2)], [], TWO, SPEED)
    assert job.grants == ((run_id(specs[0]), 3),)


def wide(spec: RunSpec, dp: int) -> RunView:
    return seen(spec.model_copy(update={"parallel": ParallelConfig(dp=dp)}))


def test_a_run_of_several_processes_gets_a_job_of_its_own(specs: list[RunSpec]) -> None:
    run = wide(specs[0], 2)
    assert next_jobs([run], [], TWO, SPEED) == [Request(((run.run_id, 1),), 2)]


def test_a_run_of_several_processes_waits_for_room(specs: list[RunSpec]) -> None:
    assert next_jobs([wide(specs[0], 2)], [live()], TWO, SPEED) == []


def test_a_run_wider_than_all_workers_goes_alone(specs: list[RunSpec]) -> None:
    run = wide(specs[0], 4)
    assert next_jobs([run], [live()], TWO, SPEED) == []
    assert [job.world_size for job in next_jobs([run], [], TWO, SPEED)] == [4]


def test_jobs_that_begin_nothing_stop_the_driver_with_their_log(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(driver, "submit", lambda cluster, folder, *rest: started.append(folder))
    monkeypatch.setattr(driver, "scan", lambda home: Scan())
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    place = StudyDir(tmp_path, study.name)
    place.path.mkdir(parents=True)
    display = Display(Console(quiet=True), study.name, SPEED)
    failing = Driver(study, place, SPEED, display)
    specs = [p.spec for p in expand(study)]
    with pytest.raises(JobsFailed, match=r"3 jobs in a row ended before they began a run.*swp-"):
        failing.drive("trials", specs, lambda views: None)
    assert len(started) == 4


class Died(BaseException):
    """The driver's end at an instant of the test's choosing."""


def drive_in_this_process(
    study: Study,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    submit: Callable[[list[tuple[Path, int]], str], None],
) -> None:
    """Drive the trials with jobs that `submit(grants, job)` does at once, in this process."""

    def start(cluster: Cluster, job: Path, tasks: int, work: object, *args: Any) -> None:
        grants = [(folder / "runs" / run, attempt) for run, attempt in args[1]]
        submit(grants, job.name)

    monkeypatch.setattr(driver, "submit", start)
    monkeypatch.setattr(driver, "scan", lambda home: Scan(time=time.monotonic()))
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    place = StudyDir(folder, study.name)
    place.path.mkdir(parents=True, exist_ok=True)
    display = Display(Console(quiet=True), study.name, SPEED)
    specs = [p.spec for p in expand(study)]
    Driver(study, place, SPEED, display).drive("trials", specs, lambda views: None)


def work(grants: list[tuple[Path, int]], job: str) -> None:
    fake_trainer.work(grants, job, 1, 0, 1, 0, Path("unused"))


@pytest.mark.parametrize("begun", [0, 1, 5], ids=lambda n: f"{n} runs begun")
def test_a_driver_that_died_while_it_started_a_job_loses_and_doubles_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """With no run begun it died between the intent and the start."""

    def die(grants: list[tuple[Path, int]], job: str) -> None:
        work(grants[:begun], job)
        raise Died

    with pytest.raises(Died):
        drive_in_this_process(study, tmp_path, monkeypatch, die)
    drive_in_this_process(study, tmp_path, monkeypatch, work)
    found = [RunDir(path) for path in (tmp_path / "runs").iterdir()]
    assert len(found) == len({p.run_id for p in expand(study)})
    assert {len(run.attempts()) for run in found} == {1}
    assert all(run.result() for run in found)
    jobs = read(StudyDir(tmp_path, study.name).ledger).jobs
    assert len(jobs) == len({job.name for job in jobs}) == 3

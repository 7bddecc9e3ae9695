"""Which jobs are started next, and what becomes of jobs that do nothing."""

from collections.abc import Iterable
from pathlib import Path

import fake_trainer
import pytest
from at_once import AtOnce, Work
from rich.console import Console

from sweeper import driver
from sweeper.designs import expand
from sweeper.dispatch import Request, next_jobs
from sweeper.driver import Driver
from sweeper.errors import JobsFailed
from sweeper.folders import StudyDir
from sweeper.ledger import read
from sweeper.record import Job
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


def by_id(views: Iterable[RunView]) -> dict[str, RunView]:
    return {run.run_id: run for run in views}


@pytest.fixture
def specs(study: Study) -> list[RunSpec]:
    return list({p.run_id: p.spec for p in expand(study)}.values())


def live(world_size: int = 1) -> Job:
    return Job("swp-0-0001", "trials", (), world_size, 0.0)


def test_every_worker_gets_the_same_list_longest_first(specs: list[RunSpec]) -> None:
    first, second = next_jobs(by_id(map(seen, specs)), [], TWO, SPEED)
    assert first == second
    known = {run_id(spec): spec for spec in specs}
    seconds = [SPEED.seconds(known[run]) for run, _ in first.grants]
    assert len(seconds) == len(specs)
    assert seconds == sorted(seconds, reverse=True)


def test_no_more_workers_start_than_there_are_runs(specs: list[RunSpec]) -> None:
    assert len(next_jobs(by_id([seen(specs[0])]), [], TWO, SPEED)) == 1


def test_a_free_place_is_filled_while_runs_wait(specs: list[RunSpec]) -> None:
    waiting = [seen(spec, "QUEUED") for spec in specs]
    assert len(next_jobs(by_id(waiting), [live()], TWO, SPEED)) == 1
    assert next_jobs(by_id(waiting), [live(), live()], TWO, SPEED) == []


def test_nothing_starts_when_nothing_waits(specs: list[RunSpec]) -> None:
    states: list[State] = ["RUNNING", "DONE", "DIVERGED", "FAILED"]
    views = [seen(spec, state) for spec, state in zip(specs, states, strict=False)]
    assert next_jobs(by_id(views), [], TWO, SPEED) == []


def test_the_attempt_after_the_last_is_granted(specs: list[RunSpec]) -> None:
    (job,) = next_jobs(by_id([seen(specs[0], attempts=2)]), [], TWO, SPEED)
    assert job.grants == ((run_id(specs[0]), 3),)


def wide(spec: RunSpec, dp: int) -> RunView:
    return seen(spec.model_copy(update={"parallel": ParallelConfig(dp=dp)}))


def test_a_run_of_several_processes_gets_a_job_of_its_own(specs: list[RunSpec]) -> None:
    run = wide(specs[0], 2)
    assert next_jobs(by_id([run]), [], TWO, SPEED) == [Request(((run.run_id, 1),), 2)]


def test_a_run_of_several_processes_waits_for_room(specs: list[RunSpec]) -> None:
    assert next_jobs(by_id([wide(specs[0], 2)]), [live()], TWO, SPEED) == []


def test_a_run_wider_than_all_workers_goes_alone(specs: list[RunSpec]) -> None:
    run = wide(specs[0], 4)
    assert next_jobs(by_id([run]), [live()], TWO, SPEED) == []
    assert [job.world_size for job in next_jobs(by_id([run]), [], TWO, SPEED)] == [4]


def driving(study: Study, home: Path, work: Work) -> tuple[Driver, AtOnce]:
    """A driver whose jobs are done at once by `work`."""
    place = StudyDir(home, study.name)
    place.path.mkdir(parents=True, exist_ok=True)
    display = Display(Console(quiet=True), study.name, SPEED)
    backend = AtOnce(work)
    return Driver(study, place, SPEED, display, backend), backend


def test_jobs_that_begin_nothing_stop_the_driver_with_their_log(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    failing, backend = driving(study, tmp_path, lambda grants, job: None)
    specs = {p.run_id: p.spec for p in expand(study)}
    with pytest.raises(JobsFailed, match=r"3 jobs in a row ended before they began a run.*swp-"):
        failing.drive("trials", specs, lambda views: None)
    assert len(backend.started) == 3


class Died(BaseException):
    """The driver's end at an instant of the test's choosing."""


def drive_in_this_process(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    specs = {p.run_id: p.spec for p in expand(study)}
    driving(study, folder, work)[0].drive("trials", specs, lambda views: None)


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
    assert len(jobs) == len({job.name for job in jobs}) == (3 if begun else 2)

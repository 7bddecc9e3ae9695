"""The state of a run follows from its directory and the living jobs alone."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import fake_trainer
import pytest

from sweeper.designs import expand
from sweeper.jobs import Scan
from sweeper.record import Job, Record
from sweeper.runs import Files, Runs, progress, view
from sweeper.sight import by_id
from sweeper.study import Study
from sweeper.verdict import ATTEMPTS
from train.config import RunSpec, run_id
from train.runlog import Attempt, Cause, Failure, RunDir, create_run


@pytest.fixture
def spec(study: Study) -> RunSpec:
    return expand(study)[0].spec


def attempt(number: int, job: str = "swp-0-0001") -> Attempt:
    host = socket.gethostname()
    return Attempt(number=number, job=job, host=host, pid=1, world_size=1, started=0.0)


def failed(number: int, cause: Cause = "exception") -> Failure:
    return Failure(attempt=number, cause=cause, message="it broke")


def state(spec: RunSpec, files: Files, jobs: tuple[Job, ...] = (), lives: bool = False) -> str:
    granted = {grant for job in jobs for grant in job.grants}
    return view(run_id(spec), spec, files, granted, lives).state


def granting(spec: RunSpec, number: int) -> Job:
    return Job("swp-0-0002", "trials", ((run_id(spec), number),), 1, 0.0)


def test_a_run_that_nobody_has_is_planned(spec: RunSpec) -> None:
    assert state(spec, Files()) == "PLANNED"


def test_a_run_in_a_living_jobs_list_is_queued(spec: RunSpec) -> None:
    assert state(spec, Files(), (granting(spec, 1),)) == "QUEUED"


def test_a_grant_of_an_attempt_that_was_made_queues_nothing(spec: RunSpec) -> None:
    assert state(spec, Files(attempts=(attempt(1),)), (granting(spec, 1),)) == "PLANNED"


def test_a_run_whose_job_lives_is_running(spec: RunSpec) -> None:
    assert state(spec, Files(attempts=(attempt(1),)), lives=True) == "RUNNING"


def test_a_result_counts_whatever_became_of_its_job(spec: RunSpec) -> None:
    result = fake_trainer.result(spec, 1.0)
    for lives in (True, False):
        assert state(spec, Files(result, (attempt(1),)), lives=lives) == "DONE"


def test_a_divergence_is_a_result(spec: RunSpec) -> None:
    hot = spec.model_copy(update={"optim": spec.optim.model_copy(update={"lr": 9.0})})
    assert state(hot, Files(fake_trainer.result(hot, 1.0), (attempt(1),))) == "DIVERGED"


@pytest.mark.parametrize("cause", ATTEMPTS)
def test_a_run_is_tried_as_often_as_its_cause_allows(spec: RunSpec, cause: Cause) -> None:
    for number in range(1, ATTEMPTS[cause] + 1):
        attempts = tuple(attempt(n, f"job {n}") for n in range(1, number + 1))
        said = () if cause == "killed" else tuple(failed(n, cause) for n in range(1, number + 1))
        expected = "FAILED" if number == ATTEMPTS[cause] else "PLANNED"
        assert state(spec, Files(None, attempts, said)) == expected


def test_a_failed_run_says_why(spec: RunSpec) -> None:
    name = run_id(spec)
    seen = view(name, spec, Files(None, (attempt(1),), (failed(1),)), set(), lives=True)
    assert (seen.state, seen.message) == ("FAILED", "it broke")
    killed = Files(None, (attempt(1, "a"), attempt(2, "b"), attempt(3, "c")))
    message = view(name, spec, killed, set(), lives=False).message
    assert message == "killed: 3 attempts, the last: it ended without a word"


def test_an_interrupted_attempt_is_left_to_its_job_while_that_lives(spec: RunSpec) -> None:
    files = Files(None, (attempt(1),), (failed(1, "preempted"),))
    assert state(spec, files, lives=True) == "QUEUED"
    assert state(spec, files, lives=False) == "PLANNED"


def test_an_attempt_seen_after_the_scan_of_processes_is_not_taken_for_dead(
    spec: RunSpec, tmp_path: Path
) -> None:
    run = create_run(tmp_path, spec)
    runs = Runs(tmp_path / "runs", {run_id(spec): spec})
    scan = Scan(frozenset(), time.monotonic())
    run.claim(attempt(1))
    assert runs.look(Record(), scan)[run_id(spec)].state == "RUNNING"
    later = Scan(frozenset(), time.monotonic())
    assert runs.look(Record(), later)[run_id(spec)].state == "PLANNED"
    found = replace(later, names=frozenset({"swp-0-0001"}))
    assert runs.look(Record(), found)[run_id(spec)].state == "RUNNING"


def test_changes_are_seen_however_fast_they_follow(spec: RunSpec, tmp_path: Path) -> None:
    run = create_run(tmp_path, spec)
    runs = Runs(tmp_path / "runs", {run_id(spec): spec})
    seen = [runs.look(Record(), Scan())[run_id(spec)].attempts]
    for number in (1, 2):
        run.claim(attempt(number))
        seen.append(runs.look(Record(), Scan())[run_id(spec)].attempts)
    run.write_result(fake_trainer.result(spec, 1.0))
    assert seen == [0, 1, 2]
    assert runs.look(Record(), Scan())[run_id(spec)].state == "DONE"


def test_a_settled_directory_is_not_read_again(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(tmp_path, spec)
    run.write_result(fake_trainer.result(spec, 1.0))
    os.utime(run.path, (1.0, 1.0))
    runs = Runs(tmp_path / "runs", {run_id(spec): spec})
    runs.look(Record(), Scan())
    monkeypatch.setattr(RunDir, "result", lambda self: pytest.fail("read again"))
    assert runs.look(Record(), Scan())[run_id(spec)].state == "DONE"


def test_two_trials_of_one_run_are_one_run(study: Study, tmp_path: Path) -> None:
    planned = expand(study)
    runs = Runs(tmp_path, by_id(planned))
    assert list(runs.specs) == list(dict.fromkeys(p.run_id for p in planned))
    assert len(runs.specs) < len(planned)


def test_progress_is_the_last_whole_line(spec: RunSpec, tmp_path: Path) -> None:
    run = create_run(tmp_path, spec)
    assert progress(run, 1) is None
    lines = [f'{{"tokens": {n}, "loss": 2.5, "tokens_per_second": 10.0}}\n' for n in range(500)]
    run.metrics(1).write_text("".join(lines) + '{"tokens": 500, "lo')
    at = progress(run, 1)
    assert at is not None
    assert (at.tokens, at.loss) == (499, 2.5)

"""`logs`, on run and job folders as jobs leave them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import CommandLine
from observing import until

from sweeper.designs import expand
from sweeper.folders import StudyDir
from sweeper.ledger import Ledger
from sweeper.reading import log_files
from sweeper.study import Study
from sweeper.tailing import Tail
from train.logmarks import mark
from train.runlog import Attempt, Failure, RunDir, create_run

JOB = "swp-0123abcd-0001"
DRIVE = Path(__file__).with_name("drive.py")


@pytest.fixture
def run(command: CommandLine, study: Study) -> RunDir:
    """A run of a launched study, with nothing tried yet."""
    command.home.joinpath("studies", "small", "jobs", JOB).mkdir(parents=True)
    return create_run(command.home, expand(study)[0].spec)


def log(command: CommandLine, name: str = "77_0_log.out") -> Path:
    return command.home / "studies" / "small" / "jobs" / JOB / name


def claim(run: RunDir, number: int = 1, job: str = JOB, pid: int | None = None) -> None:
    here = socket.gethostname()
    attempt = Attempt(
        number=number, job=job, host=here, pid=pid or os.getpid(), world_size=1, started=1.0
    )
    assert run.claim(attempt)


def marked(run: RunDir, attempt: int, text: str) -> str:
    """What an attempt leaves in its job's log."""
    name = run.path.name
    return f"{mark(name, attempt, 'begins')}\n{text}{mark(name, attempt, 'ends')}\n"


def follow(run: RunDir) -> list[str]:
    return [sys.executable, "-u", str(DRIVE), "logs", run.path.name, "-f"]


@contextmanager
def kept(
    words: list[str], command: CommandLine | None = None, **streams: Any
) -> Iterator["subprocess.Popen[Any]"]:
    """A process that is gone at the end, whatever became of it."""
    environment = command.environment if command else None
    with subprocess.Popen(words, env=environment, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_failed_run_says_first_why_and_what_to_type(command: CommandLine, run: RunDir) -> None:
    claim(run)
    log(command).write_text(marked(run, 1, "what the job said\n"))
    failure = Failure(attempt=1, cause="exception", message="ValueError: 3", trace="File x, line 9")
    run.write_failure(failure)
    run.event("failed", attempt=1)
    code, said = command.run("logs", run.path.name)
    assert code == 0
    words = ["exception: ValueError: 3", "File x, line 9", "sweeper retry small", "what the job"]
    places = [said.index(word) for word in [*words, "failed attempt=1"]]
    assert places == sorted(places)


def test_an_attempt_of_its_own_is_shown_when_asked_for(command: CommandLine, run: RunDir) -> None:
    claim(run, 1, job="swp-0123abcd-0009")
    run.write_failure(Failure(attempt=1, cause="killed", message="signal 9"))
    claim(run, 2)
    log(command).write_text(marked(run, 2, "".join(f"line {n}\n" for n in range(50))))
    _, first = command.run("logs", run.path.name, "--attempt", "1")
    assert "attempt 1 of 2: killed: signal 9" in first
    assert "line 4" not in first
    _, latest = command.run("logs", run.path.name, "--lines", "2")
    assert "line 48\nline 49\n" in latest
    assert "line 47" not in latest
    code, said = command.run("logs", run.path.name, "--attempt", "3")
    assert (code, "has the attempts 1, 2" in said) == (2, True)


def test_a_run_that_was_never_tried_says_so(command: CommandLine, run: RunDir) -> None:
    code, said = command.run("logs", run.path.name)
    assert code == 2
    assert "was never tried" in said


def test_a_job_is_shown_by_its_name(command: CommandLine, run: RunDir) -> None:
    log(command).write_text("what the job said\n")
    log(command, "77_0_log.err").write_text("a warning\n")
    code, said = command.run("logs", JOB)
    assert code == 0
    assert said.index("what the job said") < said.index("a warning")
    assert command.run("logs", "swp-00000000-0001")[0] == 2


def test_an_element_of_an_array_has_its_own_files_alone(command: CommandLine, run: RunDir) -> None:
    for name in ("80_1_0_log.out", "80_11_0_log.out", "80_2_0_log.out", "80_1_0_log.err"):
        log(command, name).write_text(name)
    found = [path.name for path in log_files(command.home, f"{JOB}_1")]
    assert found == ["80_1_0_log.out", "80_1_0_log.err"]
    assert len(log_files(command.home, JOB)) == 4


@pytest.mark.slow
def test_following_shows_what_comes_until_the_run_ends_and_costs_no_processor(
    command: CommandLine, run: RunDir, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    with kept([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        claim(run, pid=worker.pid)
        with said.open("w") as out, kept(follow(run), command, stdout=out) as reader:
            until(lambda: "running" in said.read_text())
            begins = mark(run.path.name, 1, "begins")
            log(command).write_text(f"{begins}\nfirst\n")  # the file appears only now
            until(lambda: "first" in said.read_text())
            log(command).unlink()
            log(command).write_text("second\n")  # and another takes its place, mid-way
            until(lambda: "second" in said.read_text())
            before = psutil.Process(reader.pid).cpu_times().user
            time.sleep(3)  # what is measured is that nothing happens
            assert psutil.Process(reader.pid).cpu_times().user - before < 0.5
            run.write_failure(Failure(attempt=1, cause="exception", message="the end"))
            assert reader.wait(timeout=10) == 0
    assert said.read_text().count("first") == 1
    assert said.read_text().rindex("the end") > said.read_text().index("second")


def test_of_a_log_that_runs_share_each_is_shown_its_own_part(
    command: CommandLine, study: Study, run: RunDir
) -> None:
    other = create_run(
        command.home, next(p.spec for p in expand(study) if p.run_id != run.path.name)
    )
    claim(run)
    claim(other)
    parts = [marked(other, 1, "of the other\n"), marked(run, 1, "of this one\n"), "of the job\n"]
    log(command).write_text("".join(parts))
    claim(run, 2)
    with log(command).open("a") as file:
        # Killed: it left no mark at its end.
        file.write(f"{mark(run.path.name, 2, 'begins')}\nof its second attempt\n")
    said = {number: command.run("logs", run.path.name, "--attempt", number)[1] for number in "12"}
    assert "of this one" in said["1"]
    assert "of its second attempt" in said["2"]
    assert not any(of in said["1"] for of in ("the other", "the job", "second attempt"))
    assert not any(of in said["2"] for of in ("the other", "the job", "this one"))
    _, whole = command.run("logs", JOB)
    assert all(of in whole for of in ("the other", "this one", "the job", "second attempt"))


@pytest.mark.slow
def test_following_ends_when_the_tries_are_used_up_or_somebody_decides(
    command: CommandLine, run: RunDir, tmp_path: Path
) -> None:
    for number in (1, 2):
        claim(run, number)
        run.write_failure(Failure(attempt=number, cause="killed", message="signal 9"))
    said = tmp_path / "said"
    with said.open("w") as out, kept(follow(run), command, stdout=out) as reader:
        until(lambda: "waiting for the next attempt" in said.read_text())
        claim(run, 3)
        run.write_failure(Failure(attempt=3, cause="killed", message="signal 9"))
        assert reader.wait(timeout=20) == 0
    assert "== FAILED: killed: 3 attempts, the last: signal 9" in said.read_text()
    assert "sweeper retry small" in said.read_text()
    name, ledger = run.path.name, Ledger(StudyDir(command.home, "small").ledger)
    ledger.append({"event": "retry", "run": name, "cause": "by hand", "after": 3})
    with said.open("w") as out, kept(follow(run), command, stdout=out) as reader:
        until(lambda: "waiting for the next attempt" in said.read_text())
        ledger.append(
            {"event": "stop", "run": name, "state": "CANCELLED", "cause": "by hand", "after": 3}
        )
        assert reader.wait(timeout=20) == 0
    assert "== CANCELLED: by hand" in said.read_text()


@pytest.mark.slow
def test_following_goes_over_to_the_next_attempt(
    command: CommandLine, run: RunDir, tmp_path: Path
) -> None:
    claim(run, 1)
    run.write_failure(Failure(attempt=1, cause="preempted", message="by the scheduler"))
    said = tmp_path / "said"
    with said.open("w") as out, kept(follow(run), command, stdout=out) as reader:
        until(lambda: "waiting for the next attempt" in said.read_text())
        claim(run, 2)
        run.write_failure(Failure(attempt=2, cause="exception", message="the end"))
        assert reader.wait(timeout=10) == 0
    assert "attempt 2 of 2: exception: the end" in said.read_text()


def test_a_tail_takes_a_torn_line_when_it_is_whole_and_the_rest_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with closing(Tail(path)) as tail:
        assert list(tail.new()) == []
        path.write_bytes(b"one\ntw")
        assert list(tail.new()) == ["one"]
        with path.open("ab") as file:
            file.write(b"o\nthree \xff")
        assert list(tail.new()) == ["two"]
        assert list(tail.end()) == ["three \ufffd"]


def test_the_last_lines_of_a_long_file_are_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{n}\n" for n in range(400_000)))
    with closing(Tail(path)) as tail:
        assert tail.last(3) == ["399997", "399998", "399999"]
        assert list(tail.new()) == []

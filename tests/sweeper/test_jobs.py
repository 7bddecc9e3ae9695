"""Jobs on this machine outlive whoever started them, and are alive while a process of theirs is."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sweeper.local import PROCESS, living

TASK = "submitit.core._submit"
START = """
import sys
from pathlib import Path
from sweeper.jobs import Order
from sweeper.local import LocalJobs
from sweeper.record import Job
from sweeper.study import LOCAL

def wait(folder, seconds):
    import os, time
    rank = os.environ["SUBMITIT_LOCAL_GLOBALID"]
    (Path(folder) / f"began.{rank}").touch()
    time.sleep(seconds)
    (Path(folder) / f"ended.{rank}").touch()

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
job = Job(folder.name, "trials", (), int(sys.argv[2]), 0.0)
LocalJobs(LOCAL, folder.parents[3]).submit(Order(job, folder, wait, [(float(sys.argv[3]),)]))
"""


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder below a home with a space and a quote in its name."""
    return tmp_path / "the home's" / "studies" / "small" / "jobs" / "swp-0123abcd-0001"


def start(folder: Path, tasks: int, seconds: float) -> None:
    """Start a job from a process that is gone when this returns."""
    subprocess.run([sys.executable, "-c", START, str(folder), str(tasks), str(seconds)], check=True)
    until(lambda: len(list(folder.glob("began.*"))) == tasks)


def home(folder: Path) -> Path:
    return folder.parents[3]


def tasks(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if (p.info["cmdline"] or [])[-2:] == [TASK, str(folder)]]


def test_a_job_outlives_its_starter_and_is_found_by_its_name(folder: Path) -> None:
    start(folder, tasks=2, seconds=0.5)
    assert set(living(home(folder))) == {folder.name}
    until(lambda: not set(living(home(folder))))
    assert sorted(path.name for path in folder.glob("ended.*")) == ["ended.0", "ended.1"]


def test_a_job_ignores_what_a_terminal_sends(folder: Path) -> None:
    start(folder, tasks=1, seconds=0.7)
    for process in tasks(folder):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            process.send_signal(number)
    until(lambda: (folder / "ended.0").exists())


def test_a_job_whose_process_was_killed_is_gone(folder: Path) -> None:
    start(folder, tasks=1, seconds=60)
    tasks(folder)[0].kill()
    until(lambda: not set(living(home(folder))))


def test_jobs_of_another_home_are_not_found(folder: Path) -> None:
    start(folder, tasks=1, seconds=0.3)
    assert living(home(folder) / "elsewhere") == {}
    until(lambda: not set(living(home(folder))))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python -m submitit.local._local /h/studies/s/jobs/swp-0f-0001", "swp-0f-0001"),
        ("python -u -m submitit.core._submit /h/studies/s/jobs/swp-0f-00010", "swp-0f-00010"),
        ("sh -c trap && python -m submitit.local._local '/h/studies/s/jobs/swp-0f-0001'",
         "swp-0f-0001"),
        ("tail -f /h/studies/s/jobs/swp-0f-0001/1_0_log.err", None),
        ("vi submitit.core._submit /h/studies/s/jobs/swp-0f-0001/log", None),
    ],
)  # fmt: skip
def test_only_the_processes_of_a_job_count(command: str, name: str | None) -> None:
    match = PROCESS.search(command)
    assert (match[2] if match else None) == name

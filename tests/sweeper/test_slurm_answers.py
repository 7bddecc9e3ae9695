"""What is concluded from Slurm's answers, and from its silence; its commands are stood in for."""

import stat
from pathlib import Path

import pytest

from sweeper import slurm
from sweeper.cluster import Slurm
from sweeper.jobs import Ended
from sweeper.record import Job
from sweeper.slurm import SlurmJobs
from sweeper.slurm_queue import parse_queue

JOB = Job("swp-0a-0001", "trials", (("r", 1),), 1, 0.0, scheduler_id="7")
ARRAY = Job("swp-0a-0002", "trials", (("r", 1), ("s", 1)), 1, 0.0, 2, scheduler_id="8")
# Each prints what lies in the file of its name, or fails; and notes that it was called.
PROGRAM = """\
#!/bin/sh
here=$(dirname "$0")
name=$(basename "$0")
echo "$name $*" >> "$here/calls"
[ -e "$here/$name.says" ] || { echo "$name: no answer" >&2; exit 1; }
cat "$here/$name.says"
"""


class Stand:
    """A folder with programs in the place of Slurm's, and the time as the backend sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        folder.mkdir()
        for name in ("squeue", "sacct", "sbatch", "scontrol", "scancel"):
            (folder / name).write_text(PROGRAM)
            (folder / name).chmod(stat.S_IRWXU)

    def says(self, name: str, text: str | None) -> None:
        """What a command answers from now on; None for a failure."""
        path = self.folder / f"{name}.says"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    def calls(self, name: str) -> int:
        lines = (self.folder / "calls").read_text().splitlines()
        return sum(line.startswith(f"{name} ") for line in lines)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm.time, "monotonic", lambda: made.now)
    made.says("scontrol", "")
    return made


@pytest.fixture
def jobs(stand: Stand, tmp_path: Path) -> SlurmJobs:
    return SlurmJobs(Slurm(), tmp_path)


def later(
    stand: Stand, jobs: SlurmJobs, seconds: float, job: Job = JOB
) -> tuple[bool, Ended | None]:
    """Whether a job lives in a scan so much later, and how it ended."""
    stand.now += seconds
    scan = jobs.scan([job])
    return job.name in scan.names, scan.ended.get(job.name)


def row(state: str, number: str = "7", name: str = JOB.name, why: str = "None") -> str:
    return f"{number}|{name}|{state}|{why}|n1\n"


def test_elements_are_told_apart_and_those_that_never_began_are_one_row() -> None:
    text = row("RUNNING", "8_0", ARRAY.name) + row("PENDING", "8_[1-9]", ARRAY.name)
    assert set(parse_queue(text)) == {f"{ARRAY.name}_0", f"{ARRAY.name}_rest"}
    assert parse_queue(row("CANCELLED by 0"))[JOB.name].state == "CANCELLED"
    assert parse_queue("garbage\n\n") == {}


@pytest.mark.parametrize(
    ("state", "seconds", "cause"),
    [
        ("FAILED", slurm.SURE_SECONDS, "killed"),
        ("TIMEOUT", slurm.SURE_SECONDS, "timeout"),
        ("OUT_OF_MEMORY", slurm.SURE_SECONDS, "out_of_memory"),
        ("NODE_FAIL", slurm.REQUEUED_SECONDS, "node_failure"),
        ("PREEMPTED", slurm.REQUEUED_SECONDS, "preempted"),
    ],
)
def test_an_end_is_believed_when_it_was_seen_for_long_enough(
    stand: Stand, jobs: SlurmJobs, state: str, seconds: float, cause: str
) -> None:
    stand.says("squeue", row(state))
    assert later(stand, jobs, 0) == (True, None)
    assert later(stand, jobs, seconds - 1) == (True, None)
    lives, ended = later(stand, jobs, 2)
    assert (lives, ended and ended.cause, ended and ended.node) == (False, cause, "n1")


def test_what_is_queued_again_was_never_over(stand: Stand, jobs: SlurmJobs) -> None:
    for state in ("NODE_FAIL", "PENDING", "NODE_FAIL"):
        stand.says("squeue", row(state))
        assert later(stand, jobs, slurm.REQUEUED_SECONDS - 1) == (True, None)


def test_suspended_jobs_live(stand: Stand, jobs: SlurmJobs) -> None:
    for state in ("SUSPENDED", "CONFIGURING", "COMPLETING", "STOPPED", "SIGNALING"):
        stand.says("squeue", row(state))
        assert later(stand, jobs, 1e4) == (True, None)


def test_a_controller_that_is_silent_kills_nothing_and_its_silence_makes_no_doubt_surer(
    stand: Stand, jobs: SlurmJobs
) -> None:
    stand.says("squeue", row("RUNNING"))
    later(stand, jobs, 0)
    stand.says("squeue", "")
    assert later(stand, jobs, 1) == (True, None)
    stand.says("squeue", None)
    assert later(stand, jobs, 1e4) == (True, None)
    (note,) = jobs.scan([JOB]).notes
    assert "Slurm does not answer for" in note
    assert "squeue: no answer" in note
    stand.says("squeue", "")
    assert later(stand, jobs, slurm.SURE_SECONDS - 1) == (True, None)
    assert later(stand, jobs, 2)[0] is False


def test_what_squeue_forgot_is_asked_of_accounting(stand: Stand, jobs: SlurmJobs) -> None:
    stand.says("squeue", "")
    stand.says("sacct", row("NODE_FAIL"))
    later(stand, jobs, 0)
    lives, ended = later(stand, jobs, slurm.SURE_SECONDS)
    assert (lives, ended and ended.cause) == (False, "node_failure")


def test_without_accounting_it_is_over_with_its_end_unknown_and_is_asked_for_once_a_minute(
    stand: Stand, jobs: SlurmJobs
) -> None:
    stand.says("squeue", "")
    stand.says("sacct", None)
    later(stand, jobs, 0)
    assert later(stand, jobs, slurm.SURE_SECONDS) == (False, None)
    for _ in range(5):
        assert later(stand, jobs, 1.0) == (False, None)
    assert stand.calls("sacct") == 1
    stand.says("sacct", row("TIMEOUT"))
    lives, ended = later(stand, jobs, slurm.ACCOUNTING_SECONDS)
    assert (lives, ended and ended.cause) == (False, "timeout")
    assert stand.calls("sacct") == 2


def test_accounting_that_says_it_was_cancelled_before_it_began_is_believed(
    stand: Stand, jobs: SlurmJobs
) -> None:
    stand.says("squeue", "")
    stand.says("sacct", row("CANCELLED by 0", "8_[0-1]", ARRAY.name))
    later(stand, jobs, 0, ARRAY)
    stand.now += slurm.SURE_SECONDS
    ended = jobs.scan([ARRAY]).ended
    assert {name: end.cause for name, end in ended.items()} == dict.fromkeys(
        ARRAY.names, "cancelled"
    )


def test_a_job_that_was_meant_may_be_on_its_way_for_a_while(stand: Stand, jobs: SlurmJobs) -> None:
    meant = Job("swp-0a-0003", "trials", (("r", 1),), 1, 0.0)
    stand.says("squeue", "")
    stand.says("sacct", "")
    later(stand, jobs, 0, meant)
    assert later(stand, jobs, slurm.MEANT_SECONDS - 1, meant) == (True, None)
    assert later(stand, jobs, 2, meant) == (False, None)


def test_what_was_requeued_is_hastened_once_for_all(
    stand: Stand, jobs: SlurmJobs, tmp_path: Path
) -> None:
    waits = row("PENDING", "8_0", ARRAY.name, "BeginTime") + row("PENDING", why="BeginTime")
    before = stand.calls("scontrol")

    def scanned(text: str) -> int:
        stand.says("squeue", text)
        jobs.hasten(jobs.scan([JOB, ARRAY]).held)
        return stand.calls("scontrol") - before

    assert [scanned(waits), scanned(waits)] == [1, 1]
    assert "update JobId=7,8_0 StartTime=now" in (stand.folder / "calls").read_text()
    assert scanned(row("PENDING", why="Resources")) == 1
    assert scanned(row("PENDING", why="BeginTime")) == 2
    meant = SlurmJobs(Slurm(extra={"begin": "22:00"}), tmp_path)
    count = stand.calls("scontrol")
    meant.hasten(meant.scan([JOB, ARRAY]).held)
    assert stand.calls("scontrol") == count, "its own time was asked for"

"""An interrupted job asks Slurm to start it again, where it is still meant to run."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.requeue import job_id

PROGRAM = """\
import signal
from sweeper import requeue
signal.signal(signal.SIGTERM, lambda *_: None)
requeue.END_SECONDS = 600.0
print(requeue.requeue(), flush=True)
"""
SCONTROL = """\
#!/bin/sh
echo "$*" >> "$CALLS"
[ -n "$REFUSES" ] && { echo "Unable to contact slurm controller" >&2; exit 1; }
[ "$1" = show ] && echo "JobId=7 JobName=swp JobState=$STATE Reason=None Requeue=1"
[ "$1" = requeue ] && kill -TERM $PPID
exit 0
"""


@pytest.fixture
def scontrol(tmp_path: Path) -> Path:
    """A folder with a scontrol that notes its calls, and signals who asks for a requeue."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(SCONTROL)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program.parent


def ask(folder: Path, **environment: str) -> tuple[int, str, list[str]]:
    """Exit status, what was said, and the calls of scontrol."""
    calls = folder / "calls"
    here = os.environ | {"PATH": f"{folder}:/bin:/usr/bin", "CALLS": str(calls)} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=here, capture_output=True, text=True, timeout=60
    )
    return (
        done.returncode,
        done.stdout.strip(),
        calls.read_text().splitlines() if calls.exists() else [],
    )


def test_a_running_job_is_requeued_and_ends_by_slurms_signal(scontrol: Path) -> None:
    status, said, calls = ask(scontrol, SLURM_JOB_ID="7", STATE="RUNNING")
    assert (status, said, calls) == (0, "True", ["show job -o 7", "requeue 7"])


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED", "TIMEOUT", ""])
def test_a_job_that_is_ending_is_left_alone(scontrol: Path, state: str) -> None:
    status, said, calls = ask(scontrol, SLURM_JOB_ID="7", STATE=state)
    assert (status, said, calls) == (0, "False", ["show job -o 7"])


def test_a_controller_that_does_not_answer_changes_nothing(scontrol: Path) -> None:
    status, said, _ = ask(scontrol, SLURM_JOB_ID="7", REFUSES="1")
    why = "scontrol show job -o 7: Unable to contact slurm controller"
    assert (status, said.splitlines()) == (0, [why, "False"])


def test_outside_slurm_nothing_is_asked(scontrol: Path) -> None:
    assert ask(scontrol) == (0, "False", [])
    (scontrol / "scontrol").unlink()
    status, said, calls = ask(scontrol, SLURM_JOB_ID="7")
    assert (status, said.splitlines()[-1], calls) == (0, "False", [])


def test_an_element_of_an_array_asks_for_itself() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "9"}
    assert job_id(array) == "7_3"
    assert job_id({"SLURM_JOB_ID": "9"}) == "9"
    assert job_id({}) is None

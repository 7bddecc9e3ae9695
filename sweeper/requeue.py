"""Asking Slurm to start this job again after it was interrupted; runs inside the job.

Slurm requeues by itself what it preempts, and nothing that ran out of its time.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping

ANSWER_SECONDS = 60  # a controller that restarts answers late
END_SECONDS = 60.0  # from the request to the end of this process


def job_id(environment: Mapping[str, str]) -> str | None:
    """The Slurm job that this process belongs to, an array's element by its own name; or None."""
    array, element = (environment.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{element}" if array and element else environment.get("SLURM_JOB_ID")


def requeue() -> bool:
    """Have this job started again where it is still meant to run; True where Slurm agreed.

    One that was cancelled or is ending is left alone. Comes back when Slurm wants the job to end.
    """
    job = job_id(os.environ)
    if job is None or shutil.which("scontrol") is None or _state(job) != "RUNNING":
        return False
    # Held, not handled: Slurm's signal may come before its answer does.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if _scontrol("requeue", job) is None:
        return False
    signal.sigtimedwait([signal.SIGTERM], END_SECONDS)
    return True


def _state(job: str) -> str:
    """Slurm's word for the job, or nothing where it does not answer."""
    match = re.search(r"\bJobState=(\w+)", _scontrol("show", "job", "-o", job) or "")
    return match[1] if match else ""


def _scontrol(*arguments: str) -> str | None:
    """What scontrol prints, or None where it refuses or does not answer."""
    try:
        done = subprocess.run(
            ("scontrol", *arguments),
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"scontrol {' '.join(arguments)}: {error}", flush=True)
        return None
    if done.returncode != 0:
        print(f"scontrol {' '.join(arguments)}: {done.stderr.strip()}", flush=True)
        return None
    return done.stdout

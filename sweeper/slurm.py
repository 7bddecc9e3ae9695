"""Jobs of Slurm: submitted through submitit, watched by one question to squeue for all of them.

submitit's own word on a job is not used: it takes a requeued job for finished and a forgotten one
for running. A job lives while squeue shows it; that it does not is believed when seen twice.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeper.cluster import SIGNAL_SECONDS, Slurm
from sweeper.errors import UserError
from sweeper.jobs import Ended, Order, Refused, Scan, only_environment, passed
from sweeper.local import living
from sweeper.record import Job
from sweeper.slurm_queue import REST, Row, ask, held_back, parse_queue, stuck
from train.runlog import Cause

# A state that is over must be seen so again after this long; after some of them Slurm starts the
# job again, and shows it as over for seconds in between.
SURE_SECONDS = 5.0
REQUEUED_SECONDS = 30.0
# A job that was meant and never seen may still be on its way.
MEANT_SECONDS = 30.0
ACCOUNTING_SECONDS = 60.0
FOREVER = 10**6

OVER: Mapping[str, Cause | str] = {
    "BOOT_FAIL": "node_failure",
    "CANCELLED": "cancelled",
    "COMPLETED": "killed",
    "DEADLINE": "timeout",
    "FAILED": "killed",
    "NODE_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory",
    "PREEMPTED": "preempted",
    "REVOKED": "killed",
    "TIMEOUT": "timeout",
}
MAY_COME_BACK = ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL")
PASSING = re.compile(
    r"QOSMax|AssocMax|AssocGrp|MaxSubmit|MaxJobCount|limit|Unable to contact|timed out|"
    r"temporarily|try again|Resource",
    re.IGNORECASE,
)


def nodes_of(world_size: int, tasks_per_node: int) -> int:
    """Nodes for so many processes."""
    return math.ceil(world_size / tasks_per_node)


class SlurmJobs:
    """The jobs of one study on Slurm, as its driver or a reader sees them."""

    chains = True

    def __init__(self, cluster: Slurm, home: Path) -> None:
        if shutil.which("sbatch") is None:
            raise UserError(
                "cluster slurm, but there is no sbatch here; run this on a login node, or use "
                "--cluster local"
            )
        self.cluster = cluster
        self.home = home
        self.scan_seconds = cluster.poll_seconds
        self.array_size = _array_size()
        self._doubts: dict[str, tuple[float, Row | None]] = {}
        self._alive: frozenset[str] = frozenset()
        self._asked_accounting = -math.inf
        self._silent_since = math.inf
        self._hastened: frozenset[str] = frozenset()

    def submit(self, order: Order) -> str:
        """One sbatch, whatever the number of elements. Raises Refused with Slurm's reason."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        python = f"{self.cluster.container} {shlex.quote(sys.executable)}".strip()
        executor = submitit.SlurmExecutor(
            folder=order.folder, python=python, max_num_timeout=FOREVER
        )
        executor.update_parameters(**parameters(self.cluster, order))
        folder = str(order.folder)
        try:
            with only_environment(environment(self.cluster, os.environ)):
                if len(order.arguments) == 1:
                    job = executor.submit(order.function, folder, *order.arguments[0])
                else:
                    columns = zip(*order.arguments, strict=True)
                    folders = [folder] * len(order.arguments)
                    job = executor.map_array(order.function, folders, *columns)[0]
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(str(error).split())
            raise Refused(said, passing=bool(PASSING.search(said))) from error
        self._alive |= frozenset(order.job.names)
        return str(job.job_id).partition("_")[0]

    def scan(self, jobs: Sequence[Job]) -> Scan:
        """The living elements of these jobs and of processes here; what is in doubt counts."""
        here = frozenset(living(self.home))
        if not jobs:
            return Scan(here, time.monotonic(), everywhere=True)
        now = time.monotonic()
        names = ",".join(sorted({job.name.partition("_")[0] for job in jobs}))
        try:
            text = ask("squeue", "-h", "-r", "-t", "all", "--name", names, "-o", "%i|%j|%T|%r|%N")
        except (OSError, subprocess.SubprocessError) as error:
            return self._unanswered(here, now, str(error))
        self._silent_since = math.inf
        rows = parse_queue(text)
        gone = self._gone(jobs, rows, now)
        self._alive = frozenset(
            name for job in jobs for name in job.names if name not in gone and not job.refused
        )
        ended = {name: _ended(row) for name, row in self._accounted(gone, now).items() if row}
        notes = tuple(stuck(rows))
        return Scan(here | self._alive, now, ended, notes, held_back(rows), everywhere=True)

    def cancel(self, jobs: Sequence[Job], names: Collection[str]) -> None:
        """scancel: a signal first, the kill later. Raises Refused where Slurm does not answer."""
        ids = [
            f"{job.scheduler_id}_{index}" if job.elements > 1 else job.scheduler_id
            for job in jobs
            for index, name in enumerate(job.names)
            if name in names and job.scheduler_id
        ]
        try:
            if ids:
                ask("scancel", "--quiet", *ids)
        except (OSError, subprocess.SubprocessError) as error:
            raise Refused(f"scancel: {error}", passing=True) from error

    def hasten(self, held: frozenset[str]) -> None:
        """Have what was requeued start as soon as it may, once for all that is held now.

        Slurm holds it back for the life of its old credential, 120 s unless the site says
        otherwise, and lets the owner change that. A refusal is not repeated.
        """
        new = held - self._hastened
        if new and "begin" not in self.cluster.extra:
            with suppress(OSError, subprocess.SubprocessError):
                ask("scontrol", "update", f"JobId={','.join(sorted(new))}", "StartTime=now")
        self._hastened = held

    def _unanswered(self, here: frozenset[str], now: float, why: str) -> Scan:
        self._silent_since = min(self._silent_since, now)
        for name, (_, row) in list(self._doubts.items()):
            # Time in which nobody could look does not make a doubt any surer.
            self._doubts[name] = (now, row)
        minutes = (now - self._silent_since) / 60
        note = f"Slurm does not answer for {minutes:.0f} min: {why.splitlines()[0]}; jobs go on"
        return Scan(here | self._alive, now, notes=(note,), everywhere=True)

    def _gone(
        self, jobs: Sequence[Job], rows: Mapping[str, Row], now: float
    ) -> dict[str, Row | None]:
        """The elements that were seen to be over, or not at all, for long enough."""
        gone: dict[str, Row | None] = {}
        for job in jobs:
            for name in job.names:
                row = rows.get(name, rows.get(f"{job.name}_{REST}"))
                if row is not None and row.state not in OVER:
                    self._doubts.pop(name, None)
                    continue
                since, _ = self._doubts.setdefault(name, (now, row))
                if now - since >= _patience(job, row):
                    gone[name] = row
        return gone

    def _accounted(self, gone: dict[str, Row | None], now: float) -> dict[str, Row | None]:
        """How elements ended that squeue has forgotten, as sacct knows it; asked once a minute."""
        forgotten = {name for name, row in gone.items() if row is None}
        if not forgotten or now - self._asked_accounting < ACCOUNTING_SECONDS:
            return gone
        self._asked_accounting = now
        names = ",".join(sorted({name.partition("_")[0] for name in forgotten}))
        fields = "JobID,JobName,State,ExitCode,NodeList"
        try:
            text = ask(
                *("sacct", "-X", "-P", "-n", "-S", "now-30days", "--name", names, "-o", fields)
            )
        except (OSError, subprocess.SubprocessError):
            return gone
        said = parse_queue(text)
        rest = {name: f"{name.partition('_')[0]}_{REST}" for name in forgotten}
        return gone | {name: said.get(name, said.get(rest[name])) for name in forgotten}


def _patience(job: Job, row: Row | None) -> float:
    if row is None and not job.scheduler_id:
        return MEANT_SECONDS
    return REQUEUED_SECONDS if row and row.state in MAY_COME_BACK else SURE_SECONDS


def _ended(row: Row) -> Ended:
    cause: Any = OVER.get(row.state, "killed")
    node = f" on {row.node}" if row.node else ""
    return Ended(cause, f"Slurm says {row.state}{node}", row.node)


def _array_size() -> int:
    """The site's MaxArraySize; Slurm's default of 1001 where it does not say."""
    try:
        text = ask("scontrol", "show", "config")
    except (OSError, subprocess.SubprocessError):
        text = ""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 1001


def environment(cluster: Slurm, own: Mapping[str, str]) -> dict[str, str]:
    """The variables of a job, its time limit among them: not every Slurm tells it to jobs."""
    limit = {"SWEEPER_JOB_MINUTES": str(cluster.minutes)}
    return passed(own, cluster.environment) | limit


def parameters(cluster: Slurm, order: Order) -> dict[str, Any]:
    """submitit's parameters of a job; pure."""
    size = order.job.world_size
    nodes = nodes_of(size, cluster.tasks_per_node)
    exclude = ",".join(dict.fromkeys([*cluster.exclude, *order.exclude]))
    extra: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.extra}
    given = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "gres": cluster.gres,
        "cpus_per_task": cluster.cpus_per_task,
        "gpus_per_node": cluster.gpus_per_node,
        "mem": None if cluster.mem_gb is None else f"{int(cluster.mem_gb * 1024)}MB",
        "exclude": exclude or None,
        "dependency": f"afterok:{order.after}" if order.after else None,
        "setup": list(cluster.setup) or None,
    }
    return {name: value for name, value in given.items() if value is not None} | {
        "job_name": order.job.name,
        "time": cluster.minutes,
        "nodes": nodes,
        "ntasks_per_node": math.ceil(size / nodes),
        "array_parallelism": max(1, order.cap),
        "signal_delay_s": SIGNAL_SECONDS,
        # Without it, the others of a job whose rank died wait for it in a collective.
        "srun_args": ["--kill-on-bad-exit=1"],
        "additional_parameters": extra,
    }

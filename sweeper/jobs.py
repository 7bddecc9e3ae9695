"""Jobs on this machine: started through submitit, alive while a process of theirs is.

submitit's own word on a job's state is not used: after its driver died it calls a living job
finished. A job is alive while a process of it is, whoever started it and whoever asks.
"""

import math
import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sweeper.study import Cluster

if TYPE_CHECKING:
    import submitit

PROCESS = re.compile(
    r"submitit\.(?:local\._local|core\._submit) '?(/.*)/studies/[^/]+/jobs/(swp-[0-9a-f]+-\d+)'?$"
)
DETACHED = (
    "trap '' HUP INT QUIT TSTP",
    # A shell with an exit trap stays: submitit takes the job's id from its controller's parent,
    # and bash would otherwise replace itself by the controller.
    "trap : EXIT",
)

# submitit waits for its processes in these; dropping one warns that its process still runs.
_STARTED: list["submitit.Job[None]"] = []


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def submit(
    cluster: Cluster, folder: Path, tasks: int, function: Callable[..., None], *args: Any
) -> None:
    """Start `function(folder, *args)` in `tasks` processes that outlive this one.

    Cut off from the terminal: Ctrl-C is the driver's alone, and no pipe is held open.
    """
    import submitit

    folder.mkdir(parents=True, exist_ok=True)
    log = shlex.quote(str(folder / "controller.log"))
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster.kind)
    executor.update_parameters(
        name=folder.name,
        tasks_per_node=tasks,
        timeout_min=cluster.timeout_minutes,
        local_setup=[f"exec </dev/null >>{log} 2>&1", *DETACHED],
    )
    _STARTED.append(executor.submit(function, str(folder), *args))


@dataclass(frozen=True)
class Scan:
    """Names of the jobs with a living process on this machine, at a time (time.monotonic)."""

    names: frozenset[str] = frozenset()
    time: float = -math.inf


def scan(home: Path) -> Scan:
    """The living jobs of all studies of a home.

    All studies: a run that two of them ask for may be in the hands of the other's job.
    """
    now = time.monotonic()
    found: set[str] = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"]
        if not command or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        match = PROCESS.search(" ".join(command))
        if match and match[1] == str(home):
            found.add(match[2])
    return Scan(frozenset(found), now)

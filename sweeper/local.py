"""Jobs on this machine: started through submitit, alive while a process of theirs is.

submitit's own word on a job's state is not used: after its driver died it calls a living job
finished. A job is alive while a process of it is, whoever started it and whoever asks.
"""

import atexit
import os
import re
import shlex
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from sweeper.cluster import Cluster
from sweeper.jobs import Order, Scan, only_environment, passed
from sweeper.record import Job

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
SCAN_SECONDS = 2.0

# submitit waits for its processes in these; dropping one warns that its process still runs. At the
# end of the interpreter they are let go while what they call is there yet.
_STARTED: list["submitit.Job[None]"] = []
atexit.register(_STARTED.clear)


class LocalJobs:
    """Processes of this machine that outlive the driver."""

    chains = False
    scan_seconds = SCAN_SECONDS
    array_size = 0

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster = cluster
        self.home = home

    def submit(self, order: Order) -> str:
        """Cut off from the terminal: Ctrl-C is the driver's alone, and no pipe is held open."""
        import submitit

        folder, (arguments,) = order.folder, order.arguments
        log = shlex.quote(str(folder / "controller.log"))
        executor = submitit.AutoExecutor(folder=folder, cluster="local")
        executor.update_parameters(
            name=folder.name,
            tasks_per_node=order.job.world_size,
            timeout_min=self.cluster.timeout_minutes,
            local_setup=[f"exec </dev/null >>{log} 2>&1", *DETACHED],
        )
        with only_environment(passed(os.environ, self.cluster.environment)):
            _STARTED.append(executor.submit(order.function, str(folder), *arguments))
        return _STARTED[-1].job_id

    def scan(self, jobs: Sequence[Job]) -> Scan:
        """The living jobs of all studies of the home: a run may be in another's hands."""
        return Scan(frozenset(living(self.home)), time.monotonic())

    def hasten(self, held: frozenset[str]) -> None:
        """Nothing: jobs here start at once."""

    def cancel(self, jobs: Sequence[Job], names: Collection[str]) -> None:
        """Tell their processes to save and end."""
        for name, process in living(self.home).items() if names else ():
            if name in names:
                for one in process:
                    with suppress(psutil.NoSuchProcess):
                        one.send_signal(signal.SIGTERM)


class InProcess:
    """Jobs done at once, in this process: for a debugger."""

    chains = False
    scan_seconds = SCAN_SECONDS
    array_size = 0

    def __init__(self, home: Path) -> None:
        self.home = home

    def submit(self, order: Order) -> str:
        """Do the job; whatever it raises is the caller's, with its traceback."""
        (arguments,) = order.arguments
        handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR2)}
        try:
            with suppress(SystemExit):
                order.function(str(order.folder), *arguments)
        finally:
            for one, handler in handlers.items():
                signal.signal(one, handler)
        return ""

    def scan(self, jobs: Sequence[Job]) -> Scan:
        """Jobs of other studies of this machine; ours are over."""
        return Scan(frozenset(living(self.home)), time.monotonic())

    def hasten(self, held: frozenset[str]) -> None:
        """Nothing: jobs here start at once."""

    def cancel(self, jobs: Sequence[Job], names: Collection[str]) -> None:
        """Nothing: no job of ours is alive while we are asked."""


def living(home: Path) -> dict[str, list[psutil.Process]]:
    """The jobs of a home with a living process on this machine, and their processes."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"]
        if not command or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        match = PROCESS.search(" ".join(command))
        if match and match[1] == str(home):
            found.setdefault(match[2], []).append(process)
    return found

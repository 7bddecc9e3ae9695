"""Replays of a step on groups of hosts: processes of this machine, or Slurm's `srun`.

On one machine processes stand for hosts, each with the accelerator of its number where there are
some: then it is the accelerators that are told apart.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sweeper.bisection import Group, Replay
from sweeper.cluster import Slurm
from sweeper.errors import JobsFailed
from sweeper.jobs import passed
from sweeper.slurm_queue import ask, parse_queue
from sweeper.snapshot import ROOT
from train.replay_files import ANSWER, ORDER, ReplayAnswer, ReplayOrder
from train.runlog import read_record, write_atomic

PROGRAM = ("-m", "train.replay")
LOG = "log.txt"
GONE_SECONDS = 30.0  # a process that was told to end and does not

# Starts the replay that a folder describes on a group of hosts; what it says goes to a file.
Start = Callable[[Path, Group, IO[bytes]], Sequence["subprocess.Popen[bytes]"]]


@dataclass(frozen=True)
class OnThisMachine:
    """`hosts` are names for processes here, in the order of their accelerators."""

    hosts: Group
    environment: tuple[str, ...] = ()

    def __call__(
        self, folder: Path, group: Group, log: IO[bytes]
    ) -> Sequence["subprocess.Popen[bytes]"]:
        return [
            subprocess.Popen(
                [sys.executable, *PROGRAM, str(folder)],
                env=_environment(self.environment)
                | {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(len(group)),
                    "LOCAL_RANK": str(self.hosts.index(host)),
                    "LOCAL_WORLD_SIZE": str(len(group)),
                    "SLURMD_NODENAME": host,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank, host in enumerate(group)
        ]


@dataclass(frozen=True)
class OnSlurm:
    """A job of its own for every group, on these nodes and no others; it may wait in the queue."""

    cluster: Slurm
    minutes: int

    def __call__(
        self, folder: Path, group: Group, log: IO[bytes]
    ) -> Sequence["subprocess.Popen[bytes]"]:
        return [
            subprocess.Popen(
                command(self.cluster, group, self.minutes, folder),
                env=_environment(self.cluster.environment),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        ]


def command(cluster: Slurm, group: Group, minutes: int, folder: Path) -> list[str]:
    """srun and its arguments for a group of nodes; pure."""
    given = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "reservation": cluster.extra.get("reservation"),
        "gres": cluster.gres,
        "cpus-per-task": cluster.cpus_per_task,
        "gpus-per-node": cluster.gpus_per_node,
        "mem": None if cluster.mem_gb is None else f"{int(cluster.mem_gb * 1024)}M",
    }
    asked = {
        "job-name": "sweeper-replay",
        "nodelist": ",".join(group),
        "nodes": len(group),
        "ntasks": len(group) * cluster.tasks_per_node,
        "ntasks-per-node": cluster.tasks_per_node,
        "time": minutes,
        "kill-on-bad-exit": 1,
    } | {name: value for name, value in given.items() if value is not None}
    program = [*cluster.container.split(), sys.executable, *PROGRAM, str(folder)]
    if cluster.setup:
        program = ["bash", "-c", "\n".join([*cluster.setup, 'exec "$@"']), "bash", *program]
    return ["srun", *(f"--{name}={value}" for name, value in asked.items()), *program]


def _environment(named: Sequence[str]) -> dict[str, str]:
    """What a replay sees of this process's variables, and the program that runs here."""
    path = os.environ.get("PYTHONPATH")
    program = str(ROOT) + (os.pathsep + path if path else "")
    return passed(os.environ, named) | {"PYTHONPATH": program, "PYTHONSAFEPATH": "1"}


def replays(folder: Path, order: ReplayOrder, start: Start, told: Callable[[str], None]) -> Replay:
    """A replay of groups for `bisect`, all at once; each leaves its log in a folder of its own.

    Raises JobsFailed where none of the first groups comes to its end: that is no host's fault.
    """
    count = 0

    def replay(groups: Sequence[Group]) -> list[str | None]:
        nonlocal count
        count += 1
        hosts = sum(map(len, groups))
        told(f"round {count}: {len(groups)} groups of {len(groups[0])}, {hosts} hosts in all")
        places = {group: folder / f"round-{count}" / f"group-{n}" for n, group in enumerate(groups)}
        _run(places, order, start)
        answers = {g: read_record(place / ANSWER, ReplayAnswer) for g, place in places.items()}
        for group, answer in answers.items():
            said = answer.digest if answer else f"did not end; see {places[group] / LOG}"
            told(f"  {','.join(group)}  {said}")
        if count == 1 and not any(answers.values()):
            raise JobsFailed(
                f"no group came to the end of its replay; the first one's log says why: "
                f"{places[groups[0]] / LOG}"
            )
        return [answer.digest if answer else None for answer in answers.values()]

    return replay


def _run(places: Mapping[Group, Path], order: ReplayOrder, start: Start) -> None:
    """Start all groups, and wait for them. None is left behind, whatever happens."""
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        try:
            for group, place in places.items():
                place.mkdir(parents=True)
                write_atomic(place / ORDER, order.model_dump_json())
                log = files.enter_context((place / LOG).open("ab"))
                started.extend(start(place, group, log))
            for process in started:
                process.wait()
        finally:
            for process in started:
                _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """srun cancels its job when it is told to end."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GONE_SECONDS)
        process.kill()


def hostnames(expression: str) -> Group:
    """The nodes of an expression of Slurm such as n[1-4],n7."""
    return tuple(ask("scontrol", "show", "hostnames", expression).split())


def nodes_of_job(job: str) -> Group:
    """The nodes on which Slurm ran a job, or an element, last; none where it does not know."""
    name, fields = job.partition("_")[0], "JobID,JobName,State,ExitCode,NodeList"
    with suppress(OSError, subprocess.SubprocessError):
        said = ask("sacct", "-X", "-P", "-n", "-S", "now-30days", "--name", name, "-o", fields)
        row = parse_queue(said).get(job)
        return hostnames(row.node) if row and not row.node.startswith("None") else ()
    return ()

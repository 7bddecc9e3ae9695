"""A real Slurm of four nodes on this machine, and the faults that befall one."""

import atexit
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from slurm_files import (
    NODES,
    SYSTEM_TABLES,
    daemon_commands,
    mariadb_command,
    search_path,
    write_files,
)

SETUP = (
    "add cluster test",
    "add qos small set MaxSubmitJobsPerUser=2",
    "modify user root set qos=normal,small defaultqos=normal",
)


class SlurmCluster:
    """Nodes n1 to n4 of 4 CPUs and 2000 MB; a partition `low` whose jobs a job in `high` requeues;
    a QOS `small` of at most two jobs.

    Everything it writes lies in `folder`; processes reach it through `environment` alone.
    """

    def __init__(self, folder: Path, max_array_size: int = 1001) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        foreign = ("SLURM", "SBATCH", "SRUN", "SQUEUE", "SACCT", "SINFO", "SCANCEL")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        self.environment |= {"PATH": search_path(), "SLURM_CONF": str(self.configuration)}
        self._max_array_size = max_array_size
        self._commands = daemon_commands(folder)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # Life

    def start(self) -> None:
        """Start everything; nothing is left behind when that fails."""
        atexit.register(self.stop)
        try:
            write_files(self.folder, self._max_array_size)
            self._create_database()
            self._start("munged")
            self._start("mariadbd")
            self.start_accounting()
            for command in SETUP:
                self.run("sacctmgr", "--immediate", *command.split())
            self.start_controller()
            for node in NODES:
                self.start_slurmd(node)
            self._until(lambda: set(self.node_states().values()) == {"idle"}, "idle nodes")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the daemons and every process that was started with the cluster's environment."""
        atexit.unregister(self.stop)
        for name in reversed(list(self._daemons)):
            self._kill(name)
        # A process between its fork and its title belongs to nobody: hence a second look.
        looks = 0
        while looks < 2:
            left = self.processes()
            _kill_all(left)
            looks = 0 if left else looks + 1
        shutil.rmtree(self.folder / "mariadb", ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """Living processes of daemons, jobs and commands of this cluster, save this one."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._owns(p)]

    def healthy(self) -> None:
        """Start the dead daemons, cancel all jobs, and wait until every node is idle."""
        for name in self._commands:
            if not self._lives(name):
                self._start(name)
        self._until(self._accounting_answers, "accounting that answers", "slurmdbd")
        self._until(self._controller_answers, "a controller that answers", "slurmctld")
        self.cancel_all()
        self._until(self._mended, "idle nodes and an empty queue", "slurmctld", seconds=60)

    # Questions

    def run(self, *command: str) -> str:
        """What a command says; a failure raises with what it said."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def attempt(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command that may fail."""
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True
        )

    def submit(self, script: str, *options: str) -> str:
        """The id of a batch job whose output goes to `ID.out` in the folder."""
        output = f"--output={self.folder}/%j.out"
        return self.run("sbatch", "--parsable", output, *options, f"--wrap={script}")

    def squeue(self, form: str = "%F|%K|%j|%T|%r|%N") -> list[list[str]]:
        """Fields of all jobs that the controller remembers: also finished ones, for 300 s."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", form).splitlines()
        return [line.split("|") for line in lines]

    def state(self, job: str) -> str:
        """State of a job in the eyes of the controller: RUNNING, PENDING, COMPLETED, ..."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def accounted(self, job: str) -> list[str]:
        """States of all records of a job, oldest first."""
        return self.run("sacct", "-n", "-P", "-X", "-D", "-j", job, "-o", "state").splitlines()

    def wait_for(self, job: str, state: str, seconds: float = 30.0) -> None:
        """Wait until a job is in a state."""
        self._until(lambda: self.state(job) == state, f"{state} of job {job}", seconds=seconds)

    def node_states(self) -> dict[str, str]:
        """State of each node: idle, mixed, allocated, drained, down*, ..."""
        lines = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").splitlines()
        return {row[0]: row[1] for row in (line.split() for line in lines)}

    def cancel_all(self) -> None:
        """Cancel every job."""
        self.run("scancel", "--user=root")

    # Faults

    def kill_slurmd(self, node: str, jobs: bool = True) -> None:
        """`kill -9` of a node's daemon; with `jobs` also of all that runs on the node."""
        self._kill(node)
        if jobs:
            _kill_all([p for p in self.processes() if self._runs_on(p, node)])

    def start_slurmd(self, node: str) -> None:
        """Start a node's daemon; the node is back a moment later."""
        self._start(node)

    def drain(self, node: str) -> None:
        """No new job for this node."""
        self._update(node, "drain")

    def down(self, node: str) -> None:
        """Declare a node lost: its jobs end in NODE_FAIL, or are requeued."""
        self._update(node, "down")

    def resume(self, node: str) -> None:
        """Take back `drain` or `down`."""
        self._update(node, "resume")

    def kill_controller(self, saved: bool = True) -> None:
        """End the controller; unless `saved`, by `kill -9`: then it forgets what happened in its
        last seconds (5 and more), jobs and their numbers with it."""
        if saved:
            self._daemons["slurmctld"].terminate()
            self._daemons["slurmctld"].wait(timeout=20)
        self._kill("slurmctld")

    def start_controller(self) -> None:
        """Start the controller, from its saved state, and wait until it answers."""
        self._start("slurmctld")
        self._until(self._controller_answers, "a controller that answers", "slurmctld")

    def stop_accounting(self) -> None:
        """`kill -9` of the accounting daemon: sacct fails, jobs run on."""
        self._kill("slurmdbd")

    def start_accounting(self) -> None:
        """Start the accounting daemon and wait until it answers."""
        self._start("slurmdbd")
        self._until(self._accounting_answers, "accounting that answers", "slurmdbd")

    # Daemons

    def _create_database(self) -> None:
        tables = "USE mysql;\n" + SYSTEM_TABLES.read_text()
        done = subprocess.run(
            [*mariadb_command(self.folder), "--bootstrap"],
            env=self.environment, input=tables, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _start(self, name: str) -> None:
        """Start a daemon that dies with the tests, even where these are killed."""
        assert not self._lives(name), f"{name} is running"
        socket = self.folder / f"{name.removesuffix('d')}.socket"
        socket.unlink(missing_ok=True)
        environment = self.environment | {"MYSQL_UNIX_PORT": str(self.folder / "mariadb.socket")}
        with self._log(name).open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._commands[name]],
                env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        if name in ("munged", "mariadbd"):
            self._until(socket.exists, f"the socket of {name}", name)

    def _kill(self, name: str) -> None:
        daemon = self._daemons[name]
        daemon.kill()
        daemon.wait()

    def _lives(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _controller_answers(self) -> bool:
        return " UP" in self.attempt("scontrol", "ping").stdout

    def _accounting_answers(self) -> bool:
        return self.attempt("sacctmgr", "-n", "list", "qos").returncode == 0

    def _mended(self) -> bool:
        """Whether all nodes are idle and no job is left; says so to nodes that wait to hear it."""
        states = self.node_states()
        for node, state in states.items():
            if state.startswith(("down", "drain", "fail")):
                self.attempt("scontrol", "update", f"nodename={node}", "state=resume")
        return set(states.values()) == {"idle"} and not self.run("squeue", "-h")

    def _update(self, node: str, state: str) -> None:
        self.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    # Processes

    def _owns(self, process: psutil.Process) -> bool:
        steps = {self._steps_log(node) for node in NODES}
        environment = f"SLURM_CONF={self.configuration}"
        return environment in _environment(process) or not steps.isdisjoint(_open_files(process))

    def _runs_on(self, process: psutil.Process, node: str) -> bool:
        """Of a process of this cluster. A slurmstepd writes its title over its environment, but
        keeps the log of its node open."""
        environment = f"SLURMD_NODENAME={node}"
        return environment in _environment(process) or self._steps_log(node) in _open_files(process)

    def _steps_log(self, node: str) -> str:
        return str(self.folder / f"{node}.steps.log")

    # Waiting

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _until(
        self,
        condition: Callable[[], bool],
        what: str,
        daemon: str = "slurmctld",
        seconds: float = 30.0,
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                tail = self._log(daemon).read_text(errors="replace").splitlines()[-15:]
                raise TimeoutError(
                    "\n".join([f"no {what} within {seconds:.0f} s; {daemon}:", *tail])
                )
            time.sleep(0.1)


def _environment(process: psutil.Process) -> list[str]:
    """`NAME=value` of the variables that a process was started with; [] where it is gone."""
    try:
        return Path(f"/proc/{process.pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _open_files(process: psutil.Process) -> set[str]:
    """Paths that a process has open; none where it is gone."""
    try:
        return {os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
    except OSError:
        return set()


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=5)

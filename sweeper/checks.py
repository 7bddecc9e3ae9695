"""Checks of this machine: the interpreter, what it imports, compiler, memory, cores, GPU."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from sweeper.folders import StudyDir
from sweeper.jobs import cores
from sweeper.study import Study

Verdict = Literal["ok", "warn", "FAIL"]
PYTHON = (3, 11)
IMPORTED = ("optuna", "submitit", "duckdb", "polars", "scipy", "plotly")
IMPORT_SECONDS = 180.0
ANSWER_SECONDS = 15.0
# Below this a worker is likely to be killed: torch alone takes half of it.
LEAST_MEMORY = 1 << 30


@dataclass(frozen=True)
class Check:
    """One thing looked at: whether it is as it must be, what was seen, the way out where not."""

    name: str
    verdict: Verdict
    seen: str
    way_out: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: a home, and the study that is to run there, where one is named.

    `probe` allows a job of a few seconds on a compute node.
    """

    home: Path
    study: Study | None = None
    probe: bool = False

    @property
    def place(self) -> StudyDir | None:
        return StudyDir(self.home, self.study.name) if self.study else None

    @property
    def slurm(self) -> bool:
        """Whether the study runs its jobs on Slurm."""
        return self.study is not None and str(self.study.cluster.kind) == "slurm"

    @property
    def workers(self) -> int:
        return self.study.cluster.workers if self.study else 1


@dataclass(frozen=True)
class Answer:
    """What a command said; `code` is None where it is not there or did not end in time."""

    code: int | None
    text: str


def ask(*command: str, seconds: float = ANSWER_SECONDS) -> Answer:
    """Run a command that only looks."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except FileNotFoundError:
        return Answer(None, f"{command[0]} is not on the path")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(None, str(error))
    return Answer(done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip())


def python(subject: Subject) -> Check:
    """The interpreter that drives, and that local jobs run."""
    version = sys.version.split()[0]
    seen = f"{version} ({sys.executable})"
    if sys.version_info < PYTHON:
        return Check("python", "FAIL", seen, "use Python 3.11 or newer")
    return Check("python", "ok", seen)


TORCH = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": names}))
"""
DEEPSPEED = 'import deepspeed, json; print(json.dumps({"version": deepspeed.__version__}))'


def _imported(program: str) -> tuple[dict[str, Any], str]:
    """What a program that imports said as JSON on its last line, or why it could not."""
    answer = ask(sys.executable, "-c", program, seconds=IMPORT_SECONDS)
    said = last_line(answer.text)
    if answer.code != 0:
        return {}, said
    try:
        return json.loads(said), ""
    except ValueError:
        return {}, said


def torch(subject: Subject) -> Check:
    """Whether jobs can import torch, in a process of its own: this one stays light."""
    found, why = _imported(TORCH)
    if not found:
        return Check("torch", "FAIL", why, "install the project's packages: pip install -e .")
    devices = ", ".join(found["devices"]) or "no GPU: trains on the CPU"
    seen = f"{found['version']}, {devices}"
    if not found["devices"] and gpus():
        return Check(
            "torch",
            "warn",
            f"{seen}; built for CUDA {found['cuda']}, and nvidia-smi sees a GPU",
            "install a torch that fits the driver",
        )
    return Check("torch", "ok", seen)


def deepspeed(subject: Subject) -> Check:
    """Whether jobs can import DeepSpeed."""
    found, why = _imported(DEEPSPEED)
    if not found:
        return Check("deepspeed", "FAIL", why, "install the project's packages: pip install -e .")
    return Check("deepspeed", "ok", str(found["version"]))


def packages(subject: Subject) -> Check:
    """Whether the driver's own packages can be imported."""
    found = ", ".join(f"'{name}'" for name in IMPORTED)
    program = (
        "import importlib, importlib.metadata as m, json\n"
        f"names = [{found}]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(json.dumps({name: m.version(name) for name in names}))"
    )
    versions, why = _imported(program)
    if not versions:
        return Check("packages", "FAIL", why, "install the project's packages: pip install -e .")
    return Check("packages", "ok", ", ".join(f"{name} {v}" for name, v in versions.items()))


def compiler(subject: Subject) -> Check:
    """A C++ compiler and ninja: DeepSpeed builds its GPU operators with them, and nothing else."""
    found = {name: shutil.which(name) for name in ("c++", "ninja")}
    missing = [name for name, path in found.items() if path is None]
    if not missing:
        return Check("compiler", "ok", ", ".join(str(path) for path in found.values()))
    seen = f"no {' and no '.join(missing)}"
    if gpus():
        return Check(
            "compiler", "warn", seen, "install g++ and ninja: DeepSpeed's GPU operators want them"
        )
    return Check("compiler", "ok", f"{seen}; only GPU operators would want it")


def gpus() -> list[str]:
    """The GPUs that nvidia-smi sees: name, memory, driver."""
    query = "--query-gpu=name,memory.total,driver_version"
    answer = ask("nvidia-smi", query, "--format=csv,noheader")
    return answer.text.splitlines() if answer.code == 0 else []


def gpu(subject: Subject) -> Check:
    """GPUs of this machine; on Slurm those of the nodes count, not these."""
    found = gpus()
    return Check("gpu", "ok", "; ".join(found) or "none here (nvidia-smi sees none)")


def machine(subject: Subject) -> Check:
    """Memory and cores against the workers of a study that runs here."""
    memory, here, load = psutil.virtual_memory(), cores(), os.getloadavg()[0]
    seen = (
        f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, {here} cores, "
        f"load {load:.1f}"
    )
    if subject.slurm:
        return Check("machine", "ok", f"{seen}; jobs run elsewhere")
    workers = subject.workers
    if memory.available < LEAST_MEMORY * workers:
        way_out = f"free memory or lower cluster.workers={workers}: 1 GiB a worker is little"
        return Check("machine", "warn", seen, way_out)
    if workers > here:
        way_out = f"lower cluster.workers={workers} to the cores"
        return Check("machine", "warn", seen, way_out)
    return Check("machine", "ok", seen)


def last_line(text: str) -> str:
    """Where commands say what it came to."""
    return text.splitlines()[-1] if text else ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names and how many more."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")

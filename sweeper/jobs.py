"""What the driver asks of a scheduler, whichever it is."""

import math
import os
import re
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sweeper.record import Job
from train.runlog import Cause

# What a job needs of the driver's environment: who and where it is, its libraries and devices.
# Nothing else goes along: tokens and passwords of the user's shell do not reach the nodes.
PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|PYTHONPATH|PYTHONSAFEPATH|LD_LIBRARY_PATH|VIRTUAL_ENV|"
    r"CONDA_\w+|MODULEPATH|LOADEDMODULES|XDG_CACHE_HOME|HF_HOME|HF_HUB_OFFLINE|SLURM_CONF|"
    r"(CUDA|NVIDIA|NCCL|GLOO|FI|UCX|TORCH|PYTORCH|TRITON|OPENBLAS|OMP|MKL|SWEEPER)_\w+"
)


@dataclass(frozen=True)
class Order:
    """A job to start: `function(folder, *arguments)` in every process of each of its elements.

    At most `cap` elements run at once, on none of the nodes of `exclude`, and after the job with
    the scheduler's id `after` has ended well.
    """

    job: Job
    folder: Path
    function: Callable[..., None]
    arguments: Sequence[tuple[Any, ...]]
    cap: int = 1
    exclude: tuple[str, ...] = ()
    after: str = ""


@dataclass(frozen=True)
class Ended:
    """How a scheduler says that an element ended, and on which node."""

    cause: Cause | Literal["cancelled"]
    message: str
    node: str = ""


@dataclass(frozen=True)
class Scan:
    """The living elements of jobs, at a time (time.monotonic); of others how they ended, if known.

    `everywhere`: it knows the jobs of its study on every machine, else on this one alone. `notes`
    say what stands in the way of jobs; `held` wait for nothing but their time, by the scheduler's
    ids.
    """

    names: frozenset[str] = frozenset()
    time: float = -math.inf
    ended: Mapping[str, Ended] = field(default_factory=dict[str, Ended])
    notes: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    everywhere: bool = False


class Refused(Exception):
    """The scheduler does not take a job; `passing`: it may later, or fewer at once."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class Backend(Protocol):
    """A scheduler of jobs; `chains`: a job may wait there for another to end well."""

    chains: bool
    scan_seconds: float
    # The most elements of one array; 0 where there are no arrays.
    array_size: int

    def submit(self, order: Order) -> str:
        """Start a job that outlives this process; the scheduler's id of it. Raises Refused."""
        ...

    def scan(self, jobs: Sequence[Job]) -> Scan:
        """The living elements, of these jobs at least."""
        ...

    def hasten(self, held: frozenset[str]) -> None:
        """Have jobs start that wait for nothing but their time."""
        ...

    def cancel(self, jobs: Sequence[Job], names: Collection[str]) -> None:
        """Ask the processes of these elements of jobs to end: they save what they have first."""
        ...


def passed(environment: Mapping[str, str], named: Sequence[str]) -> dict[str, str]:
    """The part of an environment that jobs are given."""
    return {n: v for n, v in environment.items() if PASSED.fullmatch(n) or n in named}


@contextmanager
def only_environment(environment: Mapping[str, str]) -> Generator[None]:
    """Have this process, and what it starts inside, see these variables alone."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

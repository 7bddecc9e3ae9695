"""A function in a forked child: what kills or leaks there is not this process's end.

A fork has all that its parent imported, and pays for it once. The parent must not have started
CUDA, nor threads that compute.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn

from train.runlog import Cause
from train.stopping import SIGNALS, StopSignal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def in_child(function: Callable[[StopSignal], int], stop: StopSignal) -> int:
    """Exit status of `function` run in a child: what it returned, or minus the number of a signal.

    The child hears the signals that this process gets, and ends with it.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with _signals_held():
        child = os.fork()
        if child == 0:
            _be_child(function, parent, stop.cause)
        stop.pass_to(child)
    # Left as a zombie until no signal can be passed on: its number must not be another's by then.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    stop.pass_to(None)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def _signals_held() -> Generator[None]:
    """Signals wait, in both processes, until each has its own ear for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _be_child(function: Callable[[StopSignal], int], parent: int, asked: Cause | None) -> NoReturn:
    status = 1
    try:
        _end_with(parent)
        stop = StopSignal(asked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = function(stop)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: what the parent does at its end is the parent's.
        os._exit(status)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def death(status: int) -> str:
    """How a process died, for people, by its exit status."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"killed by signal {-status}"

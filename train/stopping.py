"""Being asked to end: by a signal, by an order in the run directory, by a later attempt.

No torch here: the parent process of a job listens before it imports anything.
"""

import os
import signal
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from train.runlog import Cause, RunDir

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
# Slurm sends the signal before a time limit up to a minute early, and jobs ask for it some two
# minutes before. Ours.
NEAR_THE_LIMIT_SECONDS = 300.0
LOOK_SECONDS = 1.0  # a folder on a shared disk sends no event: it is looked at

# Of several reasons to end the first counts.
REASONS: tuple[Cause, ...] = ("superseded", "stopped", "timeout", "preempted")


class EndedEarly(Exception):
    """An attempt was asked to end, and did; `step` is what a later one can go on after."""

    def __init__(self, cause: Cause, message: str, step: int) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.step = step


class AskedToStop(BaseException):
    """Raised out of `StopSignal.at_once` when a signal comes. Nobody catches it by accident."""


def meaning(number: int, environment: Mapping[str, str], now: float) -> Cause:
    """SIGTERM is preemption; SIGUSR2 is a time limit where Slurm says that one is near."""
    end = environment.get("SLURM_JOB_END_TIME", "")
    near = end.isdecimal() and int(end) - now < NEAR_THE_LIMIT_SECONDS
    return "timeout" if number == signal.SIGUSR2 and near else "preempted"


class StopSignal:
    """Turns SIGTERM and SIGUSR2 into a word that is read between two steps.

    A process that trains in a child passes them on: not everybody signals the whole group.
    """

    def __init__(self, cause: Cause | None = None) -> None:
        self.cause: Cause | None = cause
        self._child: int | None = None
        self._raises = False
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self.cause = self.cause or meaning(number, os.environ, time.time())
        if self._child is not None:
            os.kill(self._child, number)
        if self._raises:
            self._raises = False  # a second signal must not break into what the first one ends
            raise AskedToStop

    def pass_to(self, child: int | None) -> None:
        """From now on this process gets the signals, too."""
        self._child = child

    @contextmanager
    def at_once(self) -> Generator[None]:
        """A signal, also an earlier one, ends what is inside by AskedToStop."""
        self._raises = True
        try:
            if self.cause is not None:
                raise AskedToStop
            yield
        finally:
            self._raises = False


class Orders:
    """All that can ask attempt N to end; the first rank looks at the run directory for the rest."""

    def __init__(self, run: RunDir, attempt: int, signals: StopSignal, looks: bool) -> None:
        self.run = run
        self.attempt = attempt
        self.signals = signals
        self.looks = looks
        self._looked = time.monotonic()
        self._found: Cause | None = None

    def votes(self) -> list[float]:
        """One number a reason; summed over the ranks they say what any of them heard."""
        if self.looks and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._look()
        heard = self._found or self.signals.cause
        return [float(reason == heard) for reason in REASONS]

    def _look(self) -> None:
        self._looked = time.monotonic()
        if self.run.superseded(self.attempt):
            self._found = "superseded"
        elif self.run.stop(self.attempt) is not None:
            self._found = "stopped"


def reason_of(votes: Sequence[float]) -> Cause | None:
    """The reason that some rank voted for, or None."""
    return next((reason for reason, vote in zip(REASONS, votes, strict=True) if vote > 0), None)

"""Spikes: a step out of line with those before it; back before it, past its batches, and on.

What a run does after a spike follows from its spec and from where its spikes were: not from when
its states happened to be written, nor from how many processes it had. A killed run that resumes, or
one that is trained again, takes the same way.

Source: Chowdhery et al. 2022, arXiv:2204.02311, sec. 5.1: restarting before a spike and skipping
its batches mitigated it; the same batches elsewhere did not spike again.
"""

import math
import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from train.config import SpikeConfig
from train.runlog import RunDir, read_lines, step_of

# Of normal numbers the standard deviation is this many median absolute deviations.
NORMAL = 1.4826


class Spike(NamedTuple):
    """A spike in a step (from 1), and the last step before the batches that were skipped for it."""

    step: int
    after: int


class SpikeWatch:
    """Robust running statistics of the loss and of the logarithm of the gradient norm."""

    def __init__(self, config: SpikeConfig) -> None:
        self.deviations = config.deviations
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)

    def look(self, loss: float, norm: float) -> str:
        """Take in a step: what about it is a spike, or "" for none.

        There is none before the window is full: the first steps of a run differ in kind.
        """
        if self.deviations is None:
            return ""
        log_norm = math.log(norm) if 0 < norm < math.inf else math.inf
        for name, value, seen in (
            ("loss", loss, self._losses),
            ("gradient norm", log_norm, self._norms),
        ):
            if not math.isfinite(value):
                return f"{name} is not finite"
            if len(seen) == seen.maxlen and (far := distance(value, seen)) > self.deviations:
                return f"{name} {far:.3g} deviations above the median"
        self._losses.append(loss)
        self._norms.append(log_norm)
        return ""


def distance(value: float, seen: Sequence[float] | deque[float]) -> float:
    """How far a value lies above the median, in standard deviations estimated by the median too."""
    middle = median(seen)
    spread = NORMAL * median([abs(x - middle) for x in seen])
    if value <= middle:
        return 0.0
    return (value - middle) / spread if spread > 0 else math.inf


def spike_at(config: SpikeConfig, step: int) -> Spike:
    return Spike(step, max(0, step - config.rewind))


def skipped_batches(spikes: Iterable[Spike]) -> tuple[int, ...]:
    """Numbers (from 0) of the batches that are not trained on any more, ascending."""
    skipped: set[int] = set()
    for spike in spikes:
        before = tuple(sorted(skipped))
        skipped |= {batch_of(before, step) for step in range(spike.after + 1, spike.step + 1)}
    return tuple(sorted(skipped))


def batch_of(skipped: Iterable[int], step: int) -> int:
    """Number (from 0) of the batch that a step (from 1) trains on: those skipped are not there."""
    index = step - 1
    for batch in skipped:
        index += batch <= index
    return index


def lr_scale(config: SpikeConfig, spikes: Iterable[Spike], step: int) -> float:
    """What multiplies the rate of a step (from 1): the first spike costs nothing yet."""
    passed = sum(step > spike.after for spike in spikes)
    return config.lr_factor ** max(0, passed - 1)


def spikes_of(run: RunDir) -> tuple[Spike, ...]:
    """The spikes that a run went back from, in turn."""
    events = (line for line in read_lines(run.events) if line.get("event") == "spike")
    return tuple(Spike(int(line["step"]), int(line["after"])) for line in events)


def go_back(run: RunDir, spike: Spike, **about: Any) -> None:
    """Remove what was saved since, and record the spike: only then does it count.

    Killed in between, the next attempt comes upon the same spike again.
    """
    for state in run.resume_states():
        if step_of(state) > spike.after:
            shutil.rmtree(state)
    run.event("spike", step=spike.step, after=spike.after, **about)

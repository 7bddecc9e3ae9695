"""How far runs came and what they had learnt by then, read from their metrics as they grow."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from sweeper.runs import RunView
from train.runlog import RunDir

# The training loss at a mark is the mean over the last fifth of the way there: ours, a batch of a
# small run is noisier than trials differ.
SMOOTHED = 0.2
# Of the last step before a mark, for marks that fall on a step exactly.
NEAR = 1e-9


class Reached(NamedTuple):
    """A mark that a run passed: the fraction of its tokens, the smoothed training loss there."""

    fraction: float
    loss: float


Curves = Mapping[str, Sequence[Reached]]


@dataclass
class _Curve:
    """What was read of one run: bytes by attempt, the latest losses, the marks that it passed."""

    read: dict[int, int] = field(default_factory=dict[int, int])
    recent: deque[Reached] = field(default_factory=deque[Reached])
    marks: list[Reached] = field(default_factory=list[Reached])
    whole: bool = False

    def add(self, fraction: float, loss: float, marks: Sequence[float]) -> None:
        # An attempt that resumed goes over steps again.
        if self.recent and fraction <= self.recent[-1].fraction:
            return
        self.recent.append(Reached(fraction, loss))
        while self.recent[0].fraction <= (1 - SMOOTHED) * fraction:
            self.recent.popleft()
        while len(self.marks) < len(marks) and marks[len(self.marks)] <= fraction + NEAR:
            smoothed = fmean(point.loss for point in self.recent)
            self.marks.append(Reached(marks[len(self.marks)], smoothed))


class CurveReader:
    """The marks that runs passed; each look reads only what was written since the last."""

    def __init__(self, folder: Path, marks: Sequence[float]) -> None:
        self.folder = folder
        self.marks = tuple(marks)
        self._curves: dict[str, _Curve] = {}

    def look(self, views: Mapping[str, RunView]) -> Curves:
        """The marks of these runs, in the order in which each passed them."""
        for name, run in views.items():
            curve = self._curves.setdefault(name, _Curve())
            if run.attempts and not curve.whole:
                # What a finished run wrote it had written before it was seen to have finished.
                self._read(run, curve)
                curve.whole = run.finished
        return {name: tuple(self._curves[name].marks) for name in views}

    def _read(self, run: RunView, curve: _Curve) -> None:
        place = RunDir(self.folder / run.run_id)
        for attempt in range(1, run.attempts + 1):
            start = curve.read.get(attempt, 0)
            lines = _lines(place.metrics(attempt), start)
            curve.read[attempt] = start + sum(map(len, lines))
            for line in lines:
                point = _point(line, run.spec.tokens)
                if point is not None:
                    curve.add(*point, self.marks)


def _lines(path: Path, start: int) -> list[bytes]:
    """The whole lines of a file from a place on."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return []
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def _point(line: bytes, tokens: int) -> Reached | None:
    """A line of metrics; None where it is torn or its loss is no number."""
    try:
        record = json.loads(line)
        point = Reached(record["tokens"] / tokens, float(record["loss"]))
    except (ValueError, KeyError, TypeError):
        return None
    return point if isfinite(point.loss) else None

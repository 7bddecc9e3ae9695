"""The course of a pretraining run: which windows and which objective each step has.

Everything is a pure function of (spec, step, rank): any layout sees the same, and a run resumes
from its step number.
"""

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.choices import ObjectiveConfig
from train.config import RunSpec
from train.data.loader import TrainLoader
from train.objectives import examples
from train.ramp import batch_tokens_at, seen_after, steps_reaching


@dataclass(frozen=True)
class Leg:
    """From step `first` (0-based) on: an objective, and a loader of the mixture."""

    first: int
    objective: ObjectiveConfig
    loader: TrainLoader


class Course:
    """The legs of a run in turn: one, and another from each phase on."""

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        """Raises ValueError for a mixture that the data cannot serve."""
        self.spec = spec
        self.legs: list[Leg] = []
        self._add(0, spec.objective, spec.data.mixture, folder)
        for phase in spec.phases:
            first = steps_reaching(spec.batch, phase.start * spec.tokens)
            mixture = spec.data.mixture if phase.mixture is None else phase.mixture
            self._add(first, phase.objective or spec.objective, mixture, folder)
        self._firsts = [leg.first for leg in self.legs]

    def _add(
        self, first: int, objective: ObjectiveConfig, mixture: dict[str, float], folder: Path
    ) -> None:
        spec, begin = self.spec, self.first_sample(first)
        taken = self.legs[-1].loader.taken_after(begin) if self.legs else {}
        batch = spec.batch.global_batch_tokens // spec.model.seq_len
        loader = TrainLoader(folder, mixture, spec.model.seq_len, batch, spec.seed, begin, taken)
        self.legs.append(Leg(first, objective, loader))

    def first_sample(self, step: int) -> int:
        """Number of the first window of a step."""
        return seen_after(self.spec.batch, step) // self.spec.model.seq_len

    def leg(self, step: int) -> Leg:
        return self.legs[bisect_right(self._firsts, step) - 1]

    def samples(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """Numbers of the windows that one rank takes in a step."""
        share = batch_tokens_at(self.spec.batch, step) // (self.spec.model.seq_len * world)
        return self.first_sample(step) + rank * share + np.arange(share, dtype=np.int64)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, np.ndarray]:
        """What one rank trains on in a step."""
        leg, samples = self.leg(step), self.samples(step, rank, world)
        ids = leg.loader.rows(samples)
        return examples(ids, samples, self.spec.seed, leg.objective, self.spec.model)

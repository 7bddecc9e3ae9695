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
from train.data.loader import Origin, TrainLoader
from train.objectives import examples
from train.phases import begins
from train.ramp import batch_tokens_at, seen_after


@dataclass(frozen=True)
class Leg:
    """From step `first` (0-based) on: an objective, and a loader of the mixture."""

    first: int
    objective: ObjectiveConfig
    loader: TrainLoader


class Course:
    """The legs of a run in turn: one, and another from each phase on that changes its data."""

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        """Raises ValueError for a mixture that the data cannot serve."""
        self.spec = spec
        loader = self._loader(0, spec.data.mixture, {}, folder)
        self.legs = [Leg(0, spec.objective, loader)]
        for phase in spec.phases:
            if phase.objective is None and phase.mixture is None:
                continue
            first, latest = begins(spec, phase), self.legs[-1]
            if phase.mixture is not None:
                taken = latest.loader.taken_after(self.first_sample(first))
                loader = self._loader(first, phase.mixture, taken, folder)
            self.legs.append(Leg(first, phase.objective or latest.objective, loader))
        self._firsts = [leg.first for leg in self.legs]

    def _loader(
        self, first: int, mixture: dict[str, float], taken: dict[str, int], folder: Path
    ) -> TrainLoader:
        spec, begin = self.spec, self.first_sample(first)
        batch = spec.batch.global_batch_tokens // spec.model.seq_len
        return TrainLoader(folder, mixture, spec.model.seq_len, batch, spec.seed, begin, taken)

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

    def origins(self, step: int) -> list[Origin]:
        """Where the windows of a step's whole batch come from."""
        return self.leg(step).loader.origins(self.samples(step))

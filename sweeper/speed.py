"""How long runs will take: an estimate from their size, corrected by what earlier runs measured."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from model.counts import params_active
from sweeper.runs import own_flops
from train.config import RunSpec
from train.runlog import Result, RunDir

# One thread of a shared server core: 1e10 FLOP/s at 7,500 parameters, 6e10 at 1.07 million, a power
# law between them. Ours, measured on a decoder at batch 16 x 128 in fp32.
REFERENCE_PARAMS, REFERENCE_FLOPS_PER_SECOND, EXPONENT = 7_500, 1e10, 0.36
NEWEST = 200


@dataclass(frozen=True)
class Speed:
    """The estimate times `scale`; `runs` measured runs stand behind the scale."""

    scale: float = 1.0
    runs: int = 0

    @property
    def source(self) -> str:
        return f"measured on {self.runs} earlier runs" if self.runs else "a rough estimate"

    def flops_per_second(self, params: int) -> float:
        """FLOP/s that one process is expected to reach on a model of this size."""
        return self.scale * _estimate(params)

    def seconds(self, spec: RunSpec) -> float:
        """Expected seconds of a run on its own processes."""
        rate = self.flops_per_second(params_active(spec.model)) * spec.parallel.dp
        return own_flops(spec) / rate

    def gpu_hours(self, spec: RunSpec) -> float:
        """Expected seconds times processes, in hours; a process without a GPU counts as one."""
        return self.seconds(spec) * spec.parallel.dp / 3600


def _estimate(params: int) -> float:
    return REFERENCE_FLOPS_PER_SECOND * (params / REFERENCE_PARAMS) ** EXPONENT


def calibrate(results: Iterable[Result]) -> Speed:
    """The median ratio of measured to estimated FLOP/s a process."""
    ratios = [
        result.trained_flops / (3600 * result.gpu_hours) / _estimate(result.params_active)
        for result in results
        if result.trained_flops > 0 and result.gpu_hours > 0
    ]
    return Speed(median(ratios), len(ratios)) if ratios else Speed()


def measured_speed(runs: Path) -> Speed:
    """The speed by the newest results below a runs folder; the plain estimate without any."""
    if not runs.is_dir():
        return Speed()
    folders = sorted(os.scandir(runs), key=lambda entry: -entry.stat().st_mtime)[:NEWEST]
    found = (RunDir(Path(entry.path)).result() for entry in folders)
    return calibrate(result for result in found if result is not None)

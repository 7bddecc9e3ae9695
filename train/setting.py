"""What a step is timed for: a model in a layout on a cluster, and what of its peaks is reached.

Ranks are numbered with tensor parallelism innermost, then context, data, pipeline. No torch here.
"""

from dataclasses import dataclass

from model.config import ModelConfig
from train.activations import OURS, Kernels
from train.hardware import Group, Hardware
from train.layout import Layout


@dataclass(frozen=True)
class Efficiency:
    """Shares of a peak that real kernels and links reach: the only numbers that no source states.

    Ours: round numbers, set by hand from the smallest and the largest row of Narayanan et al. 2021,
    arXiv:2104.04473, table 1, before the other rows of tests/train/published_runs.py were
    predicted, and not changed since: all 34 come out within 20 %. Least squares on the two rows
    give 0.67 and 0.87 for matrix products and memory. `overlap` is the share of a backward pass
    that hides data-parallel messages; it and `links` matter to ZeRO 3 alone (elsewhere a tenth
    moves no row by more than 3 %).
    """

    matmul: float = 0.65
    memory: float = 0.8
    links: float = 0.8
    overlap: float = 0.5


EFFICIENCY = Efficiency()


@dataclass(frozen=True)
class Setting:
    """What a step is timed for."""

    model: ModelConfig
    layout: Layout
    hardware: Hardware
    kernels: Kernels = OURS
    efficiency: Efficiency = EFFICIENCY

    @property
    def tensor(self) -> Group:
        return Group(self.layout.tp, 1)

    @property
    def context(self) -> Group:
        return Group(self.layout.cp, self.layout.tp)

    @property
    def data(self) -> Group:
        """Ranks of the same weights, context-parallel ones among them."""
        return Group(self.layout.data_ranks, self.layout.tp)

    @property
    def experts(self) -> Group:
        return Group(self.layout.ep, self.layout.tp * self.layout.cp)

    @property
    def pipeline(self) -> Group:
        return Group(self.layout.pp, self.layout.tp * self.layout.data_ranks)

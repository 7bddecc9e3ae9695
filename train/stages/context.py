"""What every stage is given, and what it returns."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from model.transformer import Transformer
from train.config import RunSpec
from train.parallel import Ranks
from train.runlog import RunDir
from train.step import Objective


@dataclass(frozen=True)
class Context:
    """One run as a stage sees it: the starting weights, and the folder of prepared data."""

    run: RunDir
    spec: RunSpec
    data: Path
    model: Transformer
    ranks: Ranks


@dataclass(frozen=True)
class StageParts:
    """The objective to train with, and the measures of the model that comes out."""

    objective: Objective
    evaluate: Callable[[nn.Module], dict[str, float]]


def rank_rows(
    columns: Mapping[str, np.ndarray], size: int, ranks: Ranks
) -> Iterator[dict[str, np.ndarray]]:
    """This rank's share of a table, `size` rows at a time; together the ranks see each row once."""
    count = len(next(iter(columns.values())))
    own = np.arange(ranks.rank, count, ranks.world_size)
    for start in range(0, len(own), size):
        yield {name: column[own[start : start + size]] for name, column in columns.items()}

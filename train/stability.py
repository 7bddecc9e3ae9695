"""When a loss curve is past saving."""

import math
from collections import deque
from statistics import median

from torch import Tensor, nn

from train.config import StabilityConfig

FEWEST = 5  # losses whose median is worth a judgement


class DivergenceWatch:
    """Watches the loss of each step: its running median may not rise far above its own lowest.

    The lowest starts at `uniform`, the nats per token of a model that knows nothing, so that an
    explosion during warm-up counts too: with clipping a rate a hundred times too high may settle
    later, at the loss of a model that knows word counts. A median, because one bad batch is no
    divergence. Ours.
    """

    def __init__(self, config: StabilityConfig, uniform: float) -> None:
        self.limit = config.diverged_nats
        self.recent: deque[float] = deque(maxlen=config.smoothing_steps)
        self.lowest = uniform

    def diverged(self, loss: float) -> bool:
        """Take in the loss of one step (nats per token); True when the run should stop."""
        if not math.isfinite(loss):
            return True
        self.recent.append(loss)
        if len(self.recent) < FEWEST:
            return False
        middle = median(self.recent)
        self.lowest = min(self.lowest, middle)
        return middle > self.lowest + self.limit


def shrink_embedding_gradient(embedding: nn.Module, share: float) -> None:
    """Have a table keep this share of the gradient that comes through what was looked up.

    Source: Zeng et al. 2022, arXiv:2210.02414, sec. 2 (alpha of GLM-130B).
    """
    if share == 1:
        return

    def shrunk(module: nn.Module, inputs: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return share * found + (1 - share) * found.detach()

    embedding.register_forward_hook(shrunk)

"""When a loss curve is past saving."""

import math
from dataclasses import dataclass

from train.config import StabilityConfig


@dataclass
class DivergenceWatch:
    """Watches the loss of each step: its moving average may not rise far above its own lowest.

    The average starts at the first loss, so that an explosion during warm-up counts too. A rate a
    hundred times too high may settle later at the loss of a model that knows only word counts,
    which no bound on the loss itself would tell from slow learning. Ours.
    """

    config: StabilityConfig
    average: float = math.nan
    lowest: float = math.inf

    def diverged(self, loss: float) -> bool:
        """Take in the loss of one step (nats per token); True when the run should stop."""
        if not math.isfinite(loss):
            return True
        if math.isnan(self.average):
            self.average = loss
        self.average += (loss - self.average) / self.config.smoothing_steps
        self.lowest = min(self.lowest, self.average)
        return self.average > self.lowest + self.config.diverged_nats

"""Learning rate as a function of tokens seen."""

import math

from train.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """Fraction of the peak rate for the step that ends at `tokens` tokens.

    Linear warm-up from zero, then half a cosine down to `final_fraction` at the horizon.
    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5; to 10 %: Brown et al. 2020,
    arXiv:2005.14165, app. B.
    """
    if tokens < schedule.warmup_tokens:
        return tokens / schedule.warmup_tokens
    progress = (tokens - schedule.warmup_tokens) / max(1, horizon - schedule.warmup_tokens)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return schedule.final_fraction + (1 - schedule.final_fraction) * cosine

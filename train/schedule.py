"""Learning rate as a function of tokens seen: a fraction of the peak. No torch here."""

import math
from collections.abc import Callable

from train.choices import ScheduleConfig, ScheduleKind


def lr_factor(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """Fraction of the peak rate for the step that ends at `tokens` tokens.

    Linear warm-up from zero, then as the schedule's kind has it.
    """
    if tokens < schedule.warmup_tokens:
        return tokens / schedule.warmup_tokens
    return SCHEDULES[schedule.kind](schedule, tokens, horizon)


def _progress(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """Share of what follows the warm-up that is over: in [0, 1]."""
    rest = max(1, horizon - schedule.warmup_tokens)
    return min(1.0, (tokens - schedule.warmup_tokens) / rest)


def _decay(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """Share of the last `decay_fraction` of the run that is over: in [0, 1], 0 before it."""
    start = horizon - schedule.decay_fraction * horizon
    return min(1.0, max(0.0, (tokens - start) / max(1.0, horizon - start)))


def _between(schedule: ScheduleConfig, share: float) -> float:
    """From the peak (share 1) to `final_fraction` of it (share 0)."""
    return schedule.final_fraction + (1 - schedule.final_fraction) * share


def cosine(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """Half a cosine down to `final_fraction` at the horizon.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5; to 10 %: Brown et al. 2020,
    arXiv:2005.14165, app. B.
    """
    turn = math.pi * _progress(schedule, tokens, horizon)
    return _between(schedule, 0.5 * (1 + math.cos(turn)))


def linear(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """A straight line down to `final_fraction` at the horizon.

    Source: Devlin et al. 2019, arXiv:1810.04805, app. A.2; to zero is best: Bergsma et al. 2025,
    arXiv:2502.15938.
    """
    return _between(schedule, 1 - _progress(schedule, tokens, horizon))


def inverse_sqrt(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """The root of warm-up over tokens: no horizon enters, and no final fraction.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 3; Raffel et al. 2020, arXiv:1910.10683,
    sec. 3.1.2 (1 / sqrt(max(n, k)), constant instead of a warm-up).
    """
    return math.sqrt(schedule.warmup_tokens / max(1, tokens))


def plateau_linear(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """The peak, then a straight line to `final_fraction` over the last `decay_fraction`.

    Source: Hu et al. 2024, arXiv:2404.06395, sec. 4.1 ("stable", then a decay of choice); the
    straight line: Hagele et al. 2024, arXiv:2405.18392, sec. 3.
    """
    return _between(schedule, 1 - _decay(schedule, tokens, horizon))


def wsd(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """The peak, then 1 - sqrt down to `final_fraction` over the last `decay_fraction`.

    Source: Hagele et al. 2024, arXiv:2405.18392, sec. 3: 1 - sqrt does better than the
    straight line at every length of the cool-down.
    """
    return _between(schedule, 1 - math.sqrt(_decay(schedule, tokens, horizon)))


def constant(schedule: ScheduleConfig, tokens: int, horizon: int) -> float:
    """The peak to the end. Source: the trunk of Hagele et al. 2024, arXiv:2405.18392, sec. 3."""
    return 1.0


SCHEDULES: dict[ScheduleKind, Callable[[ScheduleConfig, int, int], float]] = {
    "cosine": cosine,
    "linear": linear,
    "inverse_sqrt": inverse_sqrt,
    "plateau_linear": plateau_linear,
    "wsd": wsd,
    "constant": constant,
}

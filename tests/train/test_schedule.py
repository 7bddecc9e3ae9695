"""The learning rate over a run."""

import pytest

from train.config import ScheduleConfig
from train.schedule import lr_factor

SCHEDULE = ScheduleConfig(warmup_tokens=100, final_fraction=0.1)


@pytest.mark.parametrize(
    ("tokens", "factor"),
    [(0, 0.0), (50, 0.5), (100, 1.0), (600, 0.55), (1100, 0.1), (2000, 0.1)],
)
def test_warm_up_is_linear_and_a_cosine_falls_to_ten_percent(tokens: int, factor: float) -> None:
    assert lr_factor(SCHEDULE, tokens, horizon=1100) == pytest.approx(factor)


def test_the_rate_never_rises_after_the_warm_up() -> None:
    rates = [lr_factor(SCHEDULE, tokens, 1100) for tokens in range(100, 1101)]
    assert rates == sorted(rates, reverse=True)

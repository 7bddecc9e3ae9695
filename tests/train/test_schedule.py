"""The learning rate over a run."""

import math
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import ScheduleConfig
from train.schedule import SCHEDULES, ScheduleKind, lr_factor

SCHEDULE = ScheduleConfig(warmup_tokens=100, final_fraction=0.1)


def schedule(kind: ScheduleKind, **fields: float) -> ScheduleConfig:
    content = {"warmup_tokens": 100, "final_fraction": 0.0, "decay_fraction": 0.2}
    return ScheduleConfig.model_validate({"kind": kind} | content | fields)


@pytest.mark.parametrize(
    ("tokens", "factor"),
    [(0, 0.0), (50, 0.5), (100, 1.0), (600, 0.55), (1100, 0.1), (2000, 0.1)],
)
def test_warm_up_is_linear_and_a_cosine_falls_to_ten_percent(tokens: int, factor: float) -> None:
    assert lr_factor(SCHEDULE, tokens, horizon=1100) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("kind", "tokens", "factor"),
    [
        # Halfway down a straight line, and at its end.
        ("linear", 600, 0.5),
        ("linear", 1100, 0.0),
        # Vaswani et al. 2017, eq. 3: after four warm-ups half of the peak.
        ("inverse_sqrt", 400, 0.5),
        ("inverse_sqrt", 900, 1 / 3),
        # Hagele et al. 2024, sec. 3: the last fifth of 1,100 tokens begins at 880.
        ("wsd", 880, 1.0),
        ("wsd", 935, 1 - math.sqrt(0.25)),
        ("wsd", 1100, 0.0),
        ("plateau_linear", 880, 1.0),
        ("plateau_linear", 935, 0.75),
        ("plateau_linear", 1100, 0.0),
        ("constant", 1100, 1.0),
    ],
)
def test_schedules_have_their_closed_values(kind: ScheduleKind, tokens: int, factor: float) -> None:
    assert lr_factor(schedule(kind), tokens, horizon=1100) == pytest.approx(factor, abs=1e-12)


def test_the_inverse_root_is_t5s_in_steps() -> None:
    """Raffel et al. 2020, sec. 3.1.2: 1 / sqrt(max(n, 10^4)), so 0.01 and at 2^19 steps 0.0014."""
    batch, steps = 2**16, 2**19
    t5 = ScheduleConfig(kind="inverse_sqrt", warmup_tokens=10_000 * batch)
    assert 0.01 * lr_factor(t5, steps * batch, steps * batch) == pytest.approx(1 / math.sqrt(steps))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_warms_up_then_never_rises_and_keeps_within_the_peak(
    kind: ScheduleKind,
) -> None:
    chosen = schedule(kind, final_fraction=0.1)
    rates = [lr_factor(chosen, tokens, 1100) for tokens in range(0, 1101)]
    assert rates[:101] == pytest.approx([tokens / 100 for tokens in range(101)])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert min(rates[100:]) >= 0.1 - 1e-12


@pytest.mark.parametrize("kind", set(SCHEDULES) - {"constant", "inverse_sqrt"})
def test_every_schedule_that_decays_ends_at_its_final_fraction(kind: ScheduleKind) -> None:
    assert lr_factor(schedule(kind, final_fraction=0.1), 1100, 1100) == pytest.approx(0.1)


@settings(max_examples=60, deadline=None)
@given(
    horizon=st.integers(1, 10**9),
    warm=st.floats(0, 1),
    final=st.floats(0, 1),
    decay=st.floats(0.01, 1),
    seen=st.floats(0, 1.5),
)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_stays_between_nothing_and_the_peak_whatever_it_is_given(
    kind: ScheduleKind, horizon: int, warm: float, final: float, decay: float, seen: float
) -> None:
    chosen = schedule(
        kind, warmup_tokens=int(warm * horizon), final_fraction=final, decay_fraction=decay
    )
    assert 0 <= lr_factor(chosen, int(seen * horizon), horizon) <= 1


def test_every_schedule_that_may_be_named_exists() -> None:
    assert set(SCHEDULES) == set(get_args(ScheduleKind))


def test_a_trunk_and_its_branches_share_all_steps_before_the_decay() -> None:
    trunk, branch = schedule("constant"), schedule("wsd")
    for tokens in range(0, 881, 40):
        assert lr_factor(trunk, tokens, 9999) == lr_factor(branch, tokens, 1100)

"""Telling a lost run from a slow or noisy one."""

import math

import numpy as np
import pytest

from train.config import StabilityConfig
from train.stability import DivergenceWatch


def first_divergence(losses: list[float]) -> int | None:
    watch = DivergenceWatch(StabilityConfig(), uniform=math.log(512))
    return next((step for step, loss in enumerate(losses) if watch.diverged(loss)), None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_diverges_at_once(value: float) -> None:
    assert first_divergence([5.0, value]) == 1


def test_a_noisy_falling_loss_does_not_diverge() -> None:
    rng = np.random.default_rng(0)
    curve = 3 + 3 * np.exp(-np.arange(2000) / 200) + rng.normal(0, 0.3, 2000)
    assert first_divergence(curve.tolist()) is None


def test_one_bad_batch_does_not_diverge() -> None:
    assert first_divergence([4.0] * 50 + [12.0] + [4.0] * 50) is None


def test_a_lasting_rise_diverges() -> None:
    assert first_divergence([4.0] * 50 + [5.5] * 50) is not None


def test_an_explosion_in_warm_up_diverges_even_if_it_would_settle() -> None:
    step = first_divergence([6.2, 5.9, 9.0, 13.0, 15.0, *[7.0] * 5, *[5.3] * 100])
    assert step is not None
    assert step < 10

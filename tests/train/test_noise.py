"""The gradient noise scale, on a problem whose own is known."""

import pytest
import torch
from torch import Tensor, nn

from train.noise import NoiseScale, Terms, gradient_square, ratio, terms


class Point(nn.Module):
    """One parameter; the loss of an example is half the squared distance to it."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(place.clone())

    def forward(self, examples: Tensor) -> Tensor:
        return 0.5 * (self.place - examples).square().sum()


DIMENSIONS, SIGMA = 200, 3.0


class Task:
    """As a stage's objective has it: sums of losses, and the number of their terms."""

    @staticmethod
    def loss(module: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return module(batch["x"]), {}

    @staticmethod
    def weight(batch: dict[str, Tensor]) -> float:
        return float(len(batch["x"]))


def test_the_noise_scale_of_a_quadratic_is_the_published_one() -> None:
    """McCandlish et al. 2018, eq. 2.8: tr(Sigma) / |G|^2, here d sigma^2 / |distance|^2."""
    torch.manual_seed(0)
    point = Point(torch.ones(DIMENSIONS))
    true = DIMENSIONS * SIGMA**2 / DIMENSIONS
    found = []
    for _ in range(300):
        x = SIGMA * torch.randn(64, DIMENSIONS)
        small = gradient_square(point, Task, {"x": x[:8]}) / 8**2  # pyright: ignore[reportArgumentType]
        big = gradient_square(point, Task, {"x": x}) / 64**2  # pyright: ignore[reportArgumentType]
        found.append(terms(small, 8, big, 64))
    assert ratio(found) == pytest.approx(true, rel=0.05)
    assert sum(t.trace for t in found) / 300 == pytest.approx(DIMENSIONS * SIGMA**2, rel=0.02)
    assert sum(t.square for t in found) / 300 == pytest.approx(DIMENSIONS, rel=0.05)
    assert point.place.grad is None


def test_two_exact_norms_give_the_exact_terms() -> None:
    def square(tokens: float) -> float:
        return 0.25 + 100 / tokens

    assert terms(square(16), 16, square(512), 512) == Terms(
        pytest.approx(100), pytest.approx(0.25)
    )  # fmt: skip


def test_a_gradient_hidden_in_noise_has_no_scale_yet() -> None:
    assert ratio([Terms(100, -1), Terms(90, 0.5)]) is None
    assert ratio([Terms(100, -1), Terms(90, 3.0)]) == pytest.approx(95)


def test_steps_are_measured_at_the_interval_and_never_by_default() -> None:
    scale = NoiseScale.__new__(NoiseScale)
    scale.every = 3
    assert [step for step in range(1, 10) if scale.due(step)] == [3, 6, 9]
    scale.every = 0
    assert not any(scale.due(step) for step in range(10))

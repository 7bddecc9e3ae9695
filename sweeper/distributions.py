"""What Optuna is told of the range of a parameter."""

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweeper.axes import Axis


def distribution(axis: Axis) -> BaseDistribution:
    """The levels of a categorical axis, the range of one with a scale."""
    if axis.scale == "categorical":
        return CategoricalDistribution(axis.levels)
    low, high = axis.bounds
    if axis.whole:
        return IntDistribution(int(low), int(high), log=axis.scale == "log")
    return FloatDistribution(low, high, log=axis.scale == "log")

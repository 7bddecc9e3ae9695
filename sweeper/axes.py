"""What a study varies and what it may not exceed: axes and constraints, data only."""

import math
from collections.abc import Sequence
from typing import Literal, Self, TypeGuard

from pydantic import BaseModel, Field, model_validator

from sweeper.folders import NAME
from sweeper.overrides import nearest
from train.config import Frozen, RunSpec

Level = bool | int | float | str

# What a constraint may measure beside numbers of the RunSpec: `constraints.MEASURES` has them.
MEASURED: tuple[str, ...] = (
    "params_active",
    "params_total",
    "params_non_embedding",
    "flops",
    "tokens_per_param",
)


class Axis(Frozen):
    """One knob of the recipe and the levels it is tried at; the baseline is the recipe's own.

    Designs that draw points (random, sobol, search) take an axis with a scale as the range from its
    least level to its greatest, whole numbers where all levels are; a categorical one as a choice.
    """

    name: str = Field(pattern=NAME)
    path: str
    levels: tuple[Level, ...] = Field(min_length=2)
    scale: Literal["categorical", "linear", "log"] = "categorical"

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels={self.levels} repeat a level; name each once")
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in self.levels)
        if self.scale != "categorical" and not numbers:
            raise ValueError(f"scale={self.scale!r} needs numbers, but levels={self.levels}")
        if self.scale == "log" and self.bounds[0] <= 0:
            raise ValueError(
                f"scale='log' has no place for {self.bounds[0]:g} of levels={self.levels}; use "
                "scale='linear', or levels above 0"
            )
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest level of an axis with a scale."""
        numbers = [level for level in self.levels if not isinstance(level, str)]
        return min(numbers), max(numbers)

    @property
    def whole(self) -> bool:
        """Whether a range of this axis holds whole numbers alone."""
        return all(isinstance(level, int) for level in self.levels)

    @property
    def choices(self) -> float:
        """How many values a drawn point may have here: infinitely many in a range of floats."""
        if self.scale == "categorical":
            return len(self.levels)
        low, high = self.bounds
        return high - low + 1 if self.whole else math.inf

    def at(self, unit: float) -> Level:
        """The level at a place in [0, 1): equal shares, of the logarithm on a log scale."""
        if self.scale == "categorical":
            return self.levels[int(unit * len(self.levels))]
        low, high = self.bounds
        if self.whole:
            # Half a step more at both ends, so that they come up as often as their neighbours.
            low, high = low - 0.5, high + 0.5
        if self.scale == "log":
            value = low * (high / low) ** unit
        else:
            value = low + unit * (high - low)
        return self.held(value)

    def held(self, value: float) -> Level:
        """A number as a level: whole where the axis is, else of six digits; within the bounds."""
        low, high = self.bounds
        kept = min(max(value, low), high)
        # Six digits are read at a glance, and finer ones change no run that one could tell apart.
        return round(kept) if self.whole else min(max(float(f"{kept:.6g}"), low), high)

    def holds(self, level: Level) -> bool:
        """Whether a design may give this axis that level."""
        if self.scale == "categorical" or isinstance(level, str):
            return level in self.levels
        return self.bounds[0] <= level <= self.bounds[1]


def points(axes: Sequence[Axis]) -> float:
    """How many different points a design can draw over these axes."""
    return math.prod(axis.choices for axis in axes)


class Constraint(Frozen):
    """A limit that every trial keeps; one that does not is left out of its design, and counted.

    `measure` is one of params_active, params_total, params_non_embedding, flops and
    tokens_per_param, or a number in the trial's RunSpec by dotted path: `tokens`, `model.d_ff`,
    `optim.lr`.
    """

    measure: str
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    at_most: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.measure not in MEASURED:
            _check_path(self.measure)
        low, high = self.at_least, self.at_most
        if low is None and high is None:
            raise ValueError(
                f"a constraint on {self.measure!r} without a limit; give at_least or at_most"
            )
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"at_least={low:g} is above at_most={high:g}: no trial keeps both; swap them"
            )
        return self


def _check_path(path: str) -> None:
    """Raises ValueError where a path leads to no number of a RunSpec."""
    place: object = RunSpec
    for key in path.split("."):
        fields = place.model_fields if _is_model(place) else {}
        if key not in fields:
            known = [*fields, *(MEASURED if place is RunSpec else ())]
            hint = nearest(key, known) if known else "the path goes below a value; shorten it"
            raise ValueError(f"measure {path!r}: there is no {key!r}; {hint}")
        place = fields[key].annotation
    if place is not int and place is not float:
        raise ValueError(f"measure {path!r} is no number; name one, such as model.d_ff")


def _is_model(place: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(place, type) and issubclass(place, BaseModel)

"""What every scaling law gives: a Fit and a Forecast, with reasons."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
FARTHEST = 1e300


class NotEnough(ValueError):
    """The runs do not carry the fit; the sentence says which budgets fail and why."""


@dataclass(frozen=True)
class Diagnostic:
    """A named doubt about a fit. It stands in the place of a number that should not be believed."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass(frozen=True)
class Excluded:
    """A run that was kept out of a fit, and the reason."""

    run_id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law.

    `coef` are the coefficients as papers write them, with standard errors and 95 % intervals from
    the draws; None stands for one that the runs do not identify (a diagnostic says so). `profiles`
    are 95 % intervals by profile likelihood, of the coefficients that have one. `theta`
    (p,) and `draws` (m, p), one row a bootstrap draw, are what the law computes with. `budgets` are
    those that the fit rests on, ascending.
    """

    law: str
    metric: str
    coef: dict[str, float | None]
    se: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    profiles: dict[str, tuple[float, float]]
    theta: Floats
    draws: Floats
    objective: float
    run_ids: tuple[str, ...]
    budgets: tuple[float, ...]
    params_convention: str
    diagnostics: tuple[Diagnostic, ...]
    excluded: tuple[Excluded, ...]


@dataclass(frozen=True)
class BacktestRow:
    """A budget predicted from the smaller ones; errors are ln(predicted / measured).

    `noise` are standard deviations that the bootstrap expects of the errors, by quantity; a
    quantity that was not measured at the budget has no error.
    """

    upto: float
    budget: float
    decades: float
    params_error: float | None
    tokens_error: float | None
    loss_error: float | None
    params_noise: float
    tokens_noise: float
    loss_noise: float


@dataclass(frozen=True)
class Opinion:
    """What one law says of the target: values with calibrated intervals, and what back-tests give
    it of the forecast: `weight` for the sizes and for the loss, errors as root mean squares."""

    law: str
    params: float | None
    params_low: float | None
    params_high: float | None
    tokens: float | None
    tokens_low: float | None
    tokens_high: float | None
    loss: float | None
    low: float | None
    high: float | None
    size_error: float | None
    loss_error: float | None
    size_weight: float
    loss_weight: float
    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True, eq=False)
class Forecast:
    """The optimum expected at a budget, with intervals at `level`, and what each law says of it.

    `params` and `tokens` are real numbers until a shape rounds them. `low` and `high` bound the
    loss. `extrapolation` is in decades above the largest usable budget; `dominant` names the larger
    part of the loss interval: "runs" (bootstrap), "backtest" (extrapolation) or "laws" (how far
    they disagree). `fit` is the law with most weight, `backtest` its own.
    """

    budget: float
    params: float
    tokens: float
    loss: float
    low: float
    high: float
    level: float
    extrapolation: float
    params_low: float
    params_high: float
    tokens_low: float
    tokens_high: float
    dominant: str
    backtest: tuple[BacktestRow, ...]
    opinions: tuple[Opinion, ...]
    diagnostics: tuple[Diagnostic, ...]
    fit: Fit


def scientific(value: float, digits: int = 3) -> str:
    """A number as papers write budgets: 1e18, 3.16e19; small magnitudes stay plain."""
    if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e4:
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e4 else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def finite(value: float | None) -> float | None:
    """A number for JSON, which knows none that is not finite."""
    return None if value is None or not math.isfinite(value) else value


def quantiles(draws: Floats, level: float = LEVEL) -> Floats:
    """Both ends (2, ...) of the interval that holds `level` of the draws (m, ...)."""
    # Coefficients of exponents that are not held leave the floats; between two inf lies no number.
    held = np.clip(draws, -FARTHEST, FARTHEST)
    return np.quantile(held, [(1 - level) / 2, (1 + level) / 2], axis=0)


def spread(draws: Floats) -> tuple[Floats, Floats, Floats]:
    """Standard deviations and 95 % percentile bounds of draws (m, p), each (p,)."""
    low, high = quantiles(draws)
    # Where an exponent is not held, its coefficient's draws leave the floats.
    with np.errstate(over="ignore", invalid="ignore"):
        return draws.std(axis=0, ddof=1), low, high

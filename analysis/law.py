"""What every scaling law takes and gives: rows of runs; a Fit and a Forecast, with reasons."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]


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


@dataclass(frozen=True)
class BacktestRow:
    """A budget predicted from the smaller ones; errors are ln(predicted / measured)."""

    fitted_budgets: int
    budget: float
    decades: float
    params_error: float
    tokens_error: float
    loss_error: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law. `draws` has one row a bootstrap draw, one column a coefficient, as in `coef`.

    `budgets` are the usable ones, ascending; `intervals` are those of the coefficients, from the
    draws alone, at 95 %.
    """

    law: str
    metric: str
    coef: dict[str, float]
    covariance: Floats | None
    draws: Floats
    run_ids: tuple[str, ...]
    params_convention: str
    diagnostics: tuple[Diagnostic, ...]
    excluded: tuple[Excluded, ...]
    intervals: dict[str, tuple[float, float]]
    budgets: tuple[float, ...]
    backtest: tuple[BacktestRow, ...]


@dataclass(frozen=True, eq=False)
class Forecast:
    """The optimum that a law expects at a budget, with intervals at `level`.

    `params` and `tokens` are real numbers until a shape rounds them. `low` and `high` bound the
    loss. `extrapolation` is in decades above the largest usable budget; `dominant` names the larger
    part of the loss interval, "runs" (bootstrap) or "backtest" (extrapolation).
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
    diagnostics: tuple[Diagnostic, ...]
    fit: Fit


def scientific(value: float, digits: int = 3) -> str:
    """A number as papers write budgets: 1e18, 3.16e19; small magnitudes stay plain."""
    if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e4:
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e4 else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def _refusal(state: pl.Expr) -> pl.Expr:
    """Why a row carries no evidence, or null."""
    number = pl.col("loss").is_null() | ~pl.col("loss").is_finite() | (pl.col("loss") <= 0)
    shape = pl.any_horizontal(
        pl.col(name).is_null() | ~(pl.col(name) > 0) | ~pl.col(name).is_finite()
        for name in ("budget", "params", "tokens")
    )
    return (
        pl.when(state != "DONE")
        .then(pl.concat_str(pl.lit("state "), state))
        .when(number)
        .then(pl.lit("no finite positive loss"))
        .when(shape)
        .then(pl.lit("no positive budget, params and tokens"))
    )


def usable(points: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """The rows of the size ladder that carry evidence, by budget and size, and those that do not.

    Rows of other designs (column `design`, where there is one) belong to other questions and are
    left out; a run that stands in two trials counts once; without `state` a row counts as DONE.
    """
    number = pl.col("budget", "params", "tokens", "loss").cast(pl.Float64)
    rows = points.with_columns(number, pl.col("run_id").cast(pl.String))
    if "design" in rows.columns:
        rows = rows.filter(pl.col("design").is_null() | (pl.col("design") == "isoflop"))
    state = pl.col("state").fill_null("PLANNED") if "state" in rows.columns else pl.lit("DONE")
    rows = rows.unique("run_id", keep="first", maintain_order=True).with_columns(
        _refusal(state).alias("refusal")
    )
    refused = rows.filter(pl.col("refusal").is_not_null()).select("run_id", "refusal")
    kept = rows.filter(pl.col("refusal").is_null()).drop("refusal")
    return kept.sort("budget", "params", "run_id"), tuple(
        Excluded(run_id, reason) for run_id, reason in refused.iter_rows()
    )

"""The forecast for a target budget: the laws in one table, and what they say."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis import isoflop
from analysis.law import Diagnostic, Excluded, Fit, Forecast, NotEnough

__all__ = [
    "LAWS",
    "Diagnostic",
    "Excluded",
    "Fit",
    "Forecast",
    "Law",
    "NotEnough",
    "as_json",
    "fit_row",
    "forecast",
]


@dataclass(frozen=True)
class Law:
    """`fit(points, *, draws, seed, metric, ...)` and `predict(fit, budget, *, level)`."""

    fit: Callable[..., Fit]
    predict: Callable[..., Forecast]


LAWS: dict[str, Law] = {
    "isoflop": Law(isoflop.fit, isoflop.predict),
}


def forecast(
    points: pl.DataFrame,
    target: float,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    metric: str = "nats_per_token",
) -> Forecast:
    """Fit the runs and say what the optimum at `target` FLOPs will be.

    `points` are rows as of `store.points`. Raises NotEnough where fewer than 3 budgets are usable,
    ValueError for a target that is no positive number.
    """
    law = LAWS["isoflop"]
    return law.predict(law.fit(points, draws=draws, seed=seed, metric=metric), target, level=level)


def as_json(value: Fit | Forecast) -> dict[str, Any]:
    """Plain data of a Fit or a Forecast for the store: everything but the draws."""
    plain = dataclasses.asdict(value)
    fit = plain if isinstance(value, Fit) else plain["fit"]
    del fit["draws"]
    if fit["covariance"] is not None:
        fit["covariance"] = fit["covariance"].tolist()
    return plain


def fit_row(study: str, fit: Fit) -> dict[str, Any]:
    """A Fit as a row of the store's table `fits`."""
    plain = as_json(fit)
    names = ("law", "metric", "coef", "intervals", "run_ids", "diagnostics", "params_convention")
    return {"study": study} | {name: plain[name] for name in names}

"""The forecast for a target budget: all laws that apply, each weighed by its back-test."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.backtest import backtest, measured_optima, next_rows
from analysis.law import BacktestRow, Diagnostic, Fit, Floats, Forecast, NotEnough
from analysis.laws import LAWS, Law
from analysis.panel import QUANTITIES, Member, Panel
from analysis.runs import Runs
from analysis.uncertainty import Wander, wander

AUTO = "auto"


def _errors(rows: Sequence[BacktestRow], name: str) -> tuple[Floats, Floats, Floats]:
    """Errors of a quantity, their expected noise, and the decades they reached; each (k,)."""
    seen = [row for row in rows if getattr(row, f"{name}_error") is not None]
    columns = [[getattr(row, f"{name}_{what}") for row in seen] for what in ("error", "noise")]
    error, noise = (np.array(column, dtype=np.float64) for column in columns)
    return error, noise, np.array([row.decades for row in seen])


def _member(law: Law, runs: Runs, rows: tuple[BacktestRow, ...], draws: int, seed: int) -> Member:
    """Intervals rest on the next budget's errors, weights on those of all horizons."""
    found: dict[str, Wander] = {}
    squares: dict[str, float] = {}
    for name in QUANTITIES:
        found[name] = wander(*_errors(next_rows(rows), name))
        error, _, decades = _errors(rows, name)
        squares[name] = float(np.mean(error**2 / decades)) if len(error) else 0.0
    return Member(law, law.fit(runs, draws=draws, seed=seed), rows, found, squares)


def _asked(law: str, runs: Runs) -> list[Law]:
    """The law by its name, or all that vote; ValueError names those there are."""
    if law == AUTO:
        repeats = bool((runs.frame["unique_tokens"] < runs.frame["tokens"]).any())
        return [x for x in LAWS.values() if x.votes and (repeats or x.name != "data-constrained")]
    if law not in LAWS:
        raise ValueError(f"law={law!r} is not known; use one of {', '.join([AUTO, *LAWS])}")
    return [LAWS[law]]


def panel(runs: Runs, law: str = AUTO, *, draws: int = 1000, seed: int = 0) -> Panel:
    """The laws fitted and back-tested on runs; raises NotEnough where none applies."""
    optima = measured_optima(runs, seed)
    members: list[Member] = []
    refused: list[Diagnostic] = []
    for one in _asked(law, runs):
        try:
            members.append(_member(one, runs, backtest(one, runs, optima, seed), draws, seed))
        except NotEnough as reason:
            refused.append(Diagnostic(one.name, str(reason)))
    if not members:
        raise NotEnough("; ".join(why.detail for why in refused[:1]))
    return Panel(runs, tuple(members), tuple(refused))


def promotable(said: Forecast) -> Forecast:
    """A forecast that names sizes as well as a loss; raises NotEnough for one that does not."""
    if not math.isfinite(said.params):
        raise NotEnough("the laws that apply speak of the loss only; add sizes at every budget")
    return said


def as_json(value: Fit | Forecast) -> dict[str, Any]:
    """Plain data of a Fit or a Forecast for the store: everything but the draws."""
    plain = dataclasses.asdict(value)
    fit = plain if isinstance(value, Fit) else plain["fit"]
    del fit["draws"]
    fit["theta"] = fit["theta"].tolist()
    return plain


def fit_row(study: str, fit: Fit) -> dict[str, Any]:
    """A Fit as a row of the store's table `fits`."""
    plain = as_json(fit)
    names = ("law", "metric", "coef", "intervals", "run_ids", "diagnostics", "params_convention")
    return {"study": study} | {name: plain[name] for name in names}

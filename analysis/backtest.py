"""Laws tested on budgets they have not seen: fit the smaller ones, predict the next."""

import math
from collections.abc import Sequence

import numpy as np

from analysis import isoflop, parametric
from analysis.law import BacktestRow, Fit, Floats, NotEnough
from analysis.laws import Law
from analysis.runs import Runs

# A back-test needs standard deviations, not percentiles.
DRAWS = 100
# Logs of params, tokens and loss at a budget, and their standard deviations.
Optimum = tuple[Floats, Floats]


def measured_optima(runs: Runs, seed: int = 0) -> dict[float, Optimum]:
    """The optimum of every budget whose minimum stands, whatever law is tested on it."""
    pairs, _ = isoflop.accepted(runs)
    if not pairs:
        return {}
    budgets, optima = isoflop.measured(pairs)
    drawn = isoflop.redrawn(pairs, DRAWS, seed)
    return {float(c): (optima[:, i], _scatter(drawn[..., i])) for i, c in enumerate(budgets)}


def _scatter(drawn: Floats) -> Floats:
    """Standard deviations (3,) of draws (m, 3); NaN for a quantity that under half of them have."""
    columns = [column[np.isfinite(column)] for column in drawn.T]
    whole = [2 * len(column) >= len(drawn) for column in columns]
    return np.array([c.std() if w else np.nan for c, w in zip(columns, whole, strict=True)])


def backtest(
    law: Law, runs: Runs, optima: dict[float, Optimum], seed: int = 0
) -> tuple[BacktestRow, ...]:
    """Rolling origin: fit the rungs up to one, from the second on, and predict all above it.

    A rung with a measured optimum tests sizes and loss; one without it tests a surface on the runs
    that stand there.
    """
    rows: list[BacktestRow] = []
    for j, known in enumerate(runs.rungs[1:-1], start=2):
        before = runs.upto(known)
        try:
            fit = law.refit(before, draws=DRAWS, seed=seed)
        except NotEnough:
            continue
        for target in runs.rungs[j:]:
            if target in optima:
                error, noise = _at_optimum(law, fit, before, target, optima[target])
            elif law.surface:
                error, noise = _on_runs(fit, runs, target)
            else:
                continue
            row = _row(known, target, error, noise)
            if row.params_error is not None or row.loss_error is not None:
                rows.append(row)
    return tuple(rows)


def _row(known: float, target: float, error: Floats, noise: Floats) -> BacktestRow:
    seen = np.isfinite(error) & np.isfinite(noise)
    params, tokens, loss = (float(e) if s else None for e, s in zip(error, seen, strict=True))
    reach = math.log10(target / known)
    return BacktestRow(known, target, reach, params, tokens, loss, *noise.tolist())


def next_rows(rows: Sequence[BacktestRow]) -> list[BacktestRow]:
    """Of every origin the nearest budget predicted: rows that share least with one another."""
    nearest: dict[float, BacktestRow] = {}
    for row in rows:
        nearest.setdefault(row.upto, row)
    return [*nearest.values()]


def _at_optimum(
    law: Law, fit: Fit, before: Runs, budget: float, optimum: Optimum
) -> tuple[Floats, Floats]:
    """Errors of params, tokens and loss, and the noise expected of them."""
    said, drawn = law.optimum(fit, before, budget)
    found, noise = optimum
    return said - found, np.hypot(_scatter(drawn), noise)


def _on_runs(fit: Fit, runs: Runs, rung: float) -> tuple[Floats, Floats]:
    """The mean error of loss over the runs of a rung, and the noise expected of it."""
    rows = runs.frame.filter(runs.frame["rung"] == rung)
    logs = [rows[name].log().to_numpy() for name in ("params", "tokens", "unique_tokens", "loss")]
    said = parametric.log_loss(fit, *logs[:3])
    error = said - logs[3]
    scatter = error[0].std() / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    noise = math.hypot(float(said[1:].mean(axis=1).std()), scatter)
    nothing = math.nan
    return np.array([nothing, nothing, error[0].mean()]), np.array([nothing, nothing, noise])

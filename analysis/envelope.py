"""The lower envelope of loss over compute: L*(C) = E + K C^-g, whatever the sizes were."""

import numpy as np

from analysis import curves
from analysis.law import Fit, Floats, NotEnough, spread
from analysis.parametric import resampled
from analysis.runs import Runs

RUNGS_NEEDED = 4
NAMES = ("E", "K", "g")


def _lowest(log_y: Floats, rungs: Floats, weights: Floats) -> Floats:
    """The lowest log loss (m, k) that each weighting of the runs sees on each rung."""
    seen = np.where(weights > 0, log_y, np.inf)
    return np.stack([seen[:, rungs == rung].min(axis=1) for rung in np.unique(rungs)], axis=1)


def fit(runs: Runs, *, draws: int = 1000, seed: int = 0) -> Fit:
    """Fit the curve through the lowest loss of every rung; raises NotEnough below 4 rungs.

    It says nothing of sizes, and it takes the best run for the optimum: a rung whose sizes miss it
    stands too high.
    """
    rungs = runs.rungs
    if len(rungs) < RUNGS_NEEDED:
        raise NotEnough(
            f"{len(rungs)} rungs of compute; law 'envelope' needs {RUNGS_NEEDED}; add budgets"
        )
    place, log_y = runs.column("rung"), np.log(runs.column("loss"))
    log_c = np.array([np.log(runs.column("flops")[place == rung]).mean() for rung in rungs])
    weights = np.vstack([np.ones(len(log_y)), resampled(place, draws, seed)])
    curve = curves.loss_curve(log_c, _lowest(log_y, place, weights))
    shown = curve.copy()
    shown[:, 1] = np.exp(shown[:, 1])
    se, low, high = spread(shown[1:])
    doubts = curves.bounds(np.concatenate([np.zeros(4), shown[0]]), len(rungs))
    bounds = zip(low.tolist(), high.tolist(), strict=True)
    best = _lowest(log_y, place, weights[:1])[0]
    return Fit(
        law="envelope",
        metric=runs.metric,
        coef=dict(zip(NAMES, shown[0].tolist(), strict=True)),
        se=dict(zip(NAMES, se.tolist(), strict=True)),
        intervals=dict(zip(NAMES, bounds, strict=True)),
        profiles={},
        theta=curve[0],
        draws=curve[1:],
        objective=float(np.sum((np.exp(_values(curve[:1], log_c)[0] - best) - 1) ** 2)),
        run_ids=tuple(runs.frame["run_id"].to_list()),
        budgets=rungs,
        params_convention=runs.params_convention,
        diagnostics=tuple(doubts),
        excluded=runs.excluded,
    )


def _values(curve: Floats, log_c: Floats) -> Floats:
    """ln L (m, k) of curves (m, 3) of E, ln K and g at ln C (k,)."""
    floor, log_k, g = (curve[:, i, None] for i in range(3))
    return np.log(floor + np.exp(log_k - g * log_c))


def optimum(fit: Fit, runs: Runs, budget: float) -> tuple[Floats, Floats]:
    """Logs of params, tokens (both NaN: nothing is said of them) and loss: (3,) and (m, 3)."""
    logs = np.full((1 + len(fit.draws), 3), np.nan)
    logs[:, 2] = _values(np.vstack([fit.theta, fit.draws]), np.log([budget]))[:, 0]
    return logs[0], logs[1:]

"""IsoFLOP: the minimum of loss over size at each budget, and laws through the minima.

Source: Hoffmann et al. 2022, arXiv:2203.15556, approach 2; Llama 3, arXiv:2407.21783, sec. 3.2.1.
The correction of the parabola by a surface is ours.
"""

# numpy's grids and linear algebra, and all of scipy, come without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence

import numpy as np
import polars as pl

from analysis import curves, uncertainty
from analysis.law import Diagnostic, Excluded, Fit, Floats, NotEnough, scientific, spread
from analysis.minima import METHODS, Minimum, Variable, judged, lowest, through
from analysis.runs import Runs
from analysis.solve import solve
from analysis.surface import SURFACES, Sizes, evaluate, sizes_of

BUDGETS_NEEDED = 3
# Runs that a surface of five coefficients takes before it may correct a parabola.
RUNS_FOR_SURFACE = 12
Pair = tuple[Minimum, Minimum]
VARIABLES: tuple[Variable, Variable] = ("params", "tokens")


class _Prior:
    """The smooth surface through all runs, which knows how a method errs at given sizes."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.surface = SURFACES["parametric"]
        self.center = sizes_of(rows).center
        log_y = np.log(rows["loss"].to_numpy())
        self.theta = solve(self.surface, sizes_of(rows), log_y)[0]

    def __call__(self, log_n: Floats, log_d: Floats) -> Floats:
        """ln L at sizes."""
        sizes = Sizes(log_n, log_d, log_d, self.center)
        return evaluate(self.surface, sizes, self.theta[None])[0][0]

    def offset(self, rows: pl.DataFrame, variable: Variable, method: str) -> tuple[float, float]:
        """What the method finds on the surface's own losses, less the surface's true minimum."""
        log_n, log_d = (rows[name].log().to_numpy() for name in ("params", "tokens"))
        u = log_n if variable == "params" else log_d
        if len(np.unique(u)) < 4:
            return 0.0, 0.0
        slope, start = np.polyfit(log_n, log_d, 1)
        margin = 0.25 * np.ptp(log_n)
        grid: Floats = np.linspace(log_n.min() - margin, log_n.max() + margin, 2001)
        best_n, best = lowest(grid, self(grid, start + slope * grid)[None])
        best_u = best_n if variable == "params" else start + slope * best_n
        where, low = METHODS[method](u - u.mean(), np.exp(self(log_n, log_d))[None])
        off = float((where + u.mean() - best_u)[0]), float((np.log(low) - best)[0])
        return off if np.isfinite(off).all() else (0.0, 0.0)


def minima(
    runs: Runs, variable: Variable, method: str = "parabola", *, corrected: bool = True
) -> tuple[Minimum, ...]:
    """One minimum of loss in log `variable` for every budget, smallest budget first."""
    groups, prior = _budgets(runs, corrected=corrected)
    return _minima(groups, prior, variable, method)


def pairs_of_minima(
    runs: Runs, method: str = "parabola", *, corrected: bool = True
) -> tuple[Pair, ...]:
    """The minima in params and in tokens of every budget, corrected by one and the same surface."""
    groups, prior = _budgets(runs, corrected=corrected)
    params, tokens = (_minima(groups, prior, name, method) for name in VARIABLES)
    return tuple(zip(params, tokens, strict=True))


def _budgets(runs: Runs, *, corrected: bool) -> tuple[list[pl.DataFrame], _Prior | None]:
    """The runs budget by budget, and the surface through all of them where it can be had."""
    rows = runs.frame.filter(pl.col("budget").is_not_null())
    groups = rows.partition_by("budget", maintain_order=True)
    enough = len(rows) >= RUNS_FOR_SURFACE and len(groups) > 1
    return groups, _Prior(rows) if corrected and enough else None


def _minima(
    groups: Sequence[pl.DataFrame], prior: _Prior | None, variable: Variable, method: str
) -> tuple[Minimum, ...]:
    found: list[Minimum] = []
    for group in groups:
        smooth, offset = None, (0.0, 0.0)
        if prior:
            logs = (group[name].log().to_numpy() for name in ("params", "tokens"))
            smooth, offset = np.exp(prior(*logs)), prior.offset(group, variable, method)
        found.append(through(group, variable, method, smooth, offset))
    return judged(found)


def _redraw(fitted: Sequence[Minimum], lenders: Sequence[np.ndarray]) -> tuple[Floats, Floats]:
    """Logs of optimum and best loss, each (draws, k), of minima found again in resampled runs."""
    smooth = [p.smooth for p in fitted if p.smooth is not None]
    pool = uncertainty.studentized(
        [p.measured / line - 1 for p, line in zip(fitted, smooth, strict=True)], fitted_coefs=3
    )
    optima: list[Floats] = []
    best: list[Floats] = []
    for p, line, lender in zip(fitted, smooth, lenders, strict=True):
        where, loss = p.find(line * (1 + pool[lender]))
        # A draw's minimum beyond the sizes tried says no more than "at the edge".
        optima.append(np.clip(where, *np.log(p.span)))
        best.append(loss)
    return np.stack(optima, axis=1), np.stack(best, axis=1)


def accepted(
    runs: Runs, method: str = "parabola", *, corrected: bool = True
) -> tuple[list[Pair], list[Diagnostic]]:
    """Minima in params and in tokens of each budget where both stand, and every refusal."""
    kept: list[Pair] = []
    refusals: list[Diagnostic] = []
    for pair in pairs_of_minima(runs, method, corrected=corrected):
        reasons = {p.refusal.name: p.refusal for p in reversed(pair) if p.refusal}
        refusals.extend(reasons.values())
        if not reasons:
            kept.append(pair)
    return kept, refusals


def not_enough(
    usable_budgets: Sequence[float], refusals: Sequence[Diagnostic], excluded: Sequence[Excluded]
) -> NotEnough:
    good = ", ".join(scientific(budget) for budget in usable_budgets) or "none"
    bad = "; ".join(str(refusal) for refusal in refusals) or "no other budget has a finished run"
    out = f"; {len(excluded)} runs kept out by state or loss" if excluded else ""
    return NotEnough(
        f"{len(usable_budgets)} usable budgets ({good}), {BUDGETS_NEEDED} are needed; {bad}{out}; "
        "add budgets, or sizes around the minimum"
    )


def redrawn(pairs: Sequence[Pair], draws: int, seed: int) -> Floats:
    """Logs (draws, 3, k) of params, tokens and loss at the minima of resampled runs."""
    lenders = uncertainty.resampled_runs([len(p.run_ids) for p, _ in pairs], draws, seed)
    params, loss = _redraw([p for p, _ in pairs], lenders)
    tokens, _ = _redraw([t for _, t in pairs], lenders)
    return np.stack([params, tokens, loss], axis=1)


def measured(pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    """Budgets (k,) and logs (3, k) of params, tokens and loss at their minima."""
    budgets = np.array([p.budget for p, _ in pairs])
    found = [[p.optimum, t.optimum, p.loss] for p, t in pairs]
    return budgets, np.log(np.array(found, dtype=np.float64)).T


def fit(
    runs: Runs,
    *,
    draws: int = 1000,
    seed: int = 0,
    method: str = "parabola",
    corrected: bool = True,
    name: str = "isoflop",
    needed: int = BUDGETS_NEEDED,
) -> Fit:
    """Fit N*(C), D*(C) and L*(C) through the minima of the budgets, with bootstrap draws.

    L* = E + K C^-g from 4 usable budgets on, else K C^-g. Raises NotEnough below 3 usable budgets.
    """
    pairs, diagnostics = accepted(runs, method, corrected=corrected)
    if len(pairs) < needed:
        raise not_enough([p.budget for p, _ in pairs], diagnostics, runs.excluded)
    budgets, optima = measured(pairs)
    coef = curves.compute_laws(budgets, optima[None])[0]
    drawn = curves.compute_laws(budgets, redrawn(pairs, draws, seed))
    whole = np.isfinite(drawn).all(axis=1)
    if not whole.all():
        why = f"{(~whole).sum()} of {draws} bootstrap draws lost so many minima that no law is left"
        diagnostics.append(Diagnostic("draws_refused", why))
    se, low, high = spread(drawn[whole])
    return Fit(
        law=name,
        metric=runs.metric,
        coef=dict(zip(curves.COEFS, coef.tolist(), strict=True)),
        se=dict(zip(curves.COEFS, se.tolist(), strict=True)),
        intervals=dict(
            zip(curves.COEFS, zip(low.tolist(), high.tolist(), strict=True), strict=True)
        ),
        profiles={},
        theta=coef,
        draws=drawn[whole],
        objective=_misfit(pairs),
        run_ids=tuple(run_id for p, _ in pairs for run_id in p.run_ids),
        budgets=tuple(budgets.tolist()),
        params_convention=runs.params_convention,
        diagnostics=(*diagnostics, *curves.bounds(coef, len(budgets))),
        excluded=runs.excluded,
    )


def _misfit(pairs: Sequence[Pair]) -> float:
    """Sum of squares of the runs' relative distances to their smooth curves."""
    ratios = [p.measured / p.smooth - 1 for p, _ in pairs if p.smooth is not None]
    return float(sum(r @ r for r in ratios))


def optimum(fit: Fit, runs: Runs, budget: float) -> tuple[Floats, Floats]:
    """Logs of params, tokens and loss at a budget: (3,), and of the draws (m, 3)."""
    return curves.evaluate(fit.theta[None], budget)[0], curves.evaluate(fit.draws, budget)

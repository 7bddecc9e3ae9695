"""IsoFLOP: at each budget a parabola of loss in log size; its minimum; laws through the minima.

Source: Hoffmann et al. 2022, arXiv:2203.15556, approach 2; Llama 3, arXiv:2407.21783, sec. 3.2.1.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from analysis import curves, uncertainty
from analysis.law import (
    Diagnostic,
    Excluded,
    Fit,
    Floats,
    Forecast,
    NotEnough,
    scientific,
    usable,
)

Variable = Literal["params", "tokens"]
Pair = tuple["Parabola", "Parabola"]

SIZES_NEEDED = 4
BUDGETS_NEEDED = 3


@dataclass(frozen=True)
class Parabola:
    """loss = c0 + c1 u + c2 u^2 at one budget, u = ln(variable) - center.

    Where `refusal` is set there is no `optimum` and no `loss`; too few sizes give no `coef` either.
    """

    budget: float
    variable: Variable
    run_ids: tuple[str, ...]
    span: tuple[float, float]
    center: float
    coef: tuple[float, float, float] | None
    optimum: float | None
    loss: float | None
    refusal: Diagnostic | None

    def __call__(self, size: Floats) -> Floats:
        """Loss at sizes (params or tokens); the parabola must have coefficients."""
        assert self.coef is not None
        return design(np.log(size) - self.center) @ np.asarray(self.coef)


def design(u: Floats) -> Floats:
    """Columns 1, u, u^2."""
    return np.stack([np.ones_like(u), u, u * u], axis=-1)


def turning_point(coef: Floats) -> tuple[Floats, Floats]:
    """Minimum (u, loss) of parabolas (..., 3); NaN where one is concave or flat."""
    c0, c1, c2 = np.moveaxis(coef, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
    return u, c0 + c1 * u + c2 * u * u


def _curvature_is_seen(matrix: Floats, coef: Floats, loss: Floats) -> bool:
    """Whether c2 is above zero at the 5 % level, one-sided, against the scatter of the runs."""
    dof = len(loss) - 3
    scatter = math.sqrt(float(np.sum((loss - matrix @ coef) ** 2)) / dof)
    # Losses that lie exactly on a curve still carry rounding.
    scatter = max(scatter, 1e-12 * float(np.abs(loss).mean()))
    error = scatter * math.sqrt(np.linalg.inv(matrix.T @ matrix)[2, 2])
    return bool(coef[2] > stats.t.ppf(0.95, dof) * error)


def _parabola(budget: float, variable: Variable, rows: pl.DataFrame) -> Parabola:
    size, loss = rows[variable].to_numpy(), rows["loss"].to_numpy()
    sizes = rows[variable].n_unique()
    span, center = (float(size.min()), float(size.max())), float(np.log(size).mean())
    run_ids, name = tuple(rows["run_id"].to_list()), f"budget {scientific(budget)}"

    def refused(reason: str, detail: str, coef: Floats | None = None) -> Parabola:
        kept = None if coef is None else (float(coef[0]), float(coef[1]), float(coef[2]))
        why = Diagnostic(reason, f"{name}: {detail}")
        return Parabola(budget, variable, run_ids, span, center, kept, None, None, why)

    if sizes < SIZES_NEEDED:
        return refused("too_few_points", f"{sizes} sizes finished, {SIZES_NEEDED} are needed")
    matrix = design(np.log(size) - center)
    coef = np.linalg.lstsq(matrix, loss, rcond=None)[0].astype(np.float64)
    if not _curvature_is_seen(matrix, coef, loss):
        why = f"loss over log {variable} shows no minimum above the scatter of the runs"
        return refused("concave_or_flat", why, coef)
    u, best = (float(x) for x in turning_point(coef))
    lowest, highest = math.log(span[0]) - center, math.log(span[1]) - center
    if not lowest < u < highest:
        end = "smallest" if u <= lowest else "largest"
        why = f"the best {variable} is at or beyond the {end} tried, {scientific(span[u > 0])}"
        return refused("minimum_at_edge", why, coef)
    kept = (float(coef[0]), float(coef[1]), float(coef[2]))
    optimum = math.exp(u + center)
    return Parabola(budget, variable, run_ids, span, center, kept, optimum, best, None)


def parabolas(points: pl.DataFrame, variable: Variable) -> tuple[Parabola, ...]:
    """One parabola of loss in log `variable` for every budget, smallest budget first.

    Columns needed: run_id, budget, params, tokens, loss; rows that `law.usable` refuses are out.
    """
    rows, _ = usable(points)
    groups = rows.partition_by("budget", maintain_order=True)
    return tuple(_parabola(float(group["budget"][0]), variable, group) for group in groups)


def _redraw(
    runs: pl.DataFrame, fitted: Sequence[Parabola], lenders: Sequence[np.ndarray]
) -> tuple[Floats, Floats]:
    """Logs of optimum and best loss, each (draws, k), of parabolas refitted to resampled runs."""
    groups = [runs.filter(pl.col("budget") == p.budget) for p in fitted]
    sizes = [group[p.variable].to_numpy() for group, p in zip(groups, fitted, strict=True)]
    smooth = [p(size) for p, size in zip(fitted, sizes, strict=True)]
    losses = [group["loss"].to_numpy() for group in groups]
    pool = uncertainty.studentized(
        [loss / line - 1 for loss, line in zip(losses, smooth, strict=True)], fitted_coefs=3
    )
    optima: list[Floats] = []
    best: list[Floats] = []
    for p, size, line, lender in zip(fitted, sizes, smooth, lenders, strict=True):
        u = np.log(size) - p.center
        coef = line * (1 + pool[lender]) @ np.linalg.pinv(design(u)).T
        # A draw's minimum beyond the sizes tried says no more than "at the edge".
        where = np.clip(turning_point(coef)[0], u.min(), u.max())
        optima.append(where + p.center)
        best.append(np.log((design(where) * coef).sum(axis=-1)))
    return np.stack(optima, axis=1), np.stack(best, axis=1)


def _accepted(points: pl.DataFrame) -> tuple[list[Pair], list[Diagnostic]]:
    """Parabolas in params and in tokens of each budget where both stand, and every refusal."""
    both = zip(parabolas(points, "params"), parabolas(points, "tokens"), strict=True)
    accepted: list[Pair] = []
    refusals: list[Diagnostic] = []
    for pair in both:
        reasons = {p.refusal.name: p.refusal for p in reversed(pair) if p.refusal}
        refusals.extend(reasons.values())
        if not reasons:
            accepted.append(pair)
    return accepted, refusals


def _not_enough(
    usable_budgets: Sequence[float], refusals: Sequence[Diagnostic], excluded: Sequence[Excluded]
) -> NotEnough:
    good = ", ".join(scientific(budget) for budget in usable_budgets) or "none"
    bad = "; ".join(str(refusal) for refusal in refusals) or "no other budget has a finished run"
    out = f"; {len(excluded)} runs kept out by state or loss" if excluded else ""
    return NotEnough(
        f"{len(usable_budgets)} usable budgets ({good}), {BUDGETS_NEEDED} are needed; {bad}{out}; "
        "add budgets, or sizes around the minimum"
    )


def _draws(
    runs: pl.DataFrame, accepted: Sequence[Pair], draws: int, seed: int
) -> tuple[Floats, list[Diagnostic]]:
    """Coefficients (m, 7), refitted from the parabolas up in every draw; lost draws are named."""
    lenders = uncertainty.resampled_runs([len(p.run_ids) for p, _ in accepted], draws, seed)
    params, loss = _redraw(runs, [p for p, _ in accepted], lenders)
    tokens, _ = _redraw(runs, [t for _, t in accepted], lenders)
    budgets = np.array([p.budget for p, _ in accepted])
    coef = curves.compute_laws(budgets, np.stack([params, tokens, loss], axis=1))
    whole = np.isfinite(coef).all(axis=1)
    if whole.all():
        return coef, []
    why = f"{(~whole).sum()} of {draws} bootstrap draws lost so many minima that no law remained"
    return coef[whole], [Diagnostic("draws_refused", why)]


def _extrapolate(budgets: Floats, optima: Floats, budget: float) -> Floats:
    return curves.evaluate(curves.compute_laws(budgets, optima[None]), budget)[0]


def fit(
    points: pl.DataFrame,
    *,
    draws: int = 1000,
    seed: int = 0,
    metric: str = "nats_per_token",
    params_convention: str = "params_active",
) -> Fit:
    """Fit N*(C), D*(C) and L*(C) through the minima of the budgets, with bootstrap draws.

    L* = E + K C^-g from 4 usable budgets on, else K C^-g. Raises NotEnough below 3 usable budgets.
    """
    runs, excluded = usable(points)
    accepted, diagnostics = _accepted(points)
    budgets = np.array([pair[0].budget for pair in accepted])
    if len(budgets) < BUDGETS_NEEDED:
        raise _not_enough(budgets.tolist(), diagnostics, excluded)
    minima = [[p.optimum, t.optimum, p.loss] for p, t in accepted]
    optima = np.log(np.array(minima, dtype=np.float64)).T
    coef = curves.compute_laws(budgets, optima[None])[0]
    diagnostics += curves.bounds(coef, len(budgets))
    drawn, refused = _draws(runs, accepted, draws, seed)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return Fit(
        law="isoflop",
        metric=metric,
        coef=dict(zip(curves.COEFS, coef.tolist(), strict=True)),
        covariance=np.cov(drawn, rowvar=False),
        draws=drawn,
        run_ids=tuple(run_id for p, _ in accepted for run_id in p.run_ids),
        params_convention=params_convention,
        diagnostics=(*diagnostics, *refused),
        excluded=excluded,
        intervals=dict(
            zip(curves.COEFS, zip(low.tolist(), high.tolist(), strict=True), strict=True)
        ),
        budgets=tuple(budgets.tolist()),
        backtest=uncertainty.backtest(budgets, optima, _extrapolate),
    )


def predict(fit: Fit, budget: float, *, level: float = 0.95) -> Forecast:
    """The optimum of a fitted law at a budget in FLOPs; raises ValueError unless it is positive."""
    if not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"budget={budget} is not a positive number of FLOPs; give one like 1e21")
    reach = math.log10(budget / fit.budgets[-1])
    centers = curves.evaluate(np.array([list(fit.coef.values())]), budget)[0]
    drawn = curves.evaluate(fit.draws, budget)
    decades = np.array([row.decades for row in fit.backtest])
    params, tokens, loss = (
        uncertainty.widened(
            float(centers[i]),
            drawn[:, i],
            np.array([getattr(row, f"{name}_error") for row in fit.backtest]),
            decades,
            reach,
            level,
        )
        for i, name in enumerate(("params", "tokens", "loss"))
    )
    n, d, best = (float(x) for x in np.exp(centers))
    return Forecast(
        budget=budget,
        params=n,
        tokens=d,
        loss=best,
        low=loss.low,
        high=loss.high,
        level=level,
        extrapolation=reach,
        params_low=params.low,
        params_high=params.high,
        tokens_low=tokens.low,
        tokens_high=tokens.high,
        dominant=loss.dominant,
        backtest=fit.backtest,
        diagnostics=fit.diagnostics,
        fit=fit,
    )

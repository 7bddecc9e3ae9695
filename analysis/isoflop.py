"""IsoFLOP: at each budget a parabola of loss in log size; its minimum; laws through the minima.

Source: Hoffmann et al. 2022, arXiv:2203.15556, approach 2; Llama 3, arXiv:2407.21783, sec. 3.2.1.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    `scatter` is the standard deviation of the runs about it, `curvature_error` that of c2 per unit
    of scatter. Where `refusal` is set there is no `optimum` and no `loss`; too few sizes give no
    `coef` either.
    """

    budget: float
    variable: Variable
    run_ids: tuple[str, ...]
    span: tuple[float, float]
    center: float
    coef: tuple[float, float, float] | None = None
    scatter: float = math.nan
    curvature_error: float = math.nan
    optimum: float | None = None
    loss: float | None = None
    refusal: Diagnostic | None = None

    def refused(self, name: str, detail: str) -> "Parabola":
        why = Diagnostic(name, f"budget {scientific(self.budget)}: {detail}")
        return replace(self, refusal=why)

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


def _through(budget: float, variable: Variable, rows: pl.DataFrame) -> Parabola:
    """The parabola through the runs of a budget, its minimum not judged yet."""
    size, loss = rows[variable].to_numpy(), rows["loss"].to_numpy()
    log_size = np.log(size)
    bare = Parabola(
        budget=budget,
        variable=variable,
        run_ids=tuple(rows["run_id"].to_list()),
        span=(float(size.min()), float(size.max())),
        center=float(log_size.mean()),
    )
    sizes = rows[variable].n_unique()
    if sizes < SIZES_NEEDED:
        why = f"{sizes} sizes finished, {SIZES_NEEDED} are needed"
        return bare.refused("too_few_points", why)
    matrix = design(log_size - bare.center)
    coef = np.linalg.lstsq(matrix, loss, rcond=None)[0].astype(np.float64)
    squares = float(np.sum((loss - matrix @ coef) ** 2))
    # Losses that lie exactly on a curve still carry rounding.
    scatter = max(math.sqrt(squares / (len(loss) - 3)), 1e-12 * float(np.abs(loss).mean()))
    error = math.sqrt(np.linalg.inv(matrix.T @ matrix)[2, 2])
    c0, c1, c2 = (float(c) for c in coef)
    return replace(bare, coef=(c0, c1, c2), scatter=scatter, curvature_error=error)


def _pooled_scatter(fitted: Sequence[Parabola]) -> tuple[float, int]:
    """Standard deviation of the runs about their parabolas, and its degrees of freedom."""
    parts = [(len(p.run_ids) - 3, p.scatter) for p in fitted if p.coef]
    dof = sum(n for n, _ in parts)
    return math.sqrt(sum(n * s * s for n, s in parts) / max(dof, 1)), dof


def _judged(p: Parabola, pooled: tuple[float, int]) -> Parabola:
    """The parabola with its minimum, or with the reason why it has none to be believed.

    A minimum is seen where c2 is above zero at 5 %, one-sided, against the scatter of the budget's
    own runs or against that of all budgets: the one serves where noise differs between budgets, the
    other has the degrees of freedom that five runs lack.
    """
    if p.coef is None:
        return p
    own = (p.scatter, len(p.run_ids) - 3)
    if not any(
        p.coef[2] > stats.t.ppf(0.95, dof) * scatter * p.curvature_error
        for scatter, dof in (own, pooled)
    ):
        why = f"loss over log {p.variable} shows no minimum above the scatter of the runs"
        return p.refused("concave_or_flat", why)
    u, loss = (float(x) for x in turning_point(np.asarray(p.coef)))
    low, high = (math.log(end) - p.center for end in p.span)
    if not low < u < high:
        end, size = ("smallest", p.span[0]) if u <= low else ("largest", p.span[1])
        why = f"the best {p.variable} is at or beyond the {end} tried, {scientific(size)}"
        return p.refused("minimum_at_edge", why)
    return replace(p, optimum=math.exp(u + p.center), loss=loss)


def parabolas(points: pl.DataFrame, variable: Variable) -> tuple[Parabola, ...]:
    """One parabola of loss in log `variable` for every budget, smallest budget first.

    Columns needed: run_id, budget, params, tokens, loss; rows that `law.usable` refuses are out.
    """
    rows, _ = usable(points)
    groups = rows.partition_by("budget", maintain_order=True)
    fitted = [_through(float(group["budget"][0]), variable, group) for group in groups]
    pooled = _pooled_scatter(fitted)
    return tuple(_judged(p, pooled) for p in fitted)


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

"""The two steps of one task: loss on the right answers over compute, accuracy over that loss.

Source: Llama 3, arXiv:2407.21783, sec. 3.2.1. Legend: n runs, m bootstrap draws, p coefficients.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from analysis import curves
from analysis.downstream import sigmoid
from analysis.downstream.sigmoid import Sigmoid
from analysis.law import Diagnostic, Floats

# nll = a + b ln C, or E + K C^-g.
FORMS = {
    "linear": ("nll_intercept", "nll_slope"),
    "power": ("nll_irreducible", "nll_coefficient", "nll_exponent"),
}
RUNS_NEEDED = 5
# Levels of compute that the smallest back-test fits.
ORIGIN_LEVELS = 4
# Shares of the runs, worst loss first, that the sigmoid's back-test fits.
ORIGIN_SHARES = (0.5, 0.65, 0.8)


@dataclass(frozen=True, eq=False)
class Task:
    """Both steps for one task, with m draws of each from the same resampled runs.

    `line` (p,) and `line_draws` (m, p) are coefficients as FORMS[form] (of the power form, the log
    of K); `backtest` has for each form the root mean square error of ln nll a root decade of
    extrapolation. `curve` is None where accuracy does not follow the loss.
    """

    name: str
    run_ids: tuple[str, ...]
    flops: Floats
    nll: Floats
    accuracy: Floats
    form: str
    line: Floats
    line_draws: Floats
    backtest: dict[str, float]
    origins: int
    curve: Sigmoid | None
    curve_draws: Floats
    strays: float
    diagnostics: tuple[Diagnostic, ...]


def nll_at(form: str, line: Floats, log_c: Floats) -> Floats:
    """NLL (..., n) of coefficients (..., p) at ln FLOPs (n,)."""
    if form == "linear":
        return line[..., :1] + line[..., 1:] * log_c
    floor, log_scale, exponent = (line[..., i, None] for i in range(3))
    return floor + np.exp(log_scale - exponent * log_c)


def _lines(form: str, log_c: Floats, nll: Floats) -> Floats:
    """Coefficients (m, p) of resamples (m, n), where NaN is no run."""
    if form == "linear":
        # The least squares of the power law serve any line.
        return curves.power_law(log_c, nll)
    return curves.loss_curve(log_c, np.log(nll))


def _backtest(log_c: Floats, nll: Floats) -> tuple[dict[str, float], int]:
    """Error of each form a root decade beyond every origin, least first, and how many origins."""
    levels = np.unique(np.round(log_c, 2))
    cuts = levels[max(ORIGIN_LEVELS, len(levels) // 2) - 1 : -1] + 0.01
    if not len(cuts):
        return {"linear": math.nan}, 0
    below = log_c <= cuts[:, None]
    decades = (log_c - cuts[:, None]) / math.log(10)
    found: dict[str, float] = {}
    for form in FORMS:
        lines = _lines(form, log_c, np.where(below, nll, np.nan))
        said = np.maximum(nll_at(form, lines, log_c), 1e-9)
        error = np.where(below, 0.0, np.log(said / nll))
        found[form] = math.sqrt(float((error**2).sum() / decades[~below].sum()))
    return dict(sorted(found.items(), key=lambda item: item[1])), len(cuts)


def freed(residuals: Floats, coefs: int) -> Floats:
    """Residuals freed of the degrees of freedom that a fit took, with Student's tails."""
    n = len(residuals)
    student = float(stats.t.ppf(0.975, n - coefs) / stats.norm.ppf(0.975))
    return residuals * math.sqrt(n / (n - coefs)) * student


def _doubts(name: str, line: Floats, form: str, origins: int) -> Iterator[Diagnostic]:
    said = f"{name}: " if name else ""
    if form == "linear" and line[1] >= 0:
        yield Diagnostic("nll_not_falling", f"{said}the loss does not fall with compute")
    if form == "power" and (line[0] == 0 or math.isinf(line[1])):
        why = "no irreducible loss is seen" if line[0] == 0 else "the loss does not fall"
        yield Diagnostic("nll_irreducible_at_bound", f"{said}{why} in these runs")
    if not origins:
        why = f"fewer than {ORIGIN_LEVELS + 1} levels of compute: a line, never tested on larger"
        yield Diagnostic("not_backtested", f"{said}{why} runs")


def _curve_doubts(name: str, curve: Sigmoid, chance: float | None) -> Iterator[Diagnostic]:
    said = f"{name}: " if name else ""
    if 1 not in curve.free:
        yield Diagnostic("ceiling_unidentified", f"{said}no run is near a ceiling; taken as 1")
    if 0 not in curve.free and chance is None:
        why = "no run is near a floor; taken as 0 (a column chance would say)"
        yield Diagnostic("floor_unidentified", f"{said}{why}")
    for coef in curve.at_bound():
        why = f"{said}{coef} stands at the end of what was searched; the curve serves, it does not"
        yield Diagnostic(f"{coef}_unidentified", why)


def _strays(nll: Floats, accuracy: Floats, chance: float | None) -> float:
    """Error of the sigmoid a root nat below the runs it was fitted to, from several origins."""
    order = np.argsort(-nll)
    nll, accuracy = nll[order], accuracy[order]
    squares, distance = 0.0, 0.0
    for share in ORIGIN_SHARES:
        n = math.ceil(share * len(nll))
        if n < RUNS_NEEDED or not np.ptp(nll[:n]) or not np.ptp(accuracy[:n]):
            continue
        curve = sigmoid.fit(nll[:n], accuracy[:n], chance)
        squares += float(((sigmoid.value(curve.theta, nll[n:]) - accuracy[n:]) ** 2).sum())
        distance += float((nll[n - 1] - nll[n:]).sum())
    return math.sqrt(squares / distance) if distance else 0.0


def _sigmoid(rows: pl.DataFrame, name: str, chance: float | None) -> Sigmoid | Diagnostic:
    nll, accuracy = rows["nll"].to_numpy(), rows["accuracy"].to_numpy()
    said = f"{name}: " if name else ""
    if np.ptp(accuracy) == 0 or np.ptp(nll) == 0:
        return Diagnostic("accuracy_flat", f"{said}nll or accuracy is the same in every run")
    rank: Any = stats.spearmanr(nll, accuracy, alternative="less")
    if rank.pvalue > 0.05:
        why = f"{said}accuracy does not rise as nll falls (rank correlation {rank.statistic:.2f})"
        return Diagnostic("accuracy_flat", why)
    return sigmoid.fit(nll, accuracy, chance)


def fit_task(name: str, rows: pl.DataFrame, draws: int, rng: np.random.Generator) -> Task:
    """Both steps through the runs of a task; draws are over the runs, the same for both."""
    log_c, nll = rows["flops"].log().to_numpy(), rows["nll"].to_numpy()
    accuracy = rows["accuracy"].to_numpy()
    known = rows["chance"].drop_nulls().to_list() if "chance" in rows.columns else []
    chance: float | None = known[0] if known else None
    backtest, origins = _backtest(log_c, nll)
    form = next(iter(backtest))
    line = _lines(form, log_c, nll[None])[0]
    smooth = nll_at(form, line, log_c)
    lender = rng.integers(0, len(rows), size=(draws, len(rows)))
    drawn = smooth * (1 + freed(nll / smooth - 1, len(line))[lender])
    found = _sigmoid(rows, name, chance)
    curve, curve_draws, strays = None, np.empty((0, 4)), 0.0
    doubts = list(_doubts(name, line, form, origins))
    if isinstance(found, Diagnostic):
        doubts.append(found)
    else:
        curve, shape = found, sigmoid.value(found.theta, nll)
        doubts += _curve_doubts(name, found, chance)
        again = shape + freed(accuracy - shape, len(found.free))[lender]
        curve_draws = sigmoid.refit(found, nll, again)
        strays = _strays(nll, accuracy, chance)
    return Task(
        name=name,
        run_ids=tuple(rows["run_id"].to_list()),
        flops=rows["flops"].to_numpy(),
        nll=nll,
        accuracy=accuracy,
        form=form,
        line=line,
        line_draws=_lines(form, log_c, drawn),
        backtest=backtest,
        origins=origins,
        curve=curve,
        curve_draws=curve_draws,
        strays=strays,
        diagnostics=tuple(doubts),
    )

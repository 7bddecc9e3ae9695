"""What `fit` answers: one plain object of a law's coefficients, its optimum, and its doubts."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from analysis import forecast, isoflop
from analysis.downstream import fit as downstream
from analysis.hyper import fit as hyper
from analysis.law import Diagnostic, Excluded, Forecast, NotEnough, Opinion, finite
from analysis.laws import LAWS
from analysis.mixture import fit as mixture
from analysis.panel import Panel, predict
from analysis.points import Points
from analysis.runs import prepare

Answer = dict[str, Any]

# Laws of something else than sizes and losses: they answer for themselves.
OTHER: dict[str, tuple[Callable[..., Any], Callable[..., Answer]]] = {
    "lr-batch": (hyper.fit, hyper.answer),
    "downstream": (downstream.fit, downstream.answer),
    "mixture": (mixture.fit, mixture.answer),
}
LAW_NAMES = (forecast.AUTO, *LAWS, *OTHER)


def _excluded(found: tuple[Excluded, ...]) -> list[Answer]:
    return [{"row": e.run_id, "reason": e.reason} for e in found]


def _diagnostics(found: tuple[Diagnostic, ...]) -> list[Answer]:
    return [{"name": d.name, "detail": d.detail} for d in found]


def _optimum(said: Forecast) -> Answer:
    return {
        "budget": said.budget,
        "params": finite(said.params),
        "params_low": finite(said.params_low),
        "params_high": finite(said.params_high),
        "tokens": finite(said.tokens),
        "tokens_low": finite(said.tokens_low),
        "tokens_high": finite(said.tokens_high),
        "loss": finite(said.loss),
        "loss_low": finite(said.low),
        "loss_high": finite(said.high),
        "level": said.level,
        "extrapolation_decades": said.extrapolation,
        "dominant": said.dominant,
    }


def _opinion(one: Opinion) -> Answer:
    names = ("params", "params_low", "params_high", "tokens", "tokens_low", "tokens_high")
    return (
        {"law": one.law}
        | {name: getattr(one, name) for name in names}
        | {"loss": one.loss, "loss_low": finite(one.low), "loss_high": finite(one.high)}
        | {"size_error": one.size_error, "loss_error": one.loss_error}
        | {"size_weight": one.size_weight, "loss_weight": one.loss_weight}
        | {"diagnostics": [str(d) for d in one.diagnostics]}
    )


def _backtest(panel: Panel) -> list[Answer]:
    return [
        {"law": m.law.name, "upto": row.upto, "budget": row.budget}
        | {"params_error": row.params_error, "loss_error": row.loss_error}
        for m in panel.members
        for row in m.backtest
    ]


def _minima(panel: Panel) -> list[Answer]:
    """The minimum of every budget, or why it has none."""
    return [
        {"budget": n.budget, "runs": len(n.run_ids), "params": n.optimum, "tokens": d.optimum}
        | {"loss": n.loss, "refusal": (n.refusal or d.refusal) and str(n.refusal or d.refusal)}
        for n, d in isoflop.pairs_of_minima(panel.runs)
    ]


def _predictions(panel: Panel, sizes: pl.DataFrame) -> list[Answer]:
    unique = "unique_tokens" if "unique_tokens" in sizes.columns else "tokens"
    n, d, u = (
        sizes[name].cast(pl.Float64).log().to_numpy() for name in ("params", "tokens", unique)
    )
    found = predict(panel, n, d, u)
    return [
        {"params": n, "tokens": d, "loss": p.loss, "low": finite(p.low), "high": finite(p.high)}
        for n, d, p in zip(sizes["params"], sizes["tokens"], found, strict=True)
    ]


def answer(
    points: Points,
    law: str,
    target: float | None,
    sizes: pl.DataFrame | None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Answer:
    """What a law says of runs, as plain data; at `target` FLOPs, and at `sizes`, where given.

    Raises NotEnough where the runs do not carry the law.
    """
    if law in OTHER:
        if sizes is not None:
            raise NotEnough(f"law {law!r} predicts no loss of sizes; --predict needs another law")
        fit, tell = OTHER[law]
        return tell(fit(points.frame, draws=draws, seed=seed), target)
    runs = prepare(points.frame, params_convention="params as in the file")
    panel = forecast.panel(runs, law, draws=draws, seed=seed)
    said = panel.at(target) if target else None
    fit = said.fit if said else panel.members[0].fit
    # The ratio of flops is measured again on the runs that are fitted.
    read = [note for note in points.notes if note.name not in {d.name for d in runs.notes}]
    doubts = (*read, *runs.notes, *(said.diagnostics if said else fit.diagnostics))
    out: Answer = {
        "law": law,
        "params_convention": fit.params_convention,
        "coefficients_of": fit.law,
        "coef": {name: finite(value) for name, value in fit.coef.items()},
        "se": {name: finite(value) for name, value in fit.se.items()},
        "interval": {
            name: [*map(finite, pair)] if pair else None for name, pair in fit.intervals.items()
        },
        "profile_interval": {name: [*pair] for name, pair in fit.profiles.items()},
        "optimum": _optimum(said) if said else None,
        "excluded": _excluded(fit.excluded),
        "diagnostics": _diagnostics(tuple(dict.fromkeys(doubts))),
        "objective": fit.objective,
        "rows": len(fit.run_ids),
        "flops_ratio": math.exp(float(np.median(runs.ratio.log(np.log(runs.column("params")))))),
        "laws": [_opinion(one) for one in said.opinions] if said else [],
        "not_applicable": _diagnostics(panel.refused),
        "backtest": _backtest(panel),
    }
    if law == forecast.AUTO or law.startswith("isoflop"):
        out["budgets"] = _minima(panel)
    if sizes is not None:
        out["predictions"] = _predictions(panel, sizes)
    return out

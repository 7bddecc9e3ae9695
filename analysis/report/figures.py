"""The figures of a study: `*_data` gives the rows of one, `*_figure` draws such rows."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from analysis import isoflop
from analysis.law import Forecast, scientific
from analysis.minima import turning_point
from analysis.panel import Panel
from analysis.report import style
from analysis.runs import Runs

QUANTITIES = {"params": "N*, parameters", "tokens": "D*, tokens", "loss": "L*"}


# Of the width of a figure; a turning point nearer than this to the minimum is hidden under it.
VISIBLE = 0.005


def isoflop_data(runs: Runs) -> pl.DataFrame:
    """Rows (kind, budget, params, loss, run_id, refusal): runs, parabola, minimum of a budget.

    A "turning point" is that of the parabola, before the minimum was freed of the parabola's bias.
    """
    rows: list[tuple[str, float, float, float, str | None, str | None]] = []
    for p in isoflop.minima(runs, "params"):
        refusal = p.refusal.name if p.refusal else None
        for run_id, size, loss in zip(p.run_ids, p.size.tolist(), p.measured.tolist(), strict=True):
            rows.append(("run", p.budget, size, loss, run_id, refusal))
        if p.optimum is None or p.loss is None:
            continue
        sizes = np.geomspace(p.span[0] / 1.1, p.span[1] * 1.1, 61)
        for size, loss in zip(sizes.tolist(), p(sizes).tolist(), strict=True):
            rows.append(("parabola", p.budget, size, loss, None, None))
        rows.append(("minimum", p.budget, p.optimum, p.loss, None, None))
        where, least = (float(x) for x in turning_point(np.asarray(p.coef)))
        rows.append(("turning point", p.budget, math.exp(where + p.center), least, None, None))
    names = {"kind": pl.String, "budget": pl.Float64, "params": pl.Float64, "loss": pl.Float64}
    return pl.DataFrame(rows, names | {"run_id": pl.String, "refusal": pl.String}, orient="row")


def isoflop_figure(data: pl.DataFrame, metric: str) -> Any:
    """The fan: a budget a colour, runs, their parabola, its minimum; refused budgets are hollow."""
    figure = go.Figure()
    budgets: list[float] = data["budget"].unique().sort().to_list()
    for budget, color in style.budget_colors(budgets).items():
        here = data.filter(pl.col("budget") == budget)
        runs, curve = (here.filter(pl.col("kind") == kind) for kind in ("run", "parabola"))
        figure.add_scatter(
            x=curve["params"].to_list(),
            y=curve["loss"].to_list(),
            mode="lines",
            line={"color": color, "width": 2},
            hoverinfo="skip",
        )
        refused = runs["refusal"].is_not_null().any()
        figure.add_scatter(
            x=runs["params"].to_list(),
            y=runs["loss"].to_list(),
            mode="markers",
            marker={"color": "white" if refused else color, "size": 8}
            | {"line": {"color": color, "width": 1.5}},
            customdata=[html.escape(run_id) for run_id in runs["run_id"]],
            hovertemplate="run %{customdata}<br>%{x:.4s} params<br>%{y:.4f}<extra>"
            f"{scientific(budget)} FLOPs</extra>",
        )
        _label(figure, here, f"{scientific(budget)}{' (refused)' if refused else ''}", color)
    for kind, rows in (("turning point", moved(data)), ("minimum", data)):
        best = rows.filter(pl.col("kind") == kind)
        solid = kind == "minimum"
        figure.add_scatter(
            x=best["params"].to_list(),
            y=best["loss"].to_list(),
            mode="markers",
            marker={"symbol": "diamond" if solid else "diamond-open", "size": 11}
            | {"color": style.VERMILLION}
            | {"line": {"color": "white" if solid else style.VERMILLION, "width": 1}},
            hovertemplate=f"{kind}<br>%{{x:.4s}} params<br>%{{y:.4f}}<extra></extra>",
        )
    return figure.update_layout(
        template=style.TEMPLATE,
        xaxis=style.log_axis(data["params"].to_list(), "parameters"),
        yaxis={"title": f"validation {style.axis_title(metric)}"},
        margin={"r": 120},
    )


def moved(data: pl.DataFrame) -> pl.DataFrame:
    """The turning points that stand visibly apart from the minimum of their budget."""
    best = data.filter(pl.col("kind") == "minimum").select("budget", pl.col("params").alias("best"))
    rows = data.filter(pl.col("kind") == "turning point").join(best, on="budget")
    width = float(np.ptp(np.log(data["params"].to_numpy())))
    apart = (pl.col("params") / pl.col("best")).log().abs()
    return rows.filter(apart > VISIBLE * width).drop("best")


def _label(figure: Any, rows: pl.DataFrame, text: str, color: str) -> None:
    """Name a budget at the right end of what is drawn of it, in its colour."""
    last = rows.sort("params").row(-1, named=True)
    figure.add_annotation(
        x=math.log10(last["params"]),
        y=last["loss"],
        text=text,
        showarrow=False,
        xanchor="left",
        xshift=10,
        font={"color": color, "size": 12},
    )


def laws_data(panel: Panel, target: Forecast | None) -> pl.DataFrame:
    """Rows (kind, quantity, budget, value, low, high): minimum, all laws' forecast, and target.

    Each single law is a kind of its own, by its name.
    """
    rows: list[tuple[str, str, float, float | None, float | None, float | None]] = []
    pairs, _ = isoflop.accepted(panel.runs)
    for n, d in pairs:
        found = {"params": n.optimum, "tokens": d.optimum, "loss": n.loss}
        rows += [("minimum", name, n.budget, value, None, None) for name, value in found.items()]
    rungs = panel.runs.rungs
    end = max(rungs[-1], target.budget if target else 0.0) * 1.5
    grid = [panel.at(budget) for budget in np.geomspace(rungs[0] / 1.5, end, 40).tolist()]
    for kind, at in [("law", at) for at in grid] + ([("target", target)] if target else []):
        rows += [
            (kind, "params", at.budget, at.params, at.params_low, at.params_high),
            (kind, "tokens", at.budget, at.tokens, at.tokens_low, at.tokens_high),
            (kind, "loss", at.budget, at.loss, at.low, at.high),
        ]
    for at in grid:
        for one in at.opinions:
            said = {"params": one.params, "tokens": one.tokens, "loss": one.loss}
            rows += [(one.law, name, at.budget, v, None, None) for name, v in said.items()]
    names = {"kind": pl.String, "quantity": pl.String, "budget": pl.Float64}
    number = dict.fromkeys(("value", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, names | number, orient="row").filter(
        pl.col("value").is_not_null() & pl.col("value").is_finite()
    )


def laws_figure(data: pl.DataFrame, metric: str) -> Any:
    """N*, D* and L* over compute, each with its band, the minima it runs through, the target."""
    figure: Any = make_subplots(rows=1, cols=3, horizontal_spacing=0.09)
    budgets = data["budget"].to_list()
    for column, (quantity, title) in enumerate(QUANTITIES.items(), start=1):
        here = data.filter(pl.col("quantity") == quantity)
        where = {"row": 1, "col": column}
        law, minimum, target = (
            here.filter(pl.col("kind") == k) for k in ("law", "minimum", "target")
        )
        name = f"L*, {style.axis_title(metric)}" if quantity == "loss" else title
        axis = _value_axis(here, name, log=quantity != "loss")
        for kind, color in style.LAW_COLORS.items():
            rows = _within(here.filter(pl.col("kind") == kind), axis)
            single(figure, rows, where, kind, color)
        band(figure, law, where)
        marks(figure, minimum, where, "minimum", style.INK, "circle")
        marks(figure, target, where, "forecast", style.VERMILLION, "star")
        figure.update_xaxes(style.log_axis(budgets, "compute (FLOPs)", ticks=5), **where)
        figure.update_yaxes(axis, **where)
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    return figure.update_layout(
        template=style.TEMPLATE, height=440, showlegend=True, legend=legend, margin={"t": 60}
    )


def _value_axis(rows: pl.DataFrame, title: str, *, log: bool) -> dict[str, Any]:
    """The axis of a quantity; it follows the forecast, the minima and the target's interval.

    A band that spans decades, or a law that runs away, would flatten all others.
    """
    target = rows.filter(pl.col("kind") == "target")
    known = rows.filter(pl.col("kind").is_in(["law", "minimum"]))["value"]
    values = [*known, *target["value"], *target["low"], *target["high"]]
    values = [v for v in values if v is not None and math.isfinite(v) and v > 0]
    if log:
        return style.log_axis(values, title, ticks=8)
    return {"title": title, "range": style.padded(min(values), max(values))}


def _within(rows: pl.DataFrame, axis: Mapping[str, Any]) -> pl.DataFrame:
    """The rows whose value the axis shows."""
    low, high = axis["range"]
    shown = pl.col("value").log10() if axis.get("type") == "log" else pl.col("value")
    return rows.filter(shown.is_between(low, high))


def single(
    figure: Any, rows: pl.DataFrame, where: Mapping[str, int], name: str, color: str
) -> None:
    """One law's thin line, of columns budget and value; that of the loss is in the legend."""
    figure.add_scatter(
        x=rows["budget"].to_list(),
        y=rows["value"].to_list(),
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=where["col"] == len(QUANTITIES),
        line={"color": color, "width": 1.2, "dash": "dot"},
        hovertemplate=f"%{{x:.3g}} FLOPs<br>%{{y:.4g}}<extra>{name}</extra>",
        **where,
    )


def band(figure: Any, law: pl.DataFrame, where: Mapping[str, int]) -> None:
    """A law's line within its interval, of columns budget, value, low, high."""
    x = law["budget"].to_list()
    figure.add_scatter(
        x=x + x[::-1],
        y=law["high"].clip(upper_bound=1e300).to_list() + law["low"].to_list()[::-1],
        fill="toself",
        fillcolor=style.faded(style.BLUE, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        **where,
    )
    figure.add_scatter(
        x=x,
        y=law["value"].to_list(),
        mode="lines",
        line={"color": style.BLUE, "width": 2},
        hovertemplate="%{x:.3g} FLOPs<br>%{y:.4g}<extra>law</extra>",
        name="all laws",
        showlegend=where["col"] == len(QUANTITIES),
        **where,
    )


def marks(
    figure: Any, rows: pl.DataFrame, where: Mapping[str, int], name: str, color: str, symbol: str
) -> None:
    """Points with their intervals, of columns budget, value, low, high."""
    up, down = (rows["high"] - rows["value"]).to_list(), (rows["value"] - rows["low"]).to_list()
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": color}
    figure.add_scatter(
        x=rows["budget"].to_list(),
        y=rows["value"].to_list(),
        error_y=bars if rows["low"].is_not_null().any() else None,
        mode="markers",
        name=name,
        showlegend=where["col"] == len(QUANTITIES),
        marker={"symbol": symbol, "size": 14 if symbol == "star" else 8, "color": color},
        hovertemplate=f"%{{x:.3g}} FLOPs<br>%{{y:.4g}}<extra>{name}</extra>",
        **where,
    )

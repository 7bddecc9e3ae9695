"""The figures of a study: `*_data` gives the rows of one, `*_figure` draws such rows."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from analysis import isoflop, style
from analysis.ablation import Effect
from analysis.law import Fit, Forecast, scientific

QUANTITIES = {"params": "N*, parameters", "tokens": "D*, tokens", "loss": "L*"}


def isoflop_data(points: pl.DataFrame) -> pl.DataFrame:
    """Rows (kind, budget, params, loss, run_id, refusal): runs, parabola, minimum of a budget."""
    by_id = {row["run_id"]: row for row in points.iter_rows(named=True)}
    rows: list[tuple[str, float, float, float, str | None, str | None]] = []
    for p in isoflop.parabolas(points, "params"):
        refusal = p.refusal.name if p.refusal else None
        for run_id in p.run_ids:
            run = by_id[run_id]
            rows.append(("run", p.budget, run["params"], run["loss"], run_id, refusal))
        if p.optimum is None or p.loss is None:
            continue
        sizes = np.geomspace(p.span[0] / 1.1, p.span[1] * 1.1, 61)
        for size, loss in zip(sizes.tolist(), p(sizes).tolist(), strict=True):
            rows.append(("parabola", p.budget, size, loss, None, None))
        rows.append(("minimum", p.budget, p.optimum, p.loss, None, None))
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
            customdata=runs["run_id"].to_list(),
            hovertemplate="run %{customdata}<br>%{x:.4s} params<br>%{y:.4f}<extra>"
            f"{scientific(budget)} FLOPs</extra>",
        )
        _label(figure, here, f"{scientific(budget)}{' (refused)' if refused else ''}", color)
    best = data.filter(pl.col("kind") == "minimum")
    figure.add_scatter(
        x=best["params"].to_list(),
        y=best["loss"].to_list(),
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": style.VERMILLION}
        | {"line": {"color": "white", "width": 1}},
        hovertemplate="minimum<br>%{x:.4s} params<br>%{y:.4f}<extra></extra>",
    )
    return figure.update_layout(
        template=style.TEMPLATE,
        xaxis=style.log_axis(data["params"].to_list(), "parameters"),
        yaxis={"title": f"validation {style.axis_title(metric)}"},
        margin={"r": 120},
    )


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


def laws_data(points: pl.DataFrame, fit: Fit, target: Forecast | None) -> pl.DataFrame:
    """Rows (kind, quantity, budget, value, low, high): minimum, law with its band, and target."""
    end = max(fit.budgets[-1], target.budget if target else 0.0) * 1.5
    rows: list[tuple[str, str, float, float, float | None, float | None]] = []
    for name in ("params", "tokens"):
        for p in isoflop.parabolas(points, name):
            if p.budget in fit.budgets and p.optimum is not None and p.loss is not None:
                rows.append(("minimum", name, p.budget, p.optimum, None, None))
                if name == "params":
                    rows.append(("minimum", "loss", p.budget, p.loss, None, None))
    grid = np.geomspace(fit.budgets[0] / 1.5, end, 60).tolist()
    said = [("law", isoflop.predict(fit, budget)) for budget in grid]
    for kind, at in said + ([("target", target)] if target else []):
        rows += [
            (kind, "params", at.budget, at.params, at.params_low, at.params_high),
            (kind, "tokens", at.budget, at.tokens, at.tokens_low, at.tokens_high),
            (kind, "loss", at.budget, at.loss, at.low, at.high),
        ]
    names = {"kind": pl.String, "quantity": pl.String, "budget": pl.Float64}
    number = dict.fromkeys(("value", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, names | number, orient="row")


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
        _band(figure, law, where)
        _points(figure, minimum, where, "minimum", style.INK, "circle")
        _points(figure, target, where, "forecast", style.VERMILLION, "star")
        name = f"L*, {style.axis_title(metric)}" if quantity == "loss" else title
        # A band that spans decades would flatten the law: the axis follows the law and the target.
        shown = here.filter(pl.col("kind") != "law")
        values = [*law["value"], *shown["low"].drop_nulls(), *shown["high"].drop_nulls()]
        values = [v for v in values if math.isfinite(v) and v > 0]
        figure.update_xaxes(style.log_axis(budgets, "compute (FLOPs)", ticks=5), **where)
        linear = {"title": name, "range": style.padded(min(values), max(values))}
        figure.update_yaxes(
            linear if quantity == "loss" else style.log_axis(values, name, ticks=8), **where
        )
    return figure.update_layout(template=style.TEMPLATE, height=400)


def _band(figure: Any, law: pl.DataFrame, where: Mapping[str, int]) -> None:
    x = law["budget"].to_list()
    figure.add_scatter(
        x=x + x[::-1],
        y=law["high"].clip(upper_bound=1e300).to_list() + law["low"].to_list()[::-1],
        fill="toself",
        fillcolor=style.faded(style.BLUE, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        **where,
    )
    figure.add_scatter(
        x=x,
        y=law["value"].to_list(),
        mode="lines",
        line={"color": style.BLUE, "width": 2},
        hovertemplate="%{x:.3g} FLOPs<br>%{y:.4g}<extra>law</extra>",
        **where,
    )


def _points(
    figure: Any, rows: pl.DataFrame, where: Mapping[str, int], name: str, color: str, symbol: str
) -> None:
    up, down = (rows["high"] - rows["value"]).to_list(), (rows["value"] - rows["low"]).to_list()
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": color}
    figure.add_scatter(
        x=rows["budget"].to_list(),
        y=rows["value"].to_list(),
        error_y=bars if rows["low"].is_not_null().any() else None,
        mode="markers",
        marker={"symbol": symbol, "size": 14 if symbol == "star" else 8, "color": color},
        hovertemplate=f"%{{x:.3g}} FLOPs<br>%{{y:.4g}}<extra>{name}</extra>",
        **where,
    )


def ablation_data(effects: Sequence[Effect]) -> pl.DataFrame:
    """The effects as rows, without their run ids."""
    rows = [{**dataclasses.asdict(effect), "run_ids": list(effect.run_ids)} for effect in effects]
    number = pl.col("difference", "low", "high", "noise", "p").cast(pl.Float64)
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(number)


def ablation_figure(data: pl.DataFrame, metric: str) -> Any:
    """A forest plot: difference to the baseline with its interval; left of zero is better."""
    figure = go.Figure()
    for row in data.reverse().iter_rows(named=True):
        color = style.VERDICT_COLORS[row["verdict"]]
        known = row["low"] is not None
        half = row["high"] - row["difference"] if known else None
        figure.add_scatter(
            x=[row["difference"]],
            y=[html.escape(f"{row['axis']} = {row['level']}")],
            error_x={"type": "data", "array": [half], "color": color, "thickness": 2}
            if known
            else None,
            mode="markers+text",
            marker={"size": 11, "color": color},
            text=[row["verdict"]],
            textposition="top center",
            textfont={"color": color},
            customdata=[html.escape(", ".join(row["run_ids"]))],
            hovertemplate="%{x:+.4f}<br>runs %{customdata}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": style.MUTED, "width": 1})
    ends = [x for name in ("difference", "low", "high") for x in data[name].drop_nulls()]
    return figure.update_layout(
        template=style.TEMPLATE,
        height=140 + 64 * len(data),
        xaxis={"title": f"difference to the baseline, {style.axis_title(metric)}"}
        | {"range": style.padded(min(0.0, *ends), max(0.0, *ends))},
        yaxis={"type": "category", "range": [-0.6, len(data) - 0.4]}
        | {"showline": False, "ticks": ""},
    )

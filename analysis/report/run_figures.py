"""Figures of single runs: training curves, and the promoted run against its forecast."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import html
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import polars as pl

from analysis.law import scientific
from analysis.report import style


def drawn(steps: pl.DataFrame, runs: int = 200) -> pl.DataFrame:
    """Steps of at most so many runs: of every budget those whose last loss is least."""
    last = steps.filter(pl.col("loss").is_finite()).sort("step").group_by("run_id").last()
    each = max(1, runs // max(1, last["budget"].n_unique()))
    best = last.filter(pl.col("loss").rank("ordinal").over("budget") <= each)
    return steps.join(best, on="run_id", how="semi", maintain_order="left")


def training_data(steps: pl.DataFrame, *, lines: int = 200) -> pl.DataFrame:
    """Rows (run_id, budget, tokens, loss) of logged training loss, at most `lines` a run."""
    kept = steps.filter(pl.col("loss").is_finite(), pl.col("tokens") > 0).sort("run_id", "step")
    order, count = pl.int_range(pl.len()).over("run_id"), pl.len().over("run_id")
    thinned = kept.filter(order % ((count - 1) // lines + 1) == 0)
    return thinned.select("run_id", "budget", "tokens", "loss")


def training_figure(data: pl.DataFrame) -> Any:
    """Training loss over tokens, a line a run, coloured by budget."""
    figure = go.Figure()
    colors = style.budget_colors(data["budget"].to_list())
    for run in data.sort("budget", "run_id").partition_by("run_id", maintain_order=True):
        budget, run_id = float(run["budget"][0]), str(run["run_id"][0])
        figure.add_scatter(
            x=run["tokens"].to_list(),
            y=run["loss"].to_list(),
            mode="lines",
            line={"color": style.faded(colors[budget], 0.6), "width": 1.2},
            hovertemplate=f"run {html.escape(run_id)}<br>%{{x:.3s}} tokens<br>%{{y:.3f}}"
            f"<extra>{scientific(budget)} FLOPs</extra>",
        )
    return figure.update_layout(
        template=style.TEMPLATE,
        height=340,
        xaxis=style.log_axis(data["tokens"].to_list(), "tokens"),
        yaxis={"title": "training loss (nats/token)"},
    )


def promotion_data(
    forecast: Mapping[str, Any], steps: pl.DataFrame, tokens: float | None, measured: float | None
) -> pl.DataFrame:
    """Rows (kind, tokens, loss, low, high): training as logged, the forecast, the measured loss.

    `forecast` is a stored Forecast; `steps` those of the promoted run, empty until it has begun.
    """
    end = float(tokens or forecast["tokens"])
    rows: list[tuple[str, float, float, float | None, float | None]] = [
        ("training", float(t), float(loss), None, None)
        for t, loss in training_data(steps).select("tokens", "loss").iter_rows()
    ]
    rows.append(("forecast", end, forecast["loss"], forecast["low"], forecast["high"]))
    if measured is not None:
        rows.append(("measured", end, measured, None, None))
    number = dict.fromkeys(("tokens", "loss", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, {"kind": pl.String} | number, orient="row")


def promotion_figure(data: pl.DataFrame, metric: str) -> Any:
    """The promoted run's training loss on its way to the forecast interval, and where it landed."""
    figure = go.Figure()
    training = data.filter(pl.col("kind") == "training")
    figure.add_scatter(
        x=training["tokens"].to_list(),
        y=training["loss"].to_list(),
        mode="lines",
        line={"color": style.faded(style.BLUE, 0.6), "width": 1.5},
        hovertemplate="%{x:.3s} tokens<br>%{y:.3f}<extra>training</extra>",
    )
    said = data.filter(pl.col("kind") == "forecast").row(0, named=True)
    figure.add_hrect(
        y0=said["low"], y1=said["high"], fillcolor=style.VERMILLION, opacity=0.12, line_width=0
    )
    figure.add_hline(y=said["loss"], line={"color": style.VERMILLION, "width": 1.5, "dash": "dash"})
    _mark(figure, said["tokens"], said["loss"], "forecast", style.VERMILLION, "diamond")
    for row in data.filter(pl.col("kind") == "measured").iter_rows(named=True):
        _mark(figure, row["tokens"], row["loss"], "measured", style.INK, "star")
    return figure.update_layout(
        template=style.TEMPLATE,
        height=400,
        margin={"r": 150},
        xaxis=style.log_axis(data["tokens"].to_list(), "tokens"),
        yaxis={"title": style.axis_title(metric)},
    )


def _mark(figure: Any, x: float, y: float, name: str, color: str, symbol: str) -> None:
    """A point with its name and value beside it, the forecast's above and the measured below."""
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers+text",
        text=[f"  {name} {y:.4f}"],
        textposition="top right" if name == "forecast" else "bottom right",
        textfont={"color": color},
        cliponaxis=False,
        marker={"symbol": symbol, "size": 14, "color": color},
        hovertemplate=f"{name} %{{y:.4f}}<extra></extra>",
    )

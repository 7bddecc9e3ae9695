"""The figures that test laws: what a surface leaves of the runs, what laws erred when back-tested.

`*_data` gives the rows of one, `*_figure` draws such rows.
"""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import html
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from plotly.subplots import make_subplots

from analysis import parametric
from analysis.backtest import next_rows
from analysis.law import Forecast, scientific
from analysis.panel import Member, Panel
from analysis.report import style
from analysis.runs import Runs

SIZES = {"params": "parameters", "tokens": "tokens", "flops": "compute (FLOPs)"}
TESTED = {"loss": "ln of loss, predicted / measured", "params": "ln of N*, predicted / measured"}
# Dots beyond these only cover one another; every so-many-th run is drawn.
DOTS = 3000
LEAST_RANGE = 1e-3
STEPS = 40
LEVEL = 0.95
_LEGEND: dict[str, Any] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def leading_surface(panel: Panel, said: Forecast) -> Member | None:
    """The surface with most weight in the loss; None where no law is one."""
    weights = {one.law: one.loss_weight for one in said.opinions}
    surfaces = [member for member in panel.members if member.law.surface]
    return max(surfaces, key=lambda member: weights[member.law.name], default=None)


def _whole(points: pl.DataFrame, runs: Runs) -> pl.DataFrame:
    """Rows with the columns of `runs.frame`, of those that have sizes and a loss above zero."""
    number = pl.col("params", "tokens", "loss").cast(pl.Float64)
    rows = points.with_columns(number, pl.col("run_id").cast(pl.String))
    rows = rows.filter(
        pl.all_horizontal(
            pl.col(name).is_finite() & (pl.col(name) > 0) for name in ("params", "tokens", "loss")
        )
    )
    for name in ("flops", "unique_tokens"):
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.Float64).alias(name))
    ratio = pl.Series(np.exp(runs.ratio.log(rows["params"].log().to_numpy())))
    flops = pl.col("flops").cast(pl.Float64).fill_null(ratio * pl.col("params") * pl.col("tokens"))
    unique = pl.col("unique_tokens").cast(pl.Float64).fill_null(pl.col("tokens"))
    return rows.with_columns(flops, unique, flops.alias("rung"))


def residuals_data(member: Member, runs: Runs, points: pl.DataFrame) -> pl.DataFrame:
    """Rows (kind, run_id, rung, params, tokens, flops, residual, reason) of a surface.

    `residual` is ln(measured / surface). Runs kept out of the fit that have sizes and a loss are of
    kind "kept out"; `points` are the rows that `runs` was prepared from.
    """
    reasons = {each.run_id: each.reason for each in runs.excluded}
    excluded = _whole(points, runs).filter(pl.col("run_id").is_in([*reasons]))
    excluded = excluded.unique("run_id", keep="first", maintain_order=True)
    kept = runs.frame.gather_every(math.ceil(len(runs.frame) / DOTS))
    columns = ["run_id", "rung", "params", "tokens", "flops", "unique_tokens", "loss"]
    rows = pl.concat([kept.select(columns), excluded.select(columns)])
    logs = [rows[name].log().to_numpy() for name in ("params", "tokens", "unique_tokens", "loss")]
    bare = replace(member.fit, draws=member.fit.draws[:0])
    residual = logs[3] - parametric.log_loss(bare, *logs[:3])[0]
    why = pl.col("run_id").replace_strict(reasons, default=None, return_dtype=pl.String)
    return rows.select(
        pl.Series(["run"] * len(kept) + ["kept out"] * len(excluded), dtype=pl.String).alias(
            "kind"
        ),
        *columns[:5],
        pl.Series("residual", residual),
        why.alias("reason"),
    )


def residuals_figure(data: pl.DataFrame) -> Any:
    """Residuals over parameters, tokens and compute, a rung a colour; crosses were kept out.

    A cross far off stands at the edge, where its hover says how far.
    """
    figure: Any = make_subplots(rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.03)
    runs, out = (data.filter(pl.col("kind") == kind) for kind in ("run", "kept out"))
    most = max(1.3 * float(np.abs(runs["residual"].to_numpy()).max()), LEAST_RANGE)
    colors = style.budget_colors(runs["rung"].to_list())
    for column, (size, title) in enumerate(SIZES.items(), start=1):
        where = {"row": 1, "col": column}
        figure.add_scatter(
            x=runs[size].to_list(),
            y=runs["residual"].to_list(),
            mode="markers",
            marker={"size": 6, "color": [colors[rung] for rung in runs["rung"]]},
            customdata=list(
                zip(map(html.escape, runs["run_id"]), map(scientific, runs["rung"]), strict=True)
            ),
            hovertemplate="run %{customdata[0]}<br>%{x:.4s}<br>%{y:+.2%}"
            "<extra>%{customdata[1]} FLOPs</extra>",
            **where,
        )
        figure.add_scatter(
            x=out[size].to_list(),
            y=out["residual"].clip(-most, most).to_list(),
            mode="markers",
            marker={"symbol": "x-thin", "size": 9}
            | {"line": {"width": 2, "color": style.VERMILLION}},
            customdata=[
                (html.escape(run_id), html.escape(reason), residual)
                for run_id, reason, residual in out.select("run_id", "reason", "residual").rows()
            ],
            hovertemplate="run %{customdata[0]}, kept out<br>%{customdata[1]}<br>"
            "%{customdata[2]:+.1%}<extra></extra>",
            **where,
        )
        figure.update_xaxes(style.log_axis(data[size].to_list(), title, ticks=5), **where)
    figure.add_hline(y=0, line={"color": style.MUTED, "width": 1})
    figure.update_yaxes(range=[-1.08 * most, 1.08 * most], tickformat="+.2~%")
    figure.update_yaxes(title="ln of loss, measured / surface", row=1, col=1)
    return figure.update_layout(template=style.TEMPLATE, height=340)


def backtest_data(panel: Panel) -> pl.DataFrame:
    """Rows (kind, law, quantity, decades, error, low, high, upto, budget) of the back-tests.

    An error is ln(predicted / measured): of the next budget (kind "next"), on which the intervals
    rest, or of a later one ("later"). A "band" is what a law's interval adds for extrapolation.
    """
    rows: list[tuple[Any, ...]] = []
    for member in panel.members:
        name, nearest = member.law.name, set(next_rows(member.backtest))
        for quantity in TESTED:
            for row in member.backtest:
                error: float | None = getattr(row, f"{quantity}_error")
                kind = "next" if row in nearest else "later"
                if error is not None:
                    place = (row.decades, error, None, None, row.upto, row.budget)
                    rows.append((kind, name, quantity, *place))
            if member.wander[quantity].dof:
                reach = max(row.decades for row in member.backtest)
                for decades in np.linspace(0, 1.05 * reach, STEPS).tolist():
                    half = member.wander[quantity].half_width(decades, LEVEL)
                    rows.append(("band", name, quantity, decades, None, -half, half, None, None))
    names = {"kind": pl.String, "law": pl.String, "quantity": pl.String}
    number = dict.fromkeys(("decades", "error", "low", "high", "upto", "budget"), pl.Float64)
    return pl.DataFrame(rows, names | number, orient="row")


def backtest_figure(data: pl.DataFrame) -> Any:
    """Errors over decades of extrapolation, a colour a law, with the band of each law."""
    tested = [quantity for quantity in TESTED if quantity in data["quantity"]]
    figure: Any = make_subplots(rows=1, cols=len(tested), horizontal_spacing=0.12)
    for column, quantity in enumerate(tested, start=1):
        where = {"row": 1, "col": column}
        for law, color in style.LAW_COLORS.items():
            here = data.filter(pl.col("quantity") == quantity, pl.col("law") == law)
            _band(figure, here.filter(pl.col("kind") == "band"), where, color)
            _errors(figure, here.filter(pl.col("kind") != "band"), where, law, color)
        figure.update_yaxes(title=TESTED[quantity], tickformat="+.3~f", **where)
        figure.update_xaxes(title="decades of extrapolation", rangemode="tozero", **where)
    figure.add_hline(y=0, line={"color": style.MUTED, "width": 1})
    return figure.update_layout(
        template=style.TEMPLATE, height=420, showlegend=True, legend=_LEGEND, margin={"t": 60}
    )


def _band(figure: Any, rows: pl.DataFrame, where: Mapping[str, int], color: str) -> None:
    """Two curves that open like a root."""
    x = rows["decades"].to_list()
    figure.add_scatter(
        x=[*x[::-1], *x],
        y=[*rows["low"].to_list()[::-1], *rows["high"].to_list()],
        mode="lines",
        line={"color": style.faded(color, 0.7), "width": 1.2},
        hoverinfo="skip",
        showlegend=False,
        **where,
    )


def _errors(
    figure: Any, rows: pl.DataFrame, where: Mapping[str, int], law: str, color: str
) -> None:
    """Points of one law: full for the next budget, hollow for those further away."""
    budgets = zip(rows["upto"], rows["budget"], strict=True)
    figure.add_scatter(
        x=rows["decades"].to_list(),
        y=rows["error"].to_list(),
        mode="markers",
        name=law,
        legendgroup=law,
        showlegend=where["col"] == 1,
        marker={"size": 8, "line": {"color": color, "width": 1.5}}
        | {"color": [color if kind == "next" else "white" for kind in rows["kind"]]},
        customdata=[(scientific(upto), scientific(budget)) for upto, budget in budgets],
        hovertemplate=f"up to %{{customdata[0]}}, %{{customdata[1]}} predicted<br>%{{y:+.2%}}"
        f"<extra>{law}</extra>",
        **where,
    )

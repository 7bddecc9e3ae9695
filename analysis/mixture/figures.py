"""The figure of a mixing study: held-out losses as said and measured, and the best mixture."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import html
from typing import Any

import numpy as np
import polars as pl
from plotly.subplots import make_subplots

from analysis.mixture.fit import MixtureFit
from analysis.report import style


def mixture_data(fit: MixtureFit) -> pl.DataFrame:
    """Rows of kind "run" (loss, run_id; measured, predicted when held out) and "weight".

    A weight has the domain, its mean over the runs, and its optimum with low and high.
    """
    held_out = np.exp(np.stack([law.held_out for law in fit.laws.laws], axis=1))
    runs = [
        {"kind": "run", "name": name, "run_id": run_id, "measured": measured, "predicted": said}
        for i, name in enumerate(fit.loss_domains)
        for run_id, measured, said in zip(
            fit.run_ids, fit.losses[:, i].tolist(), held_out[:, i].tolist(), strict=True
        )
    ]
    best, mean = fit.optimum, fit.weights.mean(axis=0).tolist()
    columns = (fit.domains, mean, best.weights, best.weights_low, best.weights_high)
    weights = [
        {"kind": "weight", "name": name, "mean": mean, "optimum": optimum, "low": low, "high": high}
        for name, mean, optimum, low, high in zip(*columns, strict=True)
    ]
    schema: dict[str, pl.DataType] = {name: pl.String() for name in ("kind", "name", "run_id")}
    numbers = ("measured", "predicted", "mean", "optimum", "low", "high")
    return pl.DataFrame([*runs, *weights], schema | {name: pl.Float64() for name in numbers})


def mixture_figure(data: pl.DataFrame, metric: str) -> Any:
    """Left, held-out runs about the diagonal; right, the optimum beside the mean of the runs."""
    runs = data.filter(pl.col("kind") == "run")
    weights = data.filter(pl.col("kind") == "weight").sort("optimum")
    figure: Any = make_subplots(rows=1, cols=2, horizontal_spacing=0.2)
    _held_out(figure, runs)
    _weights(figure, weights)
    unit = style.axis_title(metric)
    figure.update_xaxes(title=f"measured {unit}", row=1, col=1)
    figure.update_yaxes(title=f"predicted {unit}", row=1, col=1)
    figure.update_xaxes(title="weight in the mixture", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(showline=False, ticks="", ticklabelstandoff=8, row=1, col=2)
    return figure.update_layout(template=style.TEMPLATE, height=max(460, 60 + 26 * len(weights)))


def _held_out(figure: Any, runs: pl.DataFrame) -> None:
    values = np.concatenate([runs["measured"].to_numpy(), runs["predicted"].to_numpy()])
    ends = [float(values.min()), float(values.max())]
    where = {"row": 1, "col": 1}
    line = {"color": style.MUTED, "width": 1}
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False, **where
    )
    figure.add_scatter(
        x=runs["measured"].to_list(),
        y=runs["predicted"].to_list(),
        mode="markers",
        marker={"size": 4, "color": style.faded(style.BLUE, 0.4)},
        customdata=[
            html.escape(f"{name}, {run_id}") for name, run_id in runs[["name", "run_id"]].rows()
        ],
        showlegend=False,
        hovertemplate="%{customdata}<br>measured %{x:.4f}<br>predicted %{y:.4f}<extra></extra>",
        **where,
    )


def _weights(figure: Any, weights: pl.DataFrame) -> None:
    names = [html.escape(name) for name in weights["name"]]
    up = (weights["high"] - weights["optimum"]).clip(lower_bound=0).to_list()
    down = (weights["optimum"] - weights["low"]).clip(lower_bound=0).to_list()
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 2}
    for name, color, symbol, size in (
        ("mean", style.GREY, "line-ns", 7),
        ("optimum", style.VERMILLION, "circle", 9),
    ):
        title = {"mean": "mean of the runs", "optimum": "optimum"}[name]
        figure.add_scatter(
            x=weights[name].to_list(),
            y=names,
            error_x=bars if name == "optimum" else None,
            mode="markers",
            name=title,
            showlegend=True,
            marker={"size": size, "color": color, "symbol": symbol}
            | {"line": {"width": 2, "color": color}},
            hovertemplate=f"%{{y}}<br>%{{x:.3f}}<extra>{title}</extra>",
            row=1,
            col=2,
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.08, "x": 0.6})

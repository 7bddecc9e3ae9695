"""The figure of a task: loss over compute, and accuracy over loss; rows apart from drawing."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import html
from typing import Any

import numpy as np
import polars as pl
from plotly.subplots import make_subplots

from analysis.downstream import sigmoid
from analysis.downstream.fit import Downstream, predict
from analysis.downstream.steps import Task
from analysis.law import Floats, quantiles
from analysis.report import style

STEPS = 60


def _loss_rows(task: Task, target: float | None) -> list[tuple[Any, ...]]:
    """Loss over compute: runs, line with its bounds, target."""
    end = max(float(task.flops.max()), target or 0.0) * 1.3
    grid = np.geomspace(float(task.flops.min()) / 1.3, end, STEPS).tolist()
    places = [("law", budget) for budget in grid] + ([("target", target)] if target else [])
    runs = zip(task.flops.tolist(), task.nll.tolist(), task.run_ids, strict=True)
    rows: list[tuple[Any, ...]] = [("run", "nll", x, y, None, None, run) for x, y, run in runs]
    for kind, budget in places:
        at = predict(task, budget)
        rows.append((kind, "nll", budget, at.nll, at.nll_low, at.nll_high, None))
    return rows


def _accuracy_rows(task: Task, target: float | None) -> list[tuple[Any, ...]]:
    """Accuracy over loss: runs, sigmoid with the bounds of its coefficients, target."""
    runs = zip(task.nll.tolist(), task.accuracy.tolist(), task.run_ids, strict=True)
    rows: list[tuple[Any, ...]] = [("run", "accuracy", x, y, None, None, run) for x, y, run in runs]
    if task.curve is None:
        return rows
    at = predict(task, target) if target else None
    best, worst = float(task.nll.min()), float(task.nll.max())
    grid: Floats = np.linspace(min(best, at.nll) if at else best, worst, STEPS, dtype=np.float64)
    middle = sigmoid.value(task.curve.theta, grid)
    low, high = quantiles(sigmoid.value(task.curve_draws, grid))
    curve = np.column_stack([grid, middle, low, high]).tolist()
    rows += [("law", "accuracy", *row, None) for row in curve]
    if at:
        bounds = (at.accuracy_low, at.accuracy_high)
        rows.append(("target", "accuracy", at.nll, at.accuracy, *bounds, None))
    return rows


def downstream_data(fitted: Downstream, target: float | None) -> pl.DataFrame:
    """Rows (task, kind, step, x, value, low, high, run_id): x is FLOPs in step nll, else nll."""
    rows = [
        (task.name, *row)
        for task in fitted.tasks
        for row in (*_loss_rows(task, target), *_accuracy_rows(task, target))
    ]
    names = {"task": pl.String, "kind": pl.String, "step": pl.String}
    number = dict.fromkeys(("x", "value", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, names | number | {"run_id": pl.String}, orient="row")


def _panel(figure: Any, rows: pl.DataFrame, column: int) -> None:
    """Runs, law with its band and target of one step."""
    law, run, target = (rows.filter(pl.col("kind") == k) for k in ("law", "run", "target"))
    where = {"row": 1, "col": column}
    x = law["x"].to_list()
    figure.add_scatter(
        x=x + x[::-1],
        y=law["high"].to_list() + law["low"].to_list()[::-1],
        fill="toself",
        fillcolor=style.faded(style.BLUE, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        **where,
    )
    figure.add_scatter(
        x=x, y=law["value"].to_list(), mode="lines", line={"color": style.BLUE}, **where
    )
    for points, color, symbol in ((run, style.INK, "circle"), (target, style.VERMILLION, "star")):
        up = (points["high"] - points["value"]).to_list()
        down = (points["value"] - points["low"]).to_list()
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
        figure.add_scatter(
            x=points["x"].to_list(),
            y=points["value"].to_list(),
            error_y=bars if symbol == "star" else None,
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 14 if symbol == "star" else 7},
            customdata=[html.escape(run or "target") for run in points["run_id"]],
            hovertemplate="%{x:.4g}<br>%{y:.4f}<extra>%{customdata}</extra>",
            **where,
        )


def downstream_figure(data: pl.DataFrame) -> Any:
    """The rows of one task: its loss over compute at the left, accuracy over loss at the right."""
    figure: Any = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for column, step in enumerate(("nll", "accuracy"), start=1):
        _panel(figure, data.filter(pl.col("step") == step), column)
    budgets = data.filter(pl.col("step") == "nll")["x"].to_list()
    figure.update_xaxes(style.log_axis(budgets, "compute (FLOPs)", ticks=6), row=1, col=1)
    figure.update_yaxes({"title": "loss on the right answers (nats)"}, row=1, col=1)
    # Better runs stand to the right, as they do over compute.
    figure.update_xaxes(
        {"title": "loss on the right answers (nats)", "autorange": "reversed"}, row=1, col=2
    )
    figure.update_yaxes({"title": "accuracy"}, row=1, col=2)
    return figure.update_layout(template=style.TEMPLATE)

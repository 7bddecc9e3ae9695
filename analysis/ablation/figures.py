"""The figures of an ablation: differences as a forest plot, compute multipliers as curves."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from analysis.ablation.effects import Effect
from analysis.ablation.multiplier import Multiplier
from analysis.ablation.pairs import of_cell
from analysis.report import figures, style
from analysis.report.style import log_axis

NUMBERS = ("difference", "low", "high", "noise", "p", "trend", "trend_p")
COLUMNS = 3


def ablation_data(effects: Sequence[Effect]) -> pl.DataFrame:
    """The effects as rows, with what stands in lists (budgets, diagnostics) left out."""
    names = ("axis", "level", *NUMBERS, "n", "verdict")
    rows = [
        {name: getattr(effect, name) for name in names} | {"run_ids": list(effect.run_ids)}
        for effect in effects
    ]
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.col(NUMBERS).cast(pl.Float64)
    )


def budget_effects_data(effects: Sequence[Effect]) -> pl.DataFrame:
    """A row (axis, level, budget, difference, low, high, n) for each effect at each budget."""
    names = ("budget", "difference", "low", "high", "n")
    rows = [
        {"axis": effect.axis, "level": effect.level} | {name: getattr(at, name) for name in names}
        for effect in effects
        for at in effect.budgets
    ]
    schema = {"axis": pl.String, "level": pl.String} | dict.fromkeys(names, pl.Float64)
    return pl.DataFrame(rows, schema | {"n": pl.Int64})


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


def multiplier_data(multipliers: Sequence[Multiplier]) -> pl.DataFrame:
    """Rows (kind, axis, level, budget, multiplier, low, high, n): measured, curve and target."""
    names = ("budget", "multiplier", "low", "high", "n")
    rows = [
        {"kind": kind, "axis": found.axis, "level": found.level}
        | {name: getattr(at, name) for name in names}
        for found in multipliers
        for kind, points in (
            ("curve", found.curve),
            ("measured", found.measured),
            ("target", (found.target,) if found.target else ()),
        )
        for at in points
    ]
    words = dict.fromkeys(("kind", "axis", "level"), pl.String)
    return pl.DataFrame(rows, words | dict.fromkeys(names, pl.Float64) | {"n": pl.Int64})


def multiplier_figure(data: pl.DataFrame) -> Any:
    """A panel a level: the multiplier of each budget, its law with the band, and the target.

    Above 1 the level is worth more FLOPs than it spends. `data` must have a row.
    """
    cells = data.select("axis", "level").unique(maintain_order=True).rows()
    columns = min(len(cells), COLUMNS)
    lines = math.ceil(len(cells) / columns)
    figure: Any = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=[html.escape(" = ".join(cell)) for cell in cells],
        horizontal_spacing=0.09,
    )
    # A band that spans decades would flatten the law: the axes follow the law and what is measured.
    shown = data.filter(pl.col("kind") != "curve")
    ends = [x for name in ("multiplier", "low", "high") for x in shown[name].drop_nulls()]
    y = log_axis([0.5, 2.0, *data["multiplier"], *ends], "compute multiplier", ticks=8)
    for i, (axis, level) in enumerate(cells):
        where = {"row": i // columns + 1, "col": i % columns + 1}
        here = of_cell(data, (axis, level)).rename({"multiplier": "value"})
        law, measured, target = (
            here.filter(pl.col("kind") == kind) for kind in ("curve", "measured", "target")
        )
        figures.band(figure, law, where)
        figures.marks(figure, measured, where, "measured", style.INK, "circle")
        figures.marks(figure, target, where, "target", style.VERMILLION, "star")
        figure.update_xaxes(log_axis(data["budget"].to_list(), "compute (FLOPs)", ticks=5), **where)
        figure.update_yaxes(y | {"title": y["title"] if where["col"] == 1 else ""}, **where)
    figure.add_hline(y=1, line={"color": style.MUTED, "width": 1})
    return figure.update_layout(template=style.TEMPLATE, height=100 + 320 * lines, margin={"t": 50})

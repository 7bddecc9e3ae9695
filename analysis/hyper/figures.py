"""The figures of the learning-rate and batch laws: `*_data` gives rows, `*_figure` draws them."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import dataclasses
import html
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from analysis.hyper.fit import OWN, Hyper, cell_rows
from analysis.hyper.laws import PUBLISHED, sizes_of
from analysis.hyper.surface import KNOBS, Cell
from analysis.law import Floats
from analysis.report import style

COLORS = dict(zip((OWN, *PUBLISHED), (style.BLUE, style.GREEN, style.VERMILLION), strict=True))
TITLES = {"lr": "best learning rate", "batch_tokens": "best batch, tokens"}
SURFACES_SHOWN = 6
STEPS = 25
_ROW: dict[str, Any] = {"orientation": "h", "x": 0}
# Contours of excess loss in nats/token, so that valleys of every cell are drawn alike.
CONTOURS = {"start": 0.0, "end": 0.03, "size": 0.003}


def settings_data(fitted: Hyper) -> pl.DataFrame:
    """Rows (kind, knob, cell, flops, value, low, high): each cell's minimum, each law's setting."""
    rows: list[tuple[str, str, str, float, float, float | None, float | None]] = []
    for cell, row in zip(fitted.cells, cell_rows(fitted), strict=True):
        for law in fitted.laws:
            value, low, high = (row[f"{law.knob}{end}"] for end in ("", "_low", "_high"))
            assert value is not None
            rows.append(("minimum", law.knob, str(cell), cell.scale(), value, low, high))
    for law in fitted.laws:
        for name, rules in ((OWN, {law.knob: law.rule}), *PUBLISHED.items()):
            for cell in fitted.cells:
                log_value = rules[law.knob].log_value(sizes_of(cell))
                if math.isfinite(log_value):
                    place = (cell.scale(), math.exp(log_value), None, None)
                    rows.append((name, law.knob, str(cell), *place))
    names = {"kind": pl.String, "knob": pl.String, "cell": pl.String}
    number = dict.fromkeys(("flops", "value", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, names | number, orient="row")


def settings_figure(data: pl.DataFrame) -> Any:
    """Each knob over compute: minima of cells with bars, and what the laws say of these cells."""
    knobs = [knob for knob in KNOBS if knob in data["knob"]]
    figure: Any = make_subplots(rows=1, cols=len(knobs), horizontal_spacing=0.12)
    for column, knob in enumerate(knobs, start=1):
        here, where = data.filter(pl.col("knob") == knob), {"row": 1, "col": column}
        for name, color in {"minimum": style.INK, **COLORS}.items():
            rows = here.filter(pl.col("kind") == name)
            up = (rows["high"] - rows["value"]).to_list()
            down = (rows["value"] - rows["low"]).to_list()
            bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
            figure.add_scatter(
                x=rows["flops"].to_list(),
                y=rows["value"].to_list(),
                error_y=bars | {"thickness": 1} if name == "minimum" else None,
                mode="markers",
                name=name,
                showlegend=column == 1,
                marker={"color": color, "size": 7}
                if name == "minimum"
                else {"symbol": "line-ew", "size": 13, "line": {"color": color, "width": 2.5}},
                customdata=rows["cell"].to_list(),
                hovertemplate=f"%{{customdata}}<br>%{{y:.3g}}<extra>{name}</extra>",
                **where,
            )
        figure.update_xaxes(
            style.log_axis(here["flops"].to_list(), "compute (FLOPs)", ticks=5), **where
        )
        shown = here["value"].to_list()
        figure.update_yaxes(style.log_axis(shown, TITLES[knob], ticks=7), **where)
    return figure.update_layout(template=style.TEMPLATE, showlegend=True, legend={"y": 1.12} | _ROW)


def excess_data(fitted: Hyper) -> pl.DataFrame:
    """Rows (law, params, tokens, flops, lr, batch_tokens, excess, inside): a law in a cell."""
    number = dict.fromkeys(
        ("params", "tokens", "flops", "lr", "batch_tokens", "excess"), pl.Float64
    )
    rows = [dataclasses.asdict(each) for each in fitted.excess]
    return pl.DataFrame(rows, {"law": pl.String, **number, "inside": pl.Boolean})


def excess_figure(data: pl.DataFrame) -> Any:
    """Excess loss over compute, a law a colour; hollow where the surface is extrapolated."""
    figure = go.Figure()
    for name, color in COLORS.items():
        rows = data.filter(pl.col("law") == name)
        figure.add_scatter(
            x=rows["flops"].to_list(),
            y=rows["excess"].to_list(),
            mode="markers",
            name=name,
            marker={"size": 9, "color": [color if x else "white" for x in rows["inside"]]}
            | {"line": {"color": color, "width": 1.5}},
            customdata=rows.select("lr", "batch_tokens").rows(),
            hovertemplate="lr %{customdata[0]:.3g}, batch %{customdata[1]:.3g}<br>"
            f"%{{y:.4f}}<extra>{name}</extra>",
        )
    return figure.update_layout(
        template=style.TEMPLATE,
        xaxis=style.log_axis(data["flops"].to_list(), "compute (FLOPs)"),
        yaxis={"title": "excess loss (nats/token)"},
        showlegend=True,
        legend={"y": 1.08} | _ROW,
    )


def _shown(cells: tuple[Cell, ...]) -> list[Cell]:
    """A few cells from the smallest to the largest."""
    places = np.linspace(0, len(cells) - 1, min(len(cells), SURFACES_SHOWN)).round().astype(int)
    return [cells[i] for i in dict.fromkeys(places.tolist())]


def _grid(span: Floats) -> Floats:
    """Evenly spread settings (n, k) over a span (2, k)."""
    k = span.shape[1]
    shares: Floats = np.indices((STEPS,) * k).reshape(k, STEPS**k).T / (STEPS - 1)
    return span[0] + shares * (span[1] - span[0])


def surfaces_data(fitted: Hyper) -> pl.DataFrame:
    """Rows (kind, cell, lr, batch_tokens, excess, run_id): runs, surface, minimum, laws' settings.

    `excess` is above the cell's minimum; `batch_tokens` is null where only lr was swept.
    """
    rows: list[tuple[str, str, float, float | None, float, str | None]] = []

    def add(
        kind: str, cell: Cell, settings: Any, losses: Any, run_ids: Iterable[str] | None = None
    ) -> None:
        runs = run_ids or itertools.repeat(None, len(settings))
        for setting, loss, run in zip(np.exp(settings).tolist(), losses, runs, strict=True):
            batch = setting[1] if len(setting) > 1 else None
            above = float(loss) - (cell.loss or 0.0)
            rows.append((kind, str(cell), setting[0], batch, above, run))

    for cell in _shown(fitted.cells):
        assert cell.optimum is not None
        grid = _grid(cell.span)
        add("surface", cell, grid, cell(grid))
        add("run", cell, cell.settings, cell.losses, cell.run_ids)
        add("minimum", cell, cell.optimum[None], [cell.loss])
        log_rules = [law.rule.log_value(sizes_of(cell)) for law in fitted.laws]
        add(OWN, cell, np.array([log_rules]), cell(np.array([log_rules])))
    names = {"kind": pl.String, "cell": pl.String}
    number = dict.fromkeys(("lr", "batch_tokens", "excess"), pl.Float64)
    return pl.DataFrame(rows, names | number | {"run_id": pl.String}, orient="row")


def _draw_surface(figure: Any, rows: pl.DataFrame, where: dict[str, int]) -> None:
    """A panel: contours over lr and batch, or the parabola over lr."""
    flat = rows["batch_tokens"].null_count() == len(rows)
    y = "excess" if flat else "batch_tokens"
    surface = rows.filter(pl.col("kind") == "surface")
    x_values, y_values = surface["lr"].to_list(), surface[y].to_list()
    if flat:
        figure.add_scatter(
            x=x_values, y=y_values, mode="lines", line={"color": style.BLUE}, **where
        )
    else:
        figure.add_contour(
            x=x_values,
            y=y_values,
            z=surface["excess"].to_list(),
            contours=CONTOURS,
            colorscale="Blues",
            reversescale=True,
            showscale=False,
            line={"width": 0.5},
            hoverinfo="skip",
            **where,
        )
    marks = {"run": (style.INK, "circle", 6), "minimum": (style.VERMILLION, "diamond", 10)}
    for kind, (color, symbol, size) in (marks | {OWN: (style.INK, "x", 9)}).items():
        points = rows.filter(pl.col("kind") == kind)
        figure.add_scatter(
            x=points["lr"].to_list(),
            y=points[y].to_list(),
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": size}
            | {"line": {"color": "white", "width": 1}},
            customdata=[
                (excess, html.escape(f"run {run}") if run else kind)
                for excess, run in points.select("excess", "run_id").iter_rows()
            ],
            hovertemplate="%{x:.3g}, %{y:.3g}<br>+%{customdata[0]:.4f}"
            "<extra>%{customdata[1]}</extra>",
            **where,
        )
    figure.update_xaxes(style.log_axis(rows["lr"].to_list(), "learning rate", ticks=4), **where)
    linear = {"title": "excess loss (nats/token)"}
    figure.update_yaxes(
        linear if flat else style.log_axis(y_values, "batch, tokens", ticks=5), **where
    )


def surfaces_figure(data: pl.DataFrame) -> Any:
    """A panel a cell: its surface, the runs it stands on, its minimum, and this law's setting."""
    cells: list[str] = data["cell"].unique(maintain_order=True).to_list()
    columns = min(len(cells), 3)
    figure: Any = make_subplots(
        rows=math.ceil(len(cells) / columns),
        cols=columns,
        subplot_titles=cells,
        horizontal_spacing=0.1,
        vertical_spacing=0.16,
    )
    for i, cell in enumerate(cells):
        where = {"row": i // columns + 1, "col": i % columns + 1}
        _draw_surface(figure, data.filter(pl.col("cell") == cell), where)
    height = 60 + 300 * math.ceil(len(cells) / columns)
    return figure.update_layout(template=style.TEMPLATE, height=height, margin={"t": 50})

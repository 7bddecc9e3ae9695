"""How every figure looks: one template, one palette, axes that read as papers write them."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.law import scientific

INK, MUTED, GRID = "#1b1f24", "#59636e", "#e6e9ed"
# Source: Okabe & Ito 2008, "Color universal design": told apart with any colour vision.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8a929b"
VERDICT_COLORS = {
    "better": GREEN,
    "worse": VERMILLION,
    "no difference seen": GREY,
    "not tested": GREY,
}
# The laws that vote, side by side; blue stands for all of them together.
LAW_COLORS = {
    "isoflop": "#009E73",
    "parametric": "#E69F00",
    "tied": "#CC79A7",
    "farseer": "#56B4E9",
    "data-constrained": "#1b1f24",
    "envelope": "#8a929b",
}
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
UNITS = {"nats_per_token": "nats/token", "bits_per_byte": "bits/byte"}

_AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "linecolor": MUTED,
    "showline": True,
    "ticks": "outside",
    "tickcolor": MUTED,
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 12},
}
TEMPLATE: Any = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 70, "r": 30, "t": 30, "b": 60},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "bgcolor": "white"},
        "showlegend": False,
        "height": 460,
    }
)


def axis_title(metric: str) -> str:
    """The name of a metric on an axis, with its unit."""
    return f"loss ({UNITS[metric]})" if metric in UNITS else html.escape(metric)


def budget_colors(budgets: Sequence[float]) -> dict[float, str]:
    """One sequential scale, small budgets dark; its palest fifth is left out, it fades on white."""
    ordered = sorted(set(budgets))
    places = [0.8 * i / max(len(ordered) - 1, 1) for i in range(len(ordered))]
    scale: Any = sample_colorscale("Viridis", places, colortype="tuple")
    colors = ["#{:02x}{:02x}{:02x}".format(*(round(255 * x) for x in color)) for color in scale]
    return dict(zip(ordered, colors, strict=True))


def faded(color: str, opacity: float) -> str:
    """A hex colour as CSS rgba."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def log_axis(values: Sequence[float], title: str, *, ticks: int = 9) -> dict[str, Any]:
    """A logarithmic axis with ticks like 1e18 and 2e18, as dense as `ticks` of them allow."""
    low, high = math.log10(min(values)), math.log10(max(values))
    marks: list[float] = []
    for steps in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        whole = range(math.floor(low) - 1, math.ceil(high) + 2)
        marks = [step * 10.0**power for power in whole for step in steps]
        marks = [mark for mark in marks if low - 0.1 <= math.log10(mark) <= high + 0.1]
        if len(marks) <= ticks:
            break
    marks = marks[:: math.ceil(len(marks) / ticks)] if marks else marks
    text = [scientific(mark) if abs(math.log10(mark)) >= 3 else f"{mark:g}" for mark in marks]
    return {
        "type": "log",
        "title": title,
        "tickvals": marks,
        "ticktext": text,
        "range": padded(low, high),
    }


def padded(low: float, high: float) -> list[float]:
    """A range with room for markers at its ends."""
    margin = 0.06 * (high - low) or 0.02
    return [low - margin, high + margin]

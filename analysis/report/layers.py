"""Norms of layers over a run's tokens: which runs are shown, the rows drawn, and the section."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import html
from typing import Any

import polars as pl
from plotly.subplots import make_subplots

from analysis.law import scientific
from analysis.report import page, style
from analysis.store import Connection, query

SHOWN = 4
# Points of a figure: many layers have fewer each.
POINTS = 20_000
FEWEST = 20

# Of each budget the run that ended lowest and, apart, the diverged one: it is what norms explain.
LAYERS = """
with asked as (
    select run_id from trials where study = $study
    union
    select unnest(from_json(run_ids, '["VARCHAR"]')) from promotions where study = $study),
measured as (
    select s.run_id, any_value(r.budget) as budget, any_value(r.state) as state,
        arg_max(s.loss, s.step) as loss
    from steps s join runs r using (run_id) join asked using (run_id)
    where contains(s.others, '/') group by s.run_id),
chosen as (
    select run_id, budget, state from measured
    qualify row_number() over (
        partition by budget, state = 'DIVERGED' order by loss nulls last, run_id) = 1
    order by budget desc, state = 'DIVERGED', run_id limit $shown)
select run_id, budget, state, step, tokens, quantity, layer, value
from layer_norms join chosen using (run_id) order by run_id, quantity, layer, step
"""

# What is drawn of them, and whether its axis is logarithmic.
PANELS = {
    "gradient_norm": ("gradient norm", True),
    "update_ratio": ("update / weights", True),
    "activation_rms": ("RMS of outputs", True),
    "attention_logit_max": ("largest attention logit", False),
}

SENTENCE = (
    "Each line is a layer: dark ones near the input, pale ones near the output. A point is the "
    "largest value of its stretch of the run. The squares of the gradient norms add up to that of "
    "the whole; the update is what one step changed, over the norm of the weights."
)


def measured(con: Connection, study: str, shown: int = SHOWN) -> pl.DataFrame:
    """Rows (run_id, budget, state, step, tokens, quantity, layer, value) of at most `shown` runs.

    Those of the largest budgets among the study's runs whose layers were measured.
    """
    return query(con, LAYERS, {"study": study, "shown": shown})


def depth(layer: str) -> tuple[int, int, int, str]:
    """Where a layer stands between input and output, as a key to sort by."""
    stack = 1 if layer.startswith("encoder.") else 2
    kind, *place = layer.removeprefix("encoder.").split(".")
    match kind:
        case "block":
            return stack, 1, int(place[0]), layer
        case "bias" | "norm":
            return stack, 2 if kind == "norm" else 0, 0, layer
        case _:
            return 3 if kind == "head" else 0, 0, 0, layer


def layers_data(rows: pl.DataFrame, points: int = POINTS) -> pl.DataFrame:
    """Rows (quantity, layer, depth, tokens, value) of one run, for about `points` in all.

    `depth` counts layers from the input; `value` is the largest of a stretch of steps.
    """
    kept = rows.filter(pl.col("quantity").is_in([*PANELS]), pl.col("tokens") > 0)
    positive = [quantity for quantity, (_, log) in PANELS.items() if log]
    kept = kept.filter(~pl.col("quantity").is_in(positive) | (pl.col("value") > 0))
    each = max(FEWEST, points // max(1, kept.select("quantity", "layer").n_unique()))
    line = ["quantity", "layer"]
    order, count = pl.int_range(pl.len()).over(line), pl.len().over(line)
    stretch = (order // ((count - 1) // each + 1)).alias("stretch")
    drawn = kept.sort(*line, "step").with_columns(stretch).group_by(*line, "stretch")
    found = drawn.agg(pl.col("tokens").last(), pl.col("value").max())
    ordered = sorted(found["layer"].unique().to_list(), key=depth)
    place = {layer: number for number, layer in enumerate(ordered)}
    numbered = found.with_columns(pl.col("layer").replace_strict(place).alias("depth"))
    return numbered.sort("quantity", "depth", "tokens").drop("stretch")


def layers_figure(data: pl.DataFrame) -> Any:
    """A panel a quantity, in it a line a layer over tokens."""
    figure: Any = make_subplots(rows=2, cols=2, horizontal_spacing=0.1, vertical_spacing=0.14)
    colors = style.budget_colors([float(number) for number in data["depth"].to_list()])
    tokens: list[float] = data["tokens"].to_list()
    for index, (quantity, (title, log)) in enumerate(PANELS.items()):
        where = {"row": index // 2 + 1, "col": index % 2 + 1}
        here = data.filter(pl.col("quantity") == quantity)
        for line in here.partition_by("layer", maintain_order=True):
            _line(figure, line, colors[float(line["depth"][0])], where)
        values: list[float] = here["value"].to_list()
        axis = style.log_axis(values, title, ticks=6) if log and values else {"title": title}
        figure.update_yaxes(axis, **where)
        figure.update_xaxes(style.log_axis(tokens, "tokens", ticks=5), **where)
    return figure.update_layout(template=style.TEMPLATE, height=640)


def _line(figure: Any, rows: pl.DataFrame, color: str, where: dict[str, int]) -> None:
    """The line of one layer, of columns layer, tokens and value."""
    layer = html.escape(str(rows["layer"][0]))
    figure.add_scatter(
        x=rows["tokens"].to_list(),
        y=rows["value"].to_list(),
        mode="lines+markers" if len(rows) == 1 else "lines",
        line={"color": color, "width": 1.4},
        hovertemplate=f"%{{x:.3s}} tokens<br>%{{y:.3g}}<extra>{layer}</extra>",
        **where,
    )


def section(rows: pl.DataFrame) -> str:
    """The section of the runs whose layers were measured, or nothing."""
    parts: list[str] = []
    ordered = rows.sort(pl.col("budget"), "run_id", descending=[True, False], maintain_order=True)
    for number, run in enumerate(ordered.partition_by("run_id", maintain_order=True), start=1):
        data = layers_data(run)
        if data.is_empty():
            continue
        run_id, budget, state = run.select("run_id", "budget", "state").row(0)
        parts.append(page.heading(f"Run {run_id}, {scientific(budget)} FLOPs, {state}"))
        parts.append(page.figure(layers_figure(data), f"layers-{number}", [run_id]))
    return page.section("Layers", page.paragraph(SENTENCE), *parts) if parts else ""

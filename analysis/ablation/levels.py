"""Which levels the trials of a study set, from what the store has of the study."""

import json
from collections.abc import Mapping
from functools import reduce
from typing import Any

import polars as pl

# Axes of these paths set the learning rate or the batch, and leave the model as it is.
KNOB_PATHS = ("lr.scale", "lr.value", "batch.global_batch_tokens", "batch_rule.scale")
# A valley of the rate has two sides and a bottom.
RATES_NEEDED = 3
# Designs whose trials set every axis.
CROSSED = ("grid", "fractional")


def baseline_levels(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The level of each axis that the recipe of a study, as it was resolved, has itself."""
    found: dict[str, Any] = {}
    for axis in resolved.get("axes", []):
        found[axis["name"]] = reduce(
            lambda part, key: part[key], axis["path"].split("."), resolved["base"]
        )
    return found


def ablation_rows(points: pl.DataFrame, baseline: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Trials of an ablation as `ablation.effects` takes them; the unfinished have no loss.

    A trial of one_at_a_time has one row, one of a grid or a fraction of it a row for every axis;
    these do not say which levels are the baseline's, so they take `baseline` (as of
    `baseline_levels`).
    """
    rows: list[dict[str, Any]] = []
    for row in points.iter_rows(named=True):
        for setting in _settings(row, baseline):
            kept = {name: row[name] for name in ("budget", "seed", "run_id")}
            rows.append(kept | setting | {"loss": row["loss"] if row["state"] == "DONE" else None})
    schema = {"axis": pl.String, "level": pl.String, "baseline": pl.Boolean, "budget": pl.Float64}
    return pl.DataFrame(rows, schema | {"seed": pl.Int64, "loss": pl.Float64, "run_id": pl.String})


def _settings(row: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Axis, level and whether it is the baseline's, for each axis that a trial sets."""
    if row["design"] == "one_at_a_time":
        values: dict[str, Any] = json.loads(row["values"])
        found = [(values["axis"], values["level"], bool(values["baseline"]))]
    elif row["design"] in CROSSED and baseline is not None:
        values = json.loads(row["values"])
        found = [(axis, level, level == baseline[axis]) for axis, level in values.items()]
    else:
        return []
    return [
        {"axis": axis, "level": level if isinstance(level, str) else json.dumps(level)}
        | {"baseline": is_baseline}
        for axis, level, is_baseline in found
    ]


def swept(
    points: pl.DataFrame, settings: pl.DataFrame, resolved: Mapping[str, Any]
) -> pl.DataFrame:
    """The runs of a sweep of lr (and batch): none where no size and token count has 3 rates.

    Runs with another level of an axis that is no knob are other models, and are left out;
    `settings` are rows as of `ablation_rows`, `resolved` is the study as it was resolved.
    """
    knobs = {axis["name"] for axis in resolved.get("axes", []) if axis["path"] in KNOB_PATHS}
    others = settings.filter(~pl.col("baseline"), ~pl.col("axis").is_in([*knobs]))
    rows = points.filter(
        pl.col("lr").is_not_null(), ~pl.col("run_id").is_in(others["run_id"].to_list())
    )
    rates = rows.group_by("params", "tokens").agg(pl.col("lr").n_unique())["lr"].max()
    return rows if isinstance(rates, int) and rates >= RATES_NEEDED else rows.clear()

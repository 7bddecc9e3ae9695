"""Runs sorted into cells of one size and token count, each with its surface over the knobs."""

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import polars as pl

from analysis.hyper.surface import KNOBS, WINDOWS, Cell, surface
from analysis.law import Excluded, NotEnough

SIZES = ("params", "tokens", "flops")
# Runs of one plan differ in tokens by the rounding to whole steps.
SAME_SIZE = math.log(1.02)


def _levels(values: pl.Series) -> pl.Series:
    """A label for each value; values closer than SAME_SIZE to a neighbour share one."""
    order = values.arg_sort()
    steps = values.gather(order).log().diff().fill_null(0.0) > SAME_SIZE
    return steps.cum_sum().gather(order.arg_sort())


def _refusal(knobs: Sequence[str], sizes: Sequence[str], state: pl.Expr) -> pl.Expr:
    """Why a row carries no evidence, or null."""

    def bad(name: str) -> pl.Expr:
        return pl.col(name).is_null() | ~pl.col(name).is_finite() | (pl.col(name) <= 0)

    found = pl.when(state != "DONE").then(pl.concat_str(pl.lit("state "), state))
    for name in ("loss", *knobs, *sizes):
        found = found.when(bad(name)).then(pl.lit(f"no finite positive {name}"))
    return found.otherwise(None)


def _third(missing: Collection[str]) -> Iterator[pl.Expr]:
    """The size that a file lacks, by flops = 6 params tokens."""
    params, tokens, flops = (pl.col(name) for name in SIZES)
    derived = {"params": flops / 6 / tokens, "tokens": flops / 6 / params}
    derived["flops"] = 6 * params * tokens
    for name in missing:
        yield derived[name].alias(name)


def _usable(points: pl.DataFrame) -> tuple[pl.DataFrame, list[str], list[Excluded]]:
    """Rows that carry evidence, with flops; which knobs vary; and the rows that do not."""
    given = [name for name in points.columns if points[name].null_count() < len(points)]
    sizes = [name for name in SIZES if name in given]
    for name in ("loss", "lr"):
        if name not in given:
            raise NotEnough(f"no value of {name}; a law of the learning rate takes lr and loss")
    if not sizes:
        raise NotEnough("no value of params, tokens or flops; give at least one of them")
    knobs = [name for name in KNOBS if name in given]
    rows = points.unique("run_id", keep="first", maintain_order=True).with_columns(
        pl.col("run_id").cast(pl.String), pl.col("loss", *knobs, *sizes).cast(pl.Float64)
    )
    rows = rows.drop(name for name in SIZES if name in rows.columns and name not in sizes)
    state = pl.col("state").fill_null("PLANNED") if "state" in rows.columns else pl.lit("DONE")
    rows = rows.with_columns(_refusal(knobs, sizes, state).alias("refusal"))
    refused = rows.filter(pl.col("refusal").is_not_null()).select("run_id", "refusal")
    rows = rows.filter(pl.col("refusal").is_null())
    if len(sizes) == 2:
        rows = rows.with_columns(*_third(set(SIZES) - set(sizes)))
    excluded = [Excluded(run_id, reason) for run_id, reason in refused.iter_rows()]
    return rows, knobs, excluded


def _groups(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """The runs of each cell, smallest first."""
    keys = [name for name in ("params", "tokens") if name in rows.columns] or ["flops"]
    labels = [f"cell_{key}" for key in keys]
    labelled = rows.with_columns(
        _levels(rows[key]).alias(label) for key, label in zip(keys, labels, strict=True)
    )
    return labelled.sort(*keys, "run_id").partition_by(labels, maintain_order=True)


def _middle(rows: pl.DataFrame, name: str) -> float:
    return float(np.median(rows[name].to_numpy())) if name in rows.columns else math.nan


def _cell(rows: pl.DataFrame, knobs: Sequence[str]) -> Cell:
    settings = rows.select(pl.col(knobs).log()).to_numpy()
    params, tokens, flops = (_middle(rows, name) for name in SIZES)
    return Cell(
        params=params,
        tokens=tokens,
        flops=flops,
        run_ids=tuple(rows["run_id"].to_list()),
        settings=settings,
        losses=rows["loss"].to_numpy(),
        span=np.stack([settings.min(axis=0), settings.max(axis=0)]),
        center=settings.mean(axis=0),
    )


def _left_out(whole: Cell, judged: Cell) -> Iterator[Excluded]:
    """The runs of a cell that no surface stands on, each with the reason."""
    best, used = whole.losses.min(), set(() if judged.refusal else judged.run_ids)
    for run_id, loss in zip(whole.run_ids, whole.losses.tolist(), strict=True):
        over = loss / best - 1
        if over > WINDOWS[-1]:
            yield Excluded(run_id, f"loss {loss:.4g} is {over:.0%} above its cell's best: diverged")
        elif judged.refusal:
            yield Excluded(run_id, f"its cell is refused, {judged.refusal.name}")
        elif run_id not in used:
            why = f"loss {loss:.4g} is {over:.1%} above its cell's best; the quadratic is local"
            yield Excluded(run_id, f"{why}, within {judged.window:.1%}")


def cells(points: pl.DataFrame) -> tuple[tuple[Cell, ...], tuple[Excluded, ...]]:
    """The surface of every cell, smallest first, and every row that none of them stands on.

    Columns: run_id, lr, loss, one of params, tokens, flops at least; batch_tokens and state where
    there are. Where each cell has one batch the surface is a parabola in lr. Raises NotEnough
    where a column is missing or lr is the same in every run.
    """
    rows, knobs, excluded = _usable(points)
    if rows["lr"].n_unique() == 1:
        raise NotEnough(f"lr is {rows['lr'][0]:g} in every run; train runs at other rates")
    groups = _groups(rows)
    swept = knobs if any(g[knobs[-1]].n_unique() > 1 for g in groups) else knobs[:1]
    wholes = [_cell(group, swept) for group in groups]
    wholes.sort(key=Cell.scale)
    judged = [surface(whole) for whole in wholes]
    for whole, cell in zip(wholes, judged, strict=True):
        excluded.extend(_left_out(whole, cell))
    return tuple(judged), tuple(excluded)

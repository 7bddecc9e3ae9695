"""The runs of an ablation, each beside the baseline run of its budget and seed."""

import polars as pl

from analysis.law import Diagnostic

Cell = tuple[str, str]


def settings(frame: pl.DataFrame) -> pl.DataFrame:
    """A row for every axis that a run sets, once, whichever designs ask for it.

    A loss that is no finite number is null.
    """
    loss = pl.when(pl.col("loss").is_finite()).then("loss")
    rows = frame.with_columns(loss, pl.col("level").cast(pl.String))
    key = ["axis", "level", "run_id", "budget", "seed"]
    return rows.unique(key, keep="first", maintain_order=True)


def one_change(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The baseline runs, and the rows of runs that differ from the baseline in one axis.

    Rows as of `effects`; one run a level, budget and seed, failed runs with a null loss.
    """
    block = ["budget", "seed"]
    changed = (~pl.col("baseline")).sum().over("run_id", *block)
    rows = settings(frame).with_columns(changed.alias("changed"))
    # A run that finished goes before one of the same name and place that did not.
    rows = rows.sort(pl.col("loss").is_null(), maintain_order=True)
    baseline = rows.filter(pl.col("changed") == 0).unique(block, keep="first", maintain_order=True)
    levels = rows.filter(pl.col("changed") == 1, ~pl.col("baseline")).unique(
        ["axis", "level", *block], keep="first", maintain_order=True
    )
    return baseline.filter(pl.col("loss").is_not_null()), levels


def cells_of(frame: pl.DataFrame) -> list[Cell]:
    """Every (axis, level) that is not the baseline's, in the order of the rows."""
    variants = frame.filter(~pl.col("baseline")).with_columns(pl.col("level").cast(pl.String))
    return variants.select("axis", "level").unique(maintain_order=True).rows()


def of_cell(rows: pl.DataFrame, cell: Cell) -> pl.DataFrame:
    """The rows of one level of one axis."""
    return rows.filter(pl.col("axis") == cell[0], pl.col("level") == cell[1])


def paired(frame: pl.DataFrame) -> pl.DataFrame:
    """Each run of a level beside the baseline run of the same budget and seed.

    Columns axis, level, budget, seed, run_id, loss, base (the baseline's loss) and difference.
    """
    baseline, levels = one_change(frame)
    block = ["budget", "seed"]
    base = baseline.select(*block, pl.col("loss").alias("base"))
    pairs = levels.filter(pl.col("loss").is_not_null()).join(
        base, on=block, nulls_equal=True, maintain_order="left"
    )
    return pairs.with_columns((pl.col("loss") - pl.col("base")).alias("difference"))


def lost_pairs(frame: pl.DataFrame, cell: Cell, found: int) -> tuple[Diagnostic, ...]:
    """A diagnostic where a level has runs that gave no pair: what is left may be the lucky part."""
    here = of_cell(one_change(frame)[1], cell)
    if found == len(here):
        return ()
    why = f"{len(here) - found} of {len(here)} runs have no loss, or no baseline run beside them"
    return (Diagnostic("pairs_lost", f"{' = '.join(cell)}: {why}"),)

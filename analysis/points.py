"""Runs from outside: a file of them made the rows that every law takes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from analysis import budgets
from analysis.law import Diagnostic, scientific
from analysis.tables import BadPoints, load, missing, numeric, rename, rows

SIZES = ("params", "tokens", "flops")
NUMBERS = (*SIZES, "loss", "budget", "lr", "batch_tokens", "unique_tokens", "seed")
NEED = ("params", "tokens", "flops", "loss")
# What a law needs that is not fitted to sizes and losses; all others need NEED.
NEEDED_BY: dict[str, tuple[str, ...]] = {
    "lr-batch": ("lr", "loss"),
    "downstream": ("flops", "nll", "accuracy"),
    "mixture": (),
}
# Within one unit the FLOPs per parameter and token differ by what attention and experts add.
UNITS_APART = 30.0
# No ladder leaves so wide a gap between sizes; millions among units do.
GAP_DECADES = 2.5


@dataclass(frozen=True, eq=False)
class Points:
    """Runs as laws take them, what was supposed in reading them, and their flops / (N D).

    `frame` has run_id ("row 1", ... in a file), loss, params, tokens, flops, budget (Float64, null
    where a run belongs to none), state, and whatever else the file has; optional are seed, lr,
    batch_tokens and unique_tokens.
    """

    frame: pl.DataFrame
    notes: tuple[Diagnostic, ...] = ()
    flops_ratio: float = 6.0


def read(
    path: Path, columns: Mapping[str, str] | None = None, need: Sequence[str] = NEED
) -> Points:
    """The runs of a .csv, .jsonl, .ndjson or .parquet file; `columns` is {our name: their name}.

    Any two of params, tokens and flops give the third. A loss that is NaN, infinite or empty stays,
    for the laws to name. Raises BadPoints, a ValueError, where a column of `need` is not there or a
    number is not what it must be.
    """
    named = rename(load(path), columns or {}, path)
    frame = _labelled(_numbers(named, dict.fromkeys((*NUMBERS, *need)), path))
    _check_positive(frame, path)
    frame, ratio, notes = _completed(frame)
    lacking = [name for name in need if name not in frame.columns]
    if lacking:
        raise _missing(named.columns, lacking, path)
    _check_units(frame, path)
    frame, grouped = _budgeted(frame)
    return Points(frame, (*notes, *grouped), ratio)


def read_sizes(path: Path, columns: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Sizes to predict at, in the file's order: params, tokens, and whatever else the file has.

    `columns` are those of the runs: what is not in this file keeps its own name. Raises BadPoints.
    """
    frame = load(path)
    ours = {our: their for our, their in (columns or {}).items() if their in frame.columns}
    frame = _numbers(rename(frame, ours, path), NUMBERS, path)
    for name in ("params", "tokens"):
        if name not in frame.columns:
            raise missing(frame.columns, [name], path)
        bad = ~(frame[name].fill_null(0).fill_nan(0).is_between(0, math.inf, closed="none"))
        if bad.any():
            raise BadPoints(f"{path}: {rows(bad)}: {name} must be a number above zero")
    return frame


def of_frame(frame: pl.DataFrame) -> Points:
    """Runs that are rows already, as of `store.points`, with their measured flops / (N D)."""
    ratio, notes = _ratio(frame)
    return Points(frame, notes, ratio)


def _numbers(frame: pl.DataFrame, names: Iterable[str], path: Path) -> pl.DataFrame:
    found = [numeric(frame, name, path) for name in names if name in frame.columns]
    frame = frame.with_columns(found)
    if "seed" not in frame.columns:
        return frame
    seed = frame["seed"].fill_nan(None)
    odd = (seed != seed.round()).fill_null(False) | seed.is_infinite().fill_null(False)
    if odd.any():
        raise BadPoints(f"{path}: {rows(odd)}: seed must be a whole number")
    return frame.with_columns(seed.cast(pl.Int64))


def _labelled(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with a name and a state; a run_id of the file's own is kept as run_id_of_file."""
    frame = frame.rename({"run_id": "run_id_of_file"}, strict=False)
    number = pl.int_range(1, pl.len() + 1).cast(pl.String)
    state = pl.lit("DONE")
    if "state" in frame.columns:
        state = pl.col("state").cast(pl.String).str.strip_chars().str.to_uppercase()
        state = pl.when(state == "").then(None).otherwise(state).fill_null("DONE")
    named = frame.select(pl.concat_str(pl.lit("row "), number).alias("run_id"))
    return pl.concat([named, frame.with_columns(state.alias("state"))], how="horizontal")


def _check_positive(frame: pl.DataFrame, path: Path) -> None:
    for name in NUMBERS:
        if name == "seed" or name not in frame.columns:
            continue
        bad = (frame[name] <= 0) & (frame[name].is_finite()) & (frame["state"] == "DONE")
        if bad.fill_null(False).any():
            value = frame.filter(bad)[name][0]
            out = "; leave the cell empty where a run has none, or give the run another state"
            raise BadPoints(f"{path}: {rows(bad)}: {name}={value:g} is not above zero{out}")


def _ratio(frame: pl.DataFrame) -> tuple[float, tuple[Diagnostic, ...]]:
    """flops / (params x tokens) where all three are there, else 6; said where it is not 6."""
    if not set(SIZES) <= set(frame.columns):
        return 6.0, ()
    counted = (frame["flops"] / frame["params"] / frame["tokens"]).cast(pl.Float64)
    counted = counted.filter(counted.is_finite())
    middle = counted.median()
    if not isinstance(middle, float):
        return 6.0, ()
    if abs(middle / 6 - 1) <= 0.01:
        return middle, ()
    spread = f"{counted.min():.4g} to {counted.max():.4g}"
    why = f"flops / (params x tokens) is {middle:.4g} ({spread}), not 6; the measured one is used"
    return middle, (Diagnostic("flops_ratio", why),)


def _completed(frame: pl.DataFrame) -> tuple[pl.DataFrame, float, tuple[Diagnostic, ...]]:
    """The runs with the third of params, tokens and flops from the other two, where two are there.

    A file that names budgets and no flops has spent its budgets, where nothing else can tell.
    """
    notes: list[Diagnostic] = []
    known = set(frame.columns)
    if "budget" in known and "flops" not in known and len(known & set(SIZES)) == 1:
        frame = frame.with_columns(pl.col("budget").alias("flops"))
        notes.append(Diagnostic("flops_from_budget", "no flops in the file: budgets are taken"))
    ratio, said = _ratio(frame)
    notes += said
    if len(set(frame.columns) & set(SIZES)) < 2:
        return frame, ratio, tuple(notes)
    frame = frame.with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in SIZES if name not in frame.columns
    )
    params, tokens, flops = (pl.col(name) for name in SIZES)
    third = {
        "params": ("params_derived", flops / ratio / tokens, "flops / ({} tokens)"),
        "tokens": ("tokens_derived", flops / ratio / params, "flops / ({} params)"),
        "flops": ("flops_6nd", ratio * params * tokens, "{} params x tokens"),
    }
    whole = frame.with_columns(
        pl.coalesce(name, by).alias(name) for name, (_, by, _) in third.items()
    )
    for name, (note, _, words) in third.items():
        filled = int((frame[name].is_null() & whole[name].is_not_null()).sum())
        if filled:
            how = words.format(f"{ratio:.4g}")
            notes.append(Diagnostic(note, f"{name} of {filled} of {len(frame)} runs are {how}"))
    return whole, ratio, tuple(notes)


def _missing(have: Sequence[str], names: Sequence[str], path: Path) -> BadPoints:
    error = missing(have, names, path)
    if not set(names) & set(SIZES):
        return error
    return BadPoints(f"{error}; any two of params, tokens and flops will do")


def _check_units(frame: pl.DataFrame, path: Path) -> None:
    """Raise BadPoints where some rows count in another unit than the others."""
    out = "bring all rows to one unit (parameters and tokens counted one by one), or take them out"
    if set(SIZES) <= set(frame.columns):
        counted = (frame["flops"] / frame["params"] / frame["tokens"]).log()
        counted = counted.set(~counted.is_finite(), None)
        far = ((counted - counted.median()).abs() > math.log(UNITS_APART) / 2).fill_null(False)
        low, high = counted.min(), counted.max()
        if isinstance(low, float) and isinstance(high, float):
            if high - low > math.log(UNITS_APART):
                raise BadPoints(
                    f"{path}: {rows(far)}: flops / (params x tokens) runs from {math.exp(low):.3g} "
                    f"to {math.exp(high):.3g}, but is near 6 in one unit; {out}"
                )
    for name in ("params", "tokens"):
        if name in frame.columns:
            _check_gap(frame[name], path, out)


def _check_gap(sizes: pl.Series, path: Path, out: str) -> None:
    ordered = sizes.filter(sizes.is_finite() & (sizes > 0)).log10().sort()
    gaps = ordered.diff()
    place = gaps.arg_max()
    if place is None or gaps[place] < GAP_DECADES:
        return
    below, above = 10 ** ordered[place - 1], 10 ** ordered[place]
    cut = 10 ** ((ordered[place - 1] + ordered[place]) / 2)
    fewer = sizes < cut if place <= len(ordered) / 2 else sizes > cut
    raise BadPoints(
        f"{path}: {rows(fewer.fill_null(False))}: no {sizes.name} between {scientific(below)} and "
        f"{scientific(above)}, as if some were in another unit; {out}"
    )


def _budgeted(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Diagnostic, ...]]:
    """Budgets as the file names them, or as its FLOPs crowd about them."""
    if "budget" in frame.columns:
        return frame, ()
    if not {"params", "flops"} <= set(frame.columns):
        return frame.with_columns(pl.lit(None, pl.Float64).alias("budget")), ()
    flops, params = (frame[name].fill_null(math.nan).to_numpy() for name in ("flops", "params"))
    budget = pl.Series("budget", budgets.group(flops, params)).fill_nan(None)
    named = budget.drop_nulls().unique().sort()
    if named.is_empty():
        why = "the FLOPs of the runs crowd about no budgets; name them in a column budget"
    else:
        why = (
            f"{len(named)} budget{'s' if len(named) > 1 else ''} from {scientific(named[0])} to "
            f"{scientific(named[-1])} read off the FLOPs; {budget.null_count()} of {len(frame)} "
            "runs belong to none; a column budget would name them"
        )
    return frame.with_columns(budget), (Diagnostic("budgets_grouped", why),)

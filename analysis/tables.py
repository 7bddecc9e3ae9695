"""Files of rows, read by their extension; the columns that a reader asks for, found or missed."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import polars as pl

# Words for an empty cell, beside the empty cell itself.
EMPTY = ("", "na", "n/a", "null", "none")
# Other words for our names, by which a column that may be meant is found.
ALSO = {"params": "parameters", "tokens": "datasize", "flops": "compute"}
SHOWN = 12


class BadPoints(ValueError):
    """A file that cannot be read as runs; the sentence names row or column and the way out."""


def _csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=None, glob=False)


def _jsonl(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ndjson(path, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        # Python writes NaN and Infinity, which are no JSON, and reads them.
        return _jsonl_by_line(path)


def _jsonl_by_line(path: Path) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise BadPoints(f"{path}: line {number} is not JSON: {error}") from error
        if isinstance(row, dict):
            rows.append(cast("dict[str, Any]", row))
        elif line.strip():
            raise BadPoints(f"{path}: line {number} is not an object; write {{...}} on each line")
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


def _parquet(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path, glob=False)


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
}


def load(path: Path) -> pl.DataFrame:
    """The rows of a file as they are. Raises BadPoints where there are none to be read."""
    if path.suffix.lower() not in READERS:
        raise BadPoints(f"{path}: {path.suffix or 'no extension'} is not read; use {_any(READERS)}")
    try:
        frame = READERS[path.suffix.lower()](path)
    except pl.exceptions.NoDataError:
        frame = pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        why = "there is no such file" if not path.exists() else why
        raise BadPoints(f"{path}: cannot be read: {why}; give a file of {_any(READERS)}") from error
    if frame.is_empty():
        raise BadPoints(f"{path}: has no rows; give a file with a row a run")
    # Whole numbers beyond 64 bits: few readers of a frame take them.
    return frame.with_columns(pl.col(pl.Int128).cast(pl.Float64))


def _any(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def parse_columns(text: str) -> dict[str, str]:
    """`ours=theirs,...` as {ours: theirs}. Raises BadPoints where a name is absent or repeated."""
    found: dict[str, str] = {}
    for part in text.split(",") if text.strip() else ():
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise BadPoints(f"--columns {part.strip()!r} is not OURS=THEIRS; write loss=val_loss")
        if ours in found or theirs in found.values():
            twice = ours if ours in found else theirs
            raise BadPoints(f"--columns names {twice!r} twice in {text!r}; name each column once")
        found[ours] = theirs
    return found


def rename(frame: pl.DataFrame, columns: Mapping[str, str], path: Path) -> pl.DataFrame:
    """The frame with our names; a column of theirs that had one of them is NAME_of_file.

    Raises BadPoints where a column that `columns` names is not in the file.
    """
    for ours, theirs in columns.items():
        if theirs not in frame.columns:
            raise BadPoints(
                f"{path}: --columns {ours}={theirs}: there is no column {theirs!r}; "
                f"{_near(theirs, frame.columns)}it has {_listed(frame.columns)}"
            )
    back = {theirs: ours for ours, theirs in columns.items()}
    displaced = {name: f"{name}_of_file" for name in columns if columns[name] != name}
    return frame.rename({n: n for n in frame.columns} | displaced | back, strict=False)


def missing(have: Sequence[str], names: Sequence[str], path: Path) -> BadPoints:
    """What to say of columns that are needed and not among those that the file has."""
    guesses = [f"{name}={guess}" for name in names if (guess := _guess(name, have))]
    likely = sorted(have, key=lambda theirs: not any(_bare(n) in _bare(theirs) for n in names))
    return BadPoints(
        f"{path}: there is no column {_any(names)}; it has {_listed(likely)}; say which column is "
        f"meant: --columns {','.join(guesses) or f'{names[0]}=THEIR_NAME'}"
    )


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _guess(name: str, have: Sequence[str]) -> str | None:
    """The column that may be meant: the shortest with the name in it, or one spelt much like it."""
    bare = {_bare(theirs): theirs for theirs in reversed(have)}
    words = (_bare(name), ALSO.get(name, _bare(name)))
    within = [theirs for word, theirs in bare.items() if any(w in word for w in words)]
    close = get_close_matches(_bare(name), list(bare), n=1, cutoff=0.7)
    return min(within, key=len, default=bare[close[0]] if close else None)


def _near(name: str, have: Sequence[str]) -> str:
    guess = _guess(name, have)
    return f"did you mean {guess!r}? " if guess else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def rows(mask: pl.Series) -> str:
    """Rows by their numbers, the first of the file being row 1: "rows 3, 7 and 12 more"."""
    numbers = [str(number + 1) for number in mask.arg_true().head(5)]
    rest = int(mask.sum()) - len(numbers)
    more = f" and {rest} more" if rest else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}{more}"


def numeric(frame: pl.DataFrame, name: str, path: Path) -> pl.Series:
    """A column as Float64, empty cells null. Raises BadPoints naming the row of what is no number.

    "nan" and "inf" are numbers: a run that diverged may have no other.
    """
    cells = frame[name]
    if cells.dtype == pl.Null or cells.dtype.is_numeric():
        return cells.cast(pl.Float64)
    if cells.dtype != pl.String:
        raise BadPoints(f"{path}: column {name!r} holds {cells.dtype}, not numbers")
    text = cells.str.strip_chars()
    text = text.set(text.str.to_lowercase().is_in(EMPTY), None)
    number = text.cast(pl.Float64, strict=False)
    odd = text.is_not_null() & number.is_null()
    if odd.any():
        cell = cells.filter(odd)[0]
        raise BadPoints(
            f"{path}: {rows(odd)}: {name}={cell!r} is not a number; write it plain, such as "
            "1400000000 or 1.4e9, or leave the cell empty"
        )
    return number

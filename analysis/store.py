"""The store of a study: one DuckDB file, derived from run directories and the driver's records.

It can always be rebuilt. One process writes at a time; jobs never open it.
"""

import json
import os
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import polars as pl

from analysis import runfiles
from analysis.schema import SCHEMA, VERSION

# The tables that `replace` fills, and the column that holds the study's name.
STUDY_COLUMN = {
    "studies": "name",
    "trials": "study",
    "jobs": "study",
    "fits": "study",
    "promotions": "study",
    "changes": "study",
}

Connection = duckdb.DuckDBPyConnection


class StoreBusy(ValueError):
    """Another process holds the store; the sentence names it."""


class OutOfDate(ValueError):
    """The store was made by another version of this program, and must be made again."""


def stream(rows: pl.DataFrame | duckdb.DuckDBPyRelation) -> Any:
    """Rows on their way between polars and DuckDB by the Arrow C stream alone, without pyarrow.

    DuckDB takes a polars frame only in this form. Polars would take a relation as it is, but keeps
    its type beyond the end of the process, and DuckDB then complains of a leak on stderr.
    """
    return SimpleNamespace(__arrow_c_stream__=rows.__arrow_c_stream__)


def _open(path: Path, read_only: bool, patience_seconds: float) -> Connection:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except (duckdb.IOException, duckdb.ConnectionException) as error:
            ours = "different configuration" in str(error)
            if not ours and "Could not set lock" not in str(error):
                raise
            if time.monotonic() >= deadline:
                raise StoreBusy(_holder(path, str(error), patience_seconds)) from error
        # File locks announce nothing, so this has to look again.
        time.sleep(0.05)


def _holder(path: Path, message: str, waited: float) -> str:
    held = re.search(r"held in (?P<program>.+?) \(PID (?P<pid>\d+)\)", message)
    program = Path(held["program"]).name if held else "this process"
    who = f"{program} (PID {held['pid']})" if held else program
    return f"{path} is open in {who}, still after {waited:g} s; close it there, then try again"


@contextmanager
def connect(
    path: Path, *, read_only: bool = False, patience_seconds: float = 10.0
) -> Generator[Connection]:
    """Open the store, waiting for another process to let it go; a new one gets its tables.

    Raises StoreBusy when patience ends, OutOfDate for a store of another version,
    FileNotFoundError for a read of what is not there.
    """
    if read_only and not path.exists():
        raise FileNotFoundError(f"{path} does not exist; launch the study first")
    path.parent.mkdir(parents=True, exist_ok=True)
    con = _open(path, read_only, patience_seconds)
    try:
        con.execute(SETTINGS, [min(MOST_THREADS, os.cpu_count() or 1)])
        if not read_only and not len(query(con, "from duckdb_tables()")):
            _create(con)
        _check_version(con, path)
        yield con
    finally:
        con.close()


# What a verb prints on stdout is the verb's alone. DuckDB would take most of a machine that is
# shared; beyond its limit it uses a folder beside the store.
SETTINGS = "set enable_progress_bar = false; set memory_limit = '1GB'; set threads = ?"
MOST_THREADS = 4


def _create(con: Connection) -> None:
    with transaction(con):
        con.execute(SCHEMA)
        con.execute("insert into meta values (?)", [VERSION])


def _check_version(con: Connection, path: Path) -> None:
    try:
        found = query(con, "select version from meta").item()
    except (duckdb.CatalogException, ValueError):
        found = 0
    if found != VERSION:
        raise OutOfDate(f"{path} has version {found} of the store's tables, and this is {VERSION}")


def path(con: Connection) -> Path:
    """The file of an open store."""
    return Path(query(con, "select path from duckdb_databases() where not internal").item())


def guard(con: Connection) -> None:
    """Keep a connection from every file but its own, for good: what it runs is not ours."""
    con.execute("set enable_external_access = false; set lock_configuration = true")


@contextmanager
def transaction(con: Connection) -> Generator[None]:
    """All of what is done inside, or nothing of it."""
    con.execute("begin")
    try:
        yield
    except BaseException:
        con.execute("rollback")
        raise
    con.execute("commit")


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


def replace(con: Connection, table: str, study: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put `rows` in the place of all rows that `study` has in a derived table, in one transaction.

    Dicts and lists become JSON; columns that are left out are null. Raises ValueError for a table
    or a column that does not exist.
    """
    if table not in STUDY_COLUMN:
        raise ValueError(f"table={table!r} is not replaced by study; use one of {[*STUDY_COLUMN]}")
    key = STUDY_COLUMN[table]
    with transaction(con):
        con.execute(f'delete from "{table}" where "{key}" = ?', [study])
        _append(con, table, [{**row, key: study} for row in rows])


def append_changes(con: Connection, study: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add those of a study's changes of state that the store does not have; returns how many.

    `rows` are all of them, oldest first, and only ever grow: those beyond the number stored are
    new. Columns time, run_id, state, cause, attempt, job.
    """
    known = query(con, "select count(*) from changes where study = ?", [study]).item()
    if known > len(rows):
        # Not the record that this was filled from: another took its place.
        replace(con, "changes", study, rows)
        return len(rows)
    with transaction(con):
        _append(con, "changes", [{**row, "study": study} for row in rows[known:]])
    return len(rows) - known


def _append(con: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows inside a transaction. Raises ValueError for a column that does not exist."""
    columns = con.sql(f'select * from "{table}" limit 0').columns
    unknown = sorted({name for row in rows for name in row} - set(columns))
    if unknown:
        raise ValueError(f"{table} has no column {', '.join(unknown)}; it has {', '.join(columns)}")
    series = [
        pl.Series(name, [_plain(row.get(name)) for row in rows], strict=False) for name in columns
    ]
    # A column of nulls alone has no type that DuckDB could read; it is null by being left out.
    if rows:
        with registered(con, pl.DataFrame([one for one in series if one.dtype != pl.Null])):
            con.execute(f'insert into "{table}" by name select * from frame')


@contextmanager
def registered(con: Connection, frame: pl.DataFrame) -> Generator[None]:
    """A frame that SQL finds by the name `frame`."""
    con.register("frame", stream(frame))
    yield
    # After an error the transaction can only be rolled back; the next frame takes the name.
    con.unregister("frame")


# A folder that changed just now may change again within one tick of its clock.
SETTLED_NANOSECONDS = 2_000_000_000


def ingest(con: Connection, runs_folder: Path, states: Mapping[str, tuple[str, str]]) -> int:
    """Bring the store up to date with the directories of the runs that `states` names.

    `states` is each run's state as the driver knows it, and its cause in words ("" where there is
    none); a run with a result takes both from there. Only files that changed since the last time
    are read, and all of it is one transaction. Returns how many runs were refreshed.
    """
    now = time.time_ns()
    known = query(con, "select owner as run_id, name, size, mtime from ingested")
    over = known.filter(pl.col("name") == runfiles.FOLDER)
    settled = dict(zip(over["run_id"], over["mtime"], strict=True))
    folders, seen = runfiles.scan(runs_folder, states, settled)
    changed = runfiles.changed(known.join(folders, on="run_id", how="semi"), seen)
    words = runfiles.words(states)
    moved = runfiles.moved(query(con, "select run_id, state, cause, finished from runs"), words)
    stale = pl.concat([changed["run_id"], moved["run_id"]]).unique().to_frame()
    if folders.is_empty() and stale.is_empty():
        return 0
    path_of = pl.format("{}/{}/{}", pl.lit(str(runs_folder)), "run_id", "name")
    frames = {
        "folders": folders,
        "changed": changed.with_columns(path=path_of),
        "stale_files": seen.join(stale, on="run_id", how="semi").with_columns(path=path_of),
        "stale_runs": words.join(stale, on="run_id", how="semi"),
    }
    with transaction(con):
        for name, frame in frames.items():
            with registered(con, frame):
                con.execute(f"create or replace temp table {name} as select * from frame")
        if len(stale):
            runfiles.load(con)
        runfiles.settle(con, now - SETTLED_NANOSECONDS)
    return len(stale)


def query(
    con: Connection, sql: str, params: Sequence[object] | Mapping[str, object] = ()
) -> pl.DataFrame:
    """Rows of a SQL query; a statement without rows gives an empty frame. Raises duckdb.Error."""
    relation = con.sql(sql, params=params or None)
    if relation is None:  # pyright: ignore[reportUnnecessaryComparison]  (DuckDB's stub says never)
        return pl.DataFrame()
    try:
        return pl.DataFrame(stream(relation))
    except pl.exceptions.ComputeError as error:
        # What fails while the rows are made comes through polars.
        raise duckdb.Error(str(error).removeprefix("got external error: ")) from error


def frame(path: Path, sql: str) -> pl.DataFrame:
    """Rows of a SQL query on the store in a file, such as HOME/studies/NAME/study.duckdb.

    The way into a notebook: the file is closed again at once, for the driver to go on.
    """
    with connect(path, read_only=True) as con:
        return query(con, sql)


def points(con: Connection, study: str) -> pl.DataFrame:
    """A row a trial of the study, loss in the study's metric; null where nothing is measured yet.

    Columns run_id, design, budget, seed, params (those of `params_active`), tokens, flops, loss,
    state, values (JSON text), lr, batch_tokens, unique_tokens. Rows from outside come last, with
    the design "imported".
    """
    sql = (
        "select * exclude (study, number) from points where study = ? "
        "order by design = 'imported', number"
    )
    return query(con, sql, [study])

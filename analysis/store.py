"""The store of a study: one DuckDB file, derived from run directories and the driver's records.

It can always be rebuilt. One process writes at a time; jobs never open it.
"""

import json
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

SCHEMA = """
create table if not exists studies (
    name varchar, uid varchar, question varchar, metric varchar, resolved json, created double);
create table if not exists trials (
    study varchar, number integer, run_id varchar, design varchar, budget double, seed integer,
    "values" json);
create table if not exists jobs (
    study varchar, job varchar, stage varchar, state varchar, submitted double, run_ids json);
create table if not exists fits (
    study varchar, law varchar, metric varchar, coef json, intervals json, run_ids json,
    diagnostics json, params_convention varchar);
create table if not exists promotions (
    study varchar, name varchar, run_ids json, target double, forecast json, gates json,
    reason varchar, decided_by varchar, created double);
create table if not exists imported (
    study varchar, number bigint, run_id varchar, budget double, seed bigint, params double,
    tokens double, flops double, loss double, state varchar, lr double, batch_tokens double,
    unique_tokens double, others json);
"""

POINTS = """
with trained as (
    select t.number, t.run_id, t.design, t.budget, t.seed, r.params_active as params, r.tokens,
        r.flops, e.value as loss, coalesce(r.state, 'PLANNED') as state, t."values", r.lr,
        r.global_batch_tokens as batch_tokens
    from trials t
    left join studies s on s.name = t.study
    left join runs r using (run_id)
    left join evals e on e.run_id = t.run_id and e.metric = coalesce(s.metric, 'nats_per_token')
    where t.study = $study),
outside as (
    select 'imported' as design, * exclude (study, others) from imported where study = $study)
select run_id, design, budget, seed, params, tokens, flops, loss, state, "values", lr,
    batch_tokens, unique_tokens
from (select * from trained union all by name select * from outside)
order by design = 'imported', number
"""

# The tables that `replace` fills, and the column that holds the study's name.
STUDY_COLUMN = {
    "studies": "name",
    "trials": "study",
    "jobs": "study",
    "fits": "study",
    "promotions": "study",
}

Connection = duckdb.DuckDBPyConnection


class StoreBusy(ValueError):
    """Another process holds the store; the sentence names it."""


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
    """Open the store, waiting for another process to let it go; when writing, make its tables.

    Raises StoreBusy when patience ends, FileNotFoundError for a read of what is not there.
    """
    if read_only and not path.exists():
        raise FileNotFoundError(f"{path} does not exist; launch the study first")
    path.parent.mkdir(parents=True, exist_ok=True)
    con = _open(path, read_only, patience_seconds)
    try:
        # What a verb prints on stdout is the verb's alone.
        con.execute("set enable_progress_bar = false")
        if not read_only:
            con.execute(SCHEMA + runfiles.SCHEMA)
        yield con
    finally:
        con.close()


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
    columns = con.sql(f'select * from "{table}" limit 0').columns
    unknown = sorted({name for row in rows for name in row} - set(columns))
    if unknown:
        raise ValueError(f"{table} has no column {', '.join(unknown)}; it has {', '.join(columns)}")
    filled = [{**row, key: study} for row in rows]
    series = [
        pl.Series(name, [_plain(row.get(name)) for row in filled], strict=False) for name in columns
    ]
    # A column of nulls alone has no type that DuckDB could read; it is null by being left out.
    frame = pl.DataFrame([one for one in series if one.dtype != pl.Null])
    with transaction(con):
        con.execute(f'delete from "{table}" where "{key}" = ?', [study])
        if rows:
            con.register("replacement", stream(frame))
            con.execute(f'insert into "{table}" by name select * from replacement')
            con.unregister("replacement")


def ingest(con: Connection, runs_folder: Path, states: Mapping[str, str]) -> int:
    """Bring the store up to date with the directories of the runs that `states` names.

    `states` is each run's state as the driver knows it; a run with a result takes it from there.
    Only files that changed since the last time are read. Returns how many runs were refreshed.
    """
    seen = runfiles.scan(runs_folder, states)
    known = query(con, "select path, size, mtime from ingested")
    changed = seen.join(known, on=["path", "size", "mtime"], how="anti")
    settled = query(con, "select run_id, state, finished from runs")
    words = pl.DataFrame({"run_id": [*states], "state": [*states.values()]}, schema_overrides=TEXT)
    moved = words.join(settled, on="run_id", how="left", suffix="_stored").filter(
        pl.col("state_stored").is_null()
        | (~pl.col("finished") & (pl.col("state") != pl.col("state_stored")))
    )
    stale = pl.concat([changed["run_id"], moved["run_id"]]).unique()
    if stale.is_empty():
        return 0
    with transaction(con):
        for name, frame in (
            ("changed", changed),
            ("stale_files", seen.filter(pl.col("run_id").is_in(stale.to_list()))),
            ("stale_runs", words.filter(pl.col("run_id").is_in(stale.to_list()))),
        ):
            con.register("frame", stream(frame))
            con.execute(f"create or replace temp table {name} as select * from frame")
            con.unregister("frame")
        runfiles.load(con)
    return len(stale)


TEXT = {"run_id": pl.String, "state": pl.String}


def ingest_imported(con: Connection, study: str, path: Path) -> None:
    """Bring the rows that a study was given from outside up to date with the file that keeps them.

    A file as seen the last time is not read again. The columns that the table does not have are
    kept together as JSON in `others`.
    """
    stat = path.stat() if path.exists() else None
    mark = [str(path), stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0]
    seen = "select path from ingested where path = ? and size = ? and mtime = ?"
    if len(query(con, seen, mark)):
        return
    with transaction(con):
        con.execute("delete from imported where study = ?", [study])
        con.execute("delete from ingested where path = ?", mark[:1])
        if stat:
            _insert_imported(con, study, pl.read_parquet(path))
            con.execute("insert into ingested values (?, ?, ?)", mark)


def _insert_imported(con: Connection, study: str, rows: pl.DataFrame) -> None:
    own = {"study", "number", "others"}
    columns = set(con.sql("select * from imported limit 0").columns) - own
    others = [name for name in rows.columns if name not in columns]
    frame = rows.select(
        pl.lit(study).alias("study"),
        pl.int_range(pl.len()).alias("number"),
        *(name for name in rows.columns if name in columns),
        *([pl.struct(others).struct.json_encode().alias("others")] if others else []),
    )
    con.register("frame", stream(frame))
    con.execute("insert into imported by name select * from frame")
    con.unregister("frame")


def query(
    con: Connection, sql: str, params: Sequence[object] | Mapping[str, object] = ()
) -> pl.DataFrame:
    """Rows of a SQL query; a statement without rows gives an empty frame."""
    relation = con.sql(sql, params=params or None)
    if relation is None:  # pyright: ignore[reportUnnecessaryComparison]  (DuckDB's stub says never)
        return pl.DataFrame()
    return pl.DataFrame(stream(relation))


def points(con: Connection, study: str) -> pl.DataFrame:
    """A row a trial of the study, loss in the study's metric; null where nothing is measured yet.

    Columns run_id, design, budget, seed, params (those of `params_active`), tokens, flops, loss,
    state, values (JSON text), lr, batch_tokens, unique_tokens. Rows from outside come last, with
    the design "imported".
    """
    return query(con, POINTS, {"study": study})

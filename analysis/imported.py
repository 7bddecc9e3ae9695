"""Rows of a study from outside: kept in a file beside its store, and brought into it from there."""

from pathlib import Path

import polars as pl

from analysis import store


def ingest(con: store.Connection, study: str, path: Path) -> None:
    """Bring the rows that a study was given from outside up to date with the file that keeps them.

    A file as seen the last time is not read again. The columns that the table does not have are
    kept together as JSON in `others`.
    """
    stat = path.stat() if path.exists() else None
    mark = [study, path.name, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0]
    seen = "from ingested where owner = ? and name = ? and size = ? and mtime = ?"
    if len(store.query(con, seen, mark)):
        return
    with store.transaction(con):
        con.execute("delete from imported where study = ?", [study])
        con.execute("delete from ingested where owner = ? and name = ?", mark[:2])
        if stat:
            _insert(con, study, pl.read_parquet(path))
            con.execute("insert into ingested values (?, ?, ?, ?)", mark)


def _insert(con: store.Connection, study: str, rows: pl.DataFrame) -> None:
    own = {"study", "number", "others"}
    columns = set(con.sql("select * from imported limit 0").columns) - own
    others = [name for name in rows.columns if name not in columns]
    frame = rows.select(
        pl.lit(study).alias("study"),
        pl.int_range(pl.len()).alias("number"),
        *(name for name in rows.columns if name in columns),
        *([pl.struct(others).struct.json_encode().alias("others")] if others else []),
    )
    with store.registered(con, frame):
        con.execute("insert into imported by name select * from frame")

"""The verbs that ask the store: `sql` and `export`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sweeper.arguments import (
    Overrides,
    StudyOrName,
    console_here,
    imported_alone,
    launched,
    load_study,
    say,
)
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.overrides import nearest

if TYPE_CHECKING:
    import polars as pl

    from analysis.store import Connection

# How DuckDB writes what a file's name ends in.
FORMATS = {
    ".parquet": "format parquet",
    ".csv": "format csv, header",
    ".jsonl": "format json",
}
STDOUT = Path("/dev/stdout")

AsJson = Annotated[bool, typer.Option("--json", help="Print rows as JSON, an object a line.")]


def _current(study: Path, overrides: list[str] | None) -> StudyDir:
    """The place of a study whose store has just been brought up to date."""
    from sweeper import outside
    from sweeper.launch import stand

    if place := imported_alone(study, overrides):
        outside.refresh(place)
        return place
    asked = load_study(study, overrides)
    place = launched(asked)
    stand(asked, place.home)
    return place


def sql(
    study: StudyOrName,
    query: Annotated[
        str, typer.Argument(help="For instance: select state, count(*) from runs ...")
    ],
    overrides: Overrides = None,
    as_json: AsJson = False,
    write: Annotated[
        bool, typer.Option("--write", help="Let the query change the store, which is derived.")
    ] = False,
) -> None:
    """Ask the study's DuckDB a question; it reads nothing else, and changes nothing unless asked.

    Tables: points, runs, attempts, steps, layer_norms, evals, events, history, trials, jobs,
    changes, fits, promotions, studies, imported.
    """
    from sweeper.opening import ask, note

    place = _current(study, overrides)
    rows = ask(place, query, write=write)
    if write:
        note(f"{place.store.name} is derived: the next verb may write over what was changed in it")
    if as_json:
        sys.stdout.write(rows.write_ndjson() if rows.width else "")
    else:
        console_here().print(_table(rows))


def _table(rows: "pl.DataFrame") -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows.columns:
        table.add_column(name, no_wrap=True)
    for row in rows.iter_rows():
        table.add_row(*("" if value is None else str(value) for value in row))
    return table


def export(
    study: StudyOrName,
    overrides: Overrides = None,
    table: Annotated[str, typer.Option(help="The table to write.")] = "runs",
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .parquet, .csv or .jsonl file; else CSV on stdout."),
    ] = None,
    as_json: AsJson = False,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write TensorBoard event files.")
    ] = None,
    mlflow: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write an MLflow file store.")
    ] = None,
    wandb: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write offline runs of Weights & Biases.")
    ] = None,
    hf: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a RUN, given for STUDY, as transformers loads it."),
    ] = None,
) -> None:
    """Write a table of the study's store to a file, or its runs in the form of another tracker.

    JSON columns are written as text. The trackers' own packages must be installed. With --hf it is
    one run that is written: config, weights and tokenizer.
    """
    if hf is not None:
        from sweeper.weights import to_huggingface

        say(console_here(), [to_huggingface(str(study), hf)])
        return
    from sweeper import exporting

    folders = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
    asked = {name: folder for name, folder in folders.items() if folder is not None}
    for name, folder in asked.items():
        exporting.check(name, folder)
    _check(table, to)
    place = _current(study, overrides)
    from sweeper.opening import reading

    with reading(place) as con:
        for name, folder in asked.items():
            count = exporting.write(con, place.name, name, folder)
            say(console_here(), [f"{count} runs: {folder}"])
        if to is not None:
            _write(con, table, to)
            say(console_here(), [f"{table}: {to}"])
        elif not asked:
            _copy(con, table, STDOUT, ".jsonl" if as_json else ".csv")


def _check(table: str, to: Path | None) -> None:
    from analysis.schema import TABLES

    if table not in TABLES:
        raise UserError(f"--table {table!r} is not in the store; {nearest(table, TABLES)}")
    if to is not None and to.suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(f"--to {to}: {to.suffix or 'no extension'} is not written; use {known}")
    if to is not None and not to.absolute().parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}; make it first")


def _write(con: "Connection", table: str, to: Path) -> None:
    """Write a table into the place of a file, whole or not at all."""
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        _copy(con, table, temporary, to.suffix)
        temporary.replace(to)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(con: "Connection", table: str, to: Path, suffix: str) -> None:
    import duckdb

    target = str(to).replace("'", "''")
    sql = f"copy ({_rows(con, table, suffix)}) to '{target}' ({FORMATS[suffix]})"
    try:
        con.execute(sql)
    except duckdb.Error as error:
        raise UserError(f"{to} cannot be written: {str(error).partition(chr(10))[0]}") from error


def _rows(con: "Connection", table: str, suffix: str) -> str:
    """All rows in one order: JSON as text, and in a JSON file no number that JSON does not know."""
    relation = con.sql(f'from "{table}" limit 0')
    kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
    said = {n: f'cast("{n}" as varchar)' for n, kind in kinds.items() if kind == "JSON"}
    if suffix == ".jsonl":
        doubles = (name for name, kind in kinds.items() if kind == "DOUBLE")
        said |= {n: f'case when isfinite("{n}") then "{n}" end' for n in doubles}
    changed = ", ".join(f'{sql} as "{name}"' for name, sql in said.items())
    replaced = f"replace ({changed})" if changed else ""
    return f'select * {replaced} from "{table}" order by all'

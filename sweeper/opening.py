"""The store of a study, opened: made again where it is damaged, passed by where it is held.

Who keeps study.duckdb open (a notebook, say) stops nobody: driver and verbs then bring a spare up
to date from the same files and use that, until the other lets go.
"""

import re
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import duckdb
import polars as pl

from analysis import store
from sweeper.errors import StoreBusy, UserError
from sweeper.folders import StudyDir
from sweeper.full_disk import full_disk

# The driver holds the store for a moment at a time; who holds it longer is passed by.
PATIENCE_SECONDS = 1.0
SPARE_PATIENCE_SECONDS = 10.0


def note(line: str) -> None:
    """Say something beside the answer: on stderr, for stdout may be read by a program."""
    print(line, file=sys.stderr)


@contextmanager
def opened(place: StudyDir) -> Generator[store.Connection]:
    """The store of a study for writing, made where there is none that can be used.

    Raises StoreBusy where other processes keep it and its spare open, where the disk is full, and
    where the store turns out to be damaged.
    """
    with ExitStack() as stack:
        try:
            path = place.store
            con = stack.enter_context(_usable(path, PATIENCE_SECONDS))
        except store.StoreBusy as busy:
            note(f"{busy}; {place.spare.name} is used until then")
            path = place.spare
            con = _spare(stack, path)
        try:
            yield con
        except duckdb.Error as error:
            raise _lost(path, error) or error from error


def _spare(stack: ExitStack, path: Path) -> store.Connection:
    try:
        return stack.enter_context(_usable(path, SPARE_PATIENCE_SECONDS))
    except store.StoreBusy as error:
        raise StoreBusy(str(error)) from error


@contextmanager
def _usable(path: Path, patience_seconds: float) -> Generator[store.Connection]:
    """A store of this version, made again where the one in the file is of no use."""
    with ExitStack() as stack:
        try:
            con = stack.enter_context(store.connect(path, patience_seconds=patience_seconds))
        except (store.OutOfDate, duckdb.Error) as error:
            if lost := _full(path, error):
                raise lost from error
            note(f"{_first_line(error)}; {path} is made again from the study's files")
            _remove(path)
            con = stack.enter_context(store.connect(path, patience_seconds=patience_seconds))
        yield con


def _remove(path: Path) -> None:
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _full(path: Path, error: Exception) -> StoreBusy | None:
    if full := full_disk(error, path.parent):
        return full
    if not re.search("Permission denied|Read-only file system", str(error)):
        return None
    return StoreBusy(
        f"{path} cannot be written: {_first_line(error)}; mend that and run the same command "
        "again: the runs are kept in files of their own, and the store is made from them"
    )


def _lost(path: Path, error: duckdb.Error) -> StoreBusy | None:
    """What to say of an error that is the file's, not ours; a damaged file is removed."""
    if not re.search("Corrupt|Could not read enough bytes", str(error)):
        return _full(path, error)
    _remove(path)
    return StoreBusy(
        f"{path} was damaged and is removed: {_first_line(error)}; run the same command again: it "
        "makes the store again from the study's files"
    )


@contextmanager
def reading(place: StudyDir) -> Generator[store.Connection]:
    """The store of a study for reading: the one brought up to date last, else the other.

    Raises StoreBusy where other processes keep them open for writing, UserError for none.
    """
    paths = sorted((p for p in (place.store, place.spare) if p.exists()), key=_written)
    if not paths:
        raise UserError(f"{place.store} does not exist; launch the study first")
    *older, newest = paths
    with ExitStack() as stack:
        try:
            con = stack.enter_context(_readable(newest))
        except StoreBusy as busy:
            if not older:
                raise
            con = stack.enter_context(_readable(older[0]))
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_written(older[0])))
            note(f"{busy}; {older[0].name} is read instead, as of {when}")
        yield con


@contextmanager
def _readable(path: Path) -> Generator[store.Connection]:
    with ExitStack() as stack:
        try:
            opening = store.connect(path, read_only=True, patience_seconds=PATIENCE_SECONDS)
            con = stack.enter_context(opening)
        except store.StoreBusy as error:
            raise StoreBusy(str(error)) from error
        except (store.OutOfDate, duckdb.Error) as error:
            way_out = "`sweeper status` makes it again"
            raise StoreBusy(f"{path}: {_first_line(error)}; {way_out}") from error
        yield con


def _written(path: Path) -> float:
    """When a store was written last (seconds); what was not folded in yet lies beside it."""
    files = (path, path.with_name(f"{path.name}.wal"))
    return max(file.stat().st_mtime for file in files if file.exists())


def ask(place: StudyDir, sql: str, *, write: bool = False) -> pl.DataFrame:
    """Rows of a query that touches no file but the store, and only reads unless `write`.

    Raises UserError for SQL that cannot be run.
    """
    with opened(place) if write else reading(place) as con:
        store.guard(con)
        try:
            return store.query(con, sql)
        except duckdb.Error as error:
            raise UserError(str(error)) from error

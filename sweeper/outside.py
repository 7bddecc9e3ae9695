"""Rows that a study was given from outside: kept in one file, among its points ever after."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from analysis import imported, store
from analysis.law import scientific
from analysis.points import Points, of_frame
from analysis.report import write as report
from sweeper.folders import StudyDir
from sweeper.opening import opened, reading


def keep(place: StudyDir, rows: pl.DataFrame) -> str:
    """Keep rows in the place of those kept before, whole or not at all, and say what was done."""
    before = pl.read_parquet(place.imported) if place.imported.exists() else None
    if before is not None and before.equals(rows):
        refresh(place)
        return f"study {place.name!r} has these {len(rows)} rows already; nothing changed"
    place.path.mkdir(parents=True, exist_ok=True)
    temporary = place.imported.with_name(f".{place.imported.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        rows.write_parquet(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(place.imported)
    refresh(place)
    instead = "" if before is None else f" in the place of {len(before)} imported before"
    return f"study {place.name!r}: {len(rows)} rows imported{instead}"


def refresh(place: StudyDir) -> None:
    """Bring the study's store up to date with the rows kept."""
    with opened(place) as con:
        imported.ingest(con, place.name, place.imported)
        if not place.resolved.exists():
            about = {"question": "Runs from outside", "metric": "loss"}
            store.replace(con, "studies", place.name, [about])


def points(place: StudyDir) -> Points:
    """The points of a study, its own and those from outside, with all columns these came with."""
    with reading(place) as con:
        rows = store.points(con, place.name)
    if place.imported.exists():
        brought = pl.read_parquet(place.imported)
        others = [name for name in brought.columns if name not in rows.columns]
        rows = rows.join(brought.select("run_id", *others), on="run_id", how="left")
    return of_frame(rows)


def write_report(place: StudyDir) -> Path:
    """Write the report of a study that has imported rows alone."""
    refresh(place)
    with reading(place) as con:
        report.write(con, place.name, place.report)
    return place.report


def lines(place: StudyDir) -> Iterator[str]:
    """What was imported: runs by state, budgets; nothing where there is nothing."""
    if not place.imported.exists():
        return
    rows = pl.read_parquet(place.imported, columns=["state", "budget"])
    counts = Counter(rows["state"].to_list())
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    yield f"{len(rows)} imported runs: {states}"
    budgets = rows["budget"].drop_nulls().unique().sort()
    if len(budgets):
        ends = f"{scientific(budgets[0])} to {scientific(budgets[-1])}"
        stray = rows["budget"].null_count()
        none = f"; {stray} runs belong to none" if stray else ""
        yield f"  {len(budgets)} budgets, {ends} FLOPs{none}"

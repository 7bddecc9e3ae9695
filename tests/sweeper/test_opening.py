"""The store of a study under others' hands: held, damaged, of another version, on a full disk."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from disks import fill, small_disk
from holding import held

from analysis import store
from sweeper import outside
from sweeper.errors import DiskFull, StoreBusy, UserError
from sweeper.folders import StudyDir
from sweeper.opening import ask, opened, reading


@pytest.fixture
def place(tmp_path: Path) -> StudyDir:
    """A study that has three rows from outside."""
    study = StudyDir(tmp_path, "s")
    outside.keep(study, rows(3))
    return study


def rows(count: int) -> pl.DataFrame:
    runs = {"run_id": [f"row {n}" for n in range(count)], "loss": [3.0] * count}
    return pl.DataFrame(runs).with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in ("params", "tokens", "flops", "budget")
    )


def counted(place: StudyDir) -> int:
    return ask(place, "select count(*) from points").item()


@pytest.mark.parametrize("how", ["writing", "reading"])
def test_who_keeps_the_store_open_stops_neither_driver_nor_verbs(
    place: StudyDir, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(place.store, how) as pid:
        outside.keep(place, rows(5))
        said = capsys.readouterr().err
        assert f"(PID {pid})" in said
        assert said.endswith("spare.duckdb is used until then\n")
        assert counted(place) == 5
        outside.keep(place, rows(4))
        assert counted(place) == 4
    outside.keep(place, rows(2))
    assert counted(place) == 2
    assert store.frame(place.store, "select count(*) from points").item() == 2


def test_a_reader_that_finds_the_latest_held_says_of_when_the_other_is(
    place: StudyDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(place.store):
        outside.keep(place, rows(5))
    outside.keep(place, rows(2))
    capsys.readouterr()
    with held(place.store):
        assert counted(place) == 5
    assert "spare.duckdb is read instead, as of 20" in capsys.readouterr().err


def test_a_store_that_is_held_with_its_spare_is_busy(
    place: StudyDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.opening.SPARE_PATIENCE_SECONDS", 0.1)
    with held(place.store):
        outside.refresh(place)
        with held(place.spare) as pid:
            for way in (opened, reading):
                with pytest.raises(StoreBusy, match=r"PID \d+"), way(place):
                    pass
            with pytest.raises(StoreBusy, match=rf"spare.duckdb .* \(PID {pid}\)"), opened(place):
                pass


def version_0(path: Path) -> None:
    with store.connect(path) as con:
        con.execute("update meta set version = 0; drop table changes")


def no_database(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


WRITE_AND_DIE = """
import duckdb, os, signal, sys
con = duckdb.connect(sys.argv[1])
con.execute("insert into evals select 'a', 'm', range from range(50000)")
os.kill(os.getpid(), signal.SIGKILL)
"""


def torn_log(path: Path) -> None:
    """What a killed writer had not folded in yet, damaged in its middle."""
    subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], check=False)
    log = path.with_name(f"{path.name}.wal")
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(b"\xff" * 100)


@pytest.mark.parametrize("harm", [version_0, no_database, torn_log])
def test_a_store_of_no_use_is_made_again_with_the_rows_from_outside(
    place: StudyDir, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    harm(place.store)
    capsys.readouterr()
    outside.refresh(place)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{place.store} is made again from the study's files")
    assert counted(place) == 3


def test_a_store_that_turns_out_damaged_is_removed_and_said(place: StudyDir) -> None:
    with store.connect(place.store) as con:
        con.execute("create table filler as select random() as x from range(1000000)")
    size = place.store.stat().st_size
    with place.store.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 300_000)
    with pytest.raises(StoreBusy, match="was damaged and is removed"), opened(place) as con:
        store.query(con, "select sum(x) from filler")
    outside.refresh(place)
    assert counted(place) == 3


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        place = StudyDir(disk, "s")
        outside.keep(place, rows(3))
        ballast = fill(disk)
        with pytest.raises(DiskFull, match="no space is left on the disk of"), opened(place) as con:
            con.execute("create table filler as select random() as x from range(1000000)")
        ballast.unlink()
        outside.refresh(place)
        assert counted(place) == 3


def test_a_question_that_cannot_be_answered_is_the_users(place: StudyDir) -> None:
    for sql in ("select colour from runs", "selekt", "select cast(run_id as int) from points"):
        with pytest.raises(UserError):
            ask(place, sql)


def test_only_who_asks_to_write_may(place: StudyDir) -> None:
    change = "insert into evals values ('a', 'm', 1.0)"
    with pytest.raises(UserError, match="read-only"):
        ask(place, change)
    ask(place, change, write=True)
    assert ask(place, "select value from evals").item() == 1.0
    with pytest.raises(UserError, match="disabled"):
        ask(place, "copy evals to 'x.csv'", write=True)

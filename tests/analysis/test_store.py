"""The store: derived rows replaced whole, points of a study, and one writer at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from analysis import store
from tests.analysis.ladders import write_run


@pytest.fixture
def con(tmp_path: Path) -> Iterator[store.Connection]:
    with store.connect(tmp_path / "study.duckdb") as connection:
        yield connection


def rows(con: store.Connection, sql: str) -> list[tuple[object, ...]]:
    return store.query(con, sql).rows()


def test_replacing_puts_a_studys_rows_in_the_place_of_its_old_ones(con: store.Connection) -> None:
    trial = {"number": 0, "run_id": "a", "values": {"axis": "x", "level": 2}}
    store.replace(con, "trials", "other", [trial])
    store.replace(con, "trials", "s", [trial | {"number": n} for n in range(5)])
    store.replace(con, "trials", "s", [trial | {"number": 7}])
    assert rows(con, "select study, number from trials order by all") == [("other", 0), ("s", 7)]
    assert rows(con, """select "values"->>'level' from trials where study = 's'""") == [("2",)]


def test_replacing_by_nothing_leaves_nothing(con: store.Connection) -> None:
    store.replace(con, "jobs", "s", [{"job": "1", "run_ids": ["a", "b"]}])
    store.replace(con, "jobs", "s", [])
    assert rows(con, "select count(*) from jobs") == [(0,)]


def test_a_replacement_that_fails_changes_nothing(con: store.Connection) -> None:
    store.replace(con, "jobs", "s", [{"job": "1", "submitted": 1.0}])
    with pytest.raises(Exception, match="yesterday"):
        store.replace(con, "jobs", "s", [{"job": "2", "submitted": "yesterday"}])
    assert rows(con, "select job from jobs") == [("1",)]


def test_a_column_that_does_not_exist_is_named(con: store.Connection) -> None:
    with pytest.raises(ValueError, match="trials has no column colour; it has study, number"):
        store.replace(con, "trials", "s", [{"number": 1, "colour": "red"}])


def test_only_derived_tables_are_replaced(con: store.Connection) -> None:
    with pytest.raises(ValueError, match="'runs' is not replaced by study"):
        store.replace(con, "runs", "s", [])


def test_points_have_the_loss_in_the_metric_of_the_study(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", result={})
    store.ingest(con, tmp_path, {"a": "DONE", "b": "QUEUED"})
    trial = {"design": "isoflop", "budget": 1e18, "seed": 0, "values": {}}
    trials = [trial | {"number": n, "run_id": name} for n, name in enumerate("abc")]
    store.replace(con, "trials", "s", trials)
    store.replace(con, "studies", "s", [{"metric": "nats_per_token/code"}])
    points = store.points(con, "s")
    assert points.select("run_id", "params", "tokens", "loss", "state").rows() == [
        ("a", 1000, 40960, 2.25, "DONE"),
        ("b", None, None, None, "QUEUED"),
        ("c", None, None, None, "PLANNED"),
    ]


def test_a_query_gives_a_polars_frame(con: store.Connection) -> None:
    frame = store.query(con, "select 1 as one, 'x' as letter, null as nothing")
    assert isinstance(frame, pl.DataFrame)
    assert frame.rows() == [(1, "x", None)]


HOLD = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading")
print("open", flush=True)
sys.stdin.readline()
con.close()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store open for writing until it reads a line."""
    with store.connect(tmp_path / "study.duckdb"):
        pass
    command = [sys.executable, "-c", HOLD, str(tmp_path / "study.duckdb"), "writing"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.communicate()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_held_by_another_process_is_refused_by_its_id(
    holder: subprocess.Popen[str], tmp_path: Path, read_only: bool
) -> None:
    path = tmp_path / "study.duckdb"
    with (
        pytest.raises(store.StoreBusy, match=rf"python.* \(PID {holder.pid}\)"),
        store.connect(path, read_only=read_only, patience_seconds=0.1),
    ):
        pass


def test_a_store_that_is_let_go_in_time_is_opened(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert holder.stdin is not None
    holder.stdin.write("go\n")
    holder.stdin.flush()
    with store.connect(tmp_path / "study.duckdb", patience_seconds=30) as con:
        assert rows(con, "select count(*) from runs") == [(0,)]


def test_a_store_that_is_not_there_is_not_read(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="launch the study first"),
        store.connect(tmp_path / "study.duckdb", read_only=True),
    ):
        pass
    assert not (tmp_path / "study.duckdb").exists()


def test_a_process_that_used_the_store_ends_without_a_word(tmp_path: Path) -> None:
    """DuckDB reports every object that something keeps alive at exit, on the user's terminal."""
    program = (
        "import sys; from pathlib import Path; from analysis import store\n"
        "with store.connect(Path(sys.argv[1])) as con:\n"
        "    store.replace(con, 'jobs', 's', [{'job': '1'}])\n"
        "    print(store.query(con, 'select job from jobs').rows())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "study.duckdb")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(store.__file__).parent.parent,
        env={**os.environ},
    )
    assert (done.stdout, done.stderr) == ("[('1',)]\n", "")


def test_rows_from_outside_are_points_that_follow_their_file(
    con: store.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "imported.parquet"
    ours = {"run_id": ["row 1", "row 2"], "params": [1e8, 2e8], "tokens": [2e9, 1e9]}
    frame = pl.DataFrame(ours | {"loss": [3.0, None], "study": ["a", "b"], "host": ["n1", None]})
    for rows_kept in (frame, frame.head(1)):
        rows_kept.write_parquet(path)
        for _ in range(2):
            store.ingest_imported(con, "s", path)
            found = store.points(con, "s")
            assert found["params"].to_list() == rows_kept["params"].to_list()
            assert set(found["design"]) == {"imported"}
    assert rows(con, "select study, others from imported") == [
        ("s", '{"study":"a","host":"n1"}'),
    ]
    path.unlink()
    store.ingest_imported(con, "s", path)
    assert store.points(con, "s").is_empty()

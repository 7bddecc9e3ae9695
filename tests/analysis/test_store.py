"""The store: derived rows replaced whole, points of a study, and one writer at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest

from analysis import imported, store
from analysis.schema import TABLES
from tests.analysis.ladders import step, write_run


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


def test_only_changes_that_are_new_are_added(con: store.Connection) -> None:
    changes = [{"time": float(n), "run_id": "a", "state": "RUNNING"} for n in range(5)]
    assert store.append_changes(con, "other", changes[:1]) == 1
    assert [store.append_changes(con, "s", changes[:n]) for n in (2, 2, 5)] == [2, 0, 3]
    assert rows(con, "select time from changes where study = 's'") == [
        (float(n),) for n in range(5)
    ]


def test_changes_of_another_record_take_the_place_of_those_stored(con: store.Connection) -> None:
    changes = [{"time": float(n), "run_id": "a", "state": "QUEUED"} for n in range(5)]
    store.append_changes(con, "s", changes)
    assert store.append_changes(con, "s", changes[3:]) == 2
    assert rows(con, "select time from changes") == [(3.0,), (4.0,)]


def test_history_has_what_the_driver_decided_and_what_jobs_said_by_time(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", events=[{"time": 2.0, "event": "stop", "cause": "preempted"}])
    store.ingest(con, tmp_path, {"a": ("QUEUED", "")})
    change = {"run_id": "a", "attempt": 1, "job": "j1"}
    requeued = {"time": 3.0, "state": "QUEUED", "cause": "preempted"}
    store.append_changes(con, "s", [{**change, "time": 1.0, "state": "RUNNING"}, change | requeued])
    assert rows(con, "select time, source, event, cause, job from history") == [
        (1.0, "driver", "RUNNING", None, "j1"),
        (2.0, "job", "stop", "preempted", None),
        (3.0, "driver", "QUEUED", "preempted", "j1"),
    ]


def test_every_table_that_is_offered_can_be_asked(con: store.Connection) -> None:
    for table in TABLES:
        assert rows(con, f'select count(*) from "{table}"') == [(0,)]


@pytest.mark.parametrize("made", ["update meta set version = 0", "drop table meta"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_of_another_version_is_not_opened(
    tmp_path: Path, made: str, read_only: bool
) -> None:
    path = tmp_path / "study.duckdb"
    with store.connect(path) as con:
        con.execute(made)
    with (
        pytest.raises(store.OutOfDate, match="has version 0 of the store's tables, and this is"),
        store.connect(path, read_only=read_only),
    ):
        pass


@pytest.mark.parametrize(
    "sql",
    [
        "copy runs to '{folder}/runs.csv'",
        "attach '{folder}/other.duckdb' as other",
        "select * from read_text('/etc/passwd')",
        "select * from '/etc/passwd'",
        "export database '{folder}/all'",
        "set enable_external_access = true",
        "install httpfs",
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_guarded_store_reaches_no_other_file(tmp_path: Path, sql: str, read_only: bool) -> None:
    path = tmp_path / "study.duckdb"
    with store.connect(path):
        pass
    before = sorted(tmp_path.iterdir())
    with store.connect(path, read_only=read_only) as con:
        store.guard(con)
        with pytest.raises(duckdb.Error):
            store.query(con, sql.format(folder=tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_what_fails_while_rows_are_made_is_an_error_of_the_query(con: store.Connection) -> None:
    with pytest.raises(duckdb.Error, match="Could not convert string"):
        store.query(con, "select cast(letter as integer) from (values ('x')) t(letter)")


def test_a_frame_is_read_from_a_file_that_is_closed_again(tmp_path: Path) -> None:
    with store.connect(tmp_path / "study.duckdb") as con:
        store.replace(con, "jobs", "s", [{"job": "1"}])
    assert store.frame(tmp_path / "study.duckdb", "select job from jobs").rows() == [("1",)]
    with store.connect(tmp_path / "study.duckdb", patience_seconds=0):
        pass


INGEST = """
import sys
from pathlib import Path
from analysis import store
runs = Path(sys.argv[2])
with store.connect(Path(sys.argv[1])) as con:
    print("open", flush=True)
    store.ingest(con, runs, {run.name: ("RUNNING", "") for run in runs.iterdir()})
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_killed_ingest_leaves_the_store_as_before_or_after(tmp_path: Path) -> None:
    """SIGKILL at ten instants of an ingest that adds to what is there; then once to its end."""
    runs, path = tmp_path / "runs", tmp_path / "study.duckdb"
    command = [sys.executable, "-c", INGEST, str(path), str(runs)]
    where = {"env": os.environ | {"PYTHONPATH": str(Path(store.__file__).parent.parent)}}

    def write(lines: int) -> None:
        text = "".join(json.dumps(step(n, 3.0)) + "\n" for n in range(1, lines + 1))
        for number in range(20):
            folder = write_run(runs, f"run{number}")
            (folder / "metrics.1.jsonl").write_text(text)

    write(10)
    subprocess.run(command, check=True, **where)
    write(20_000)
    seen: set[tuple[object, ...]] = set()
    for instant in range(10):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **where) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            # The instants are what is drawn here: no event tells of the middle of a transaction.
            time.sleep(0.1 * instant)
            process.send_signal(signal.SIGKILL)
        with store.connect(path) as con:
            seen.add(rows(con, "select count(*), count(distinct run_id) from steps")[0])
            assert rows(con, "select count(*) from runs") == [(20,)]
    assert seen <= {(200, 20), (400_000, 20)}
    assert (200, 20) in seen
    subprocess.run(command, check=True, **where)
    with store.connect(path) as con:
        assert rows(con, "select count(*), max(step) from steps") == [(400_000, 20_000)]


def test_points_have_the_loss_in_the_metric_of_the_study(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", result={})
    store.ingest(con, tmp_path, {"a": ("DONE", ""), "b": ("QUEUED", "")})
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
            imported.ingest(con, "s", path)
            found = store.points(con, "s")
            assert found["params"].to_list() == rows_kept["params"].to_list()
            assert set(found["design"]) == {"imported"}
    assert rows(con, "select study, others from imported") == [
        ("s", '{"study":"a","host":"n1"}'),
    ]
    path.unlink()
    imported.ingest(con, "s", path)
    assert store.points(con, "s").is_empty()

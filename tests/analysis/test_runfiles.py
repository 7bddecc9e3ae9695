"""What run directories say is in the store once, however often and however torn it is read."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import store
from tests.analysis.ladders import measured, step, write_run
from train.config import RunSpec
from train.runlog import Attempt, Result, append_line, create_run


@pytest.fixture
def con(tmp_path: Path) -> Iterator[store.Connection]:
    with store.connect(tmp_path / "study.duckdb") as connection:
        yield connection


def rows(con: store.Connection, sql: str) -> list[tuple[object, ...]]:
    return store.query(con, sql).rows()


def everything(con: store.Connection) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, in order."""
    tables = ("runs", "attempts", "evals", "events", "metrics", "ingested", "trials", "studies")
    return {table: rows(con, f"select * from {table} order by all") for table in tables}


def test_a_finished_run_takes_its_state_from_its_result(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", result={"state": "DIVERGED", "cause": "loss rose"})
    assert store.ingest(con, tmp_path, {"a": ("RUNNING", "")}) == 1
    assert rows(con, "select state, cause from runs") == [("DIVERGED", "loss rose")]


def test_an_unfinished_run_takes_its_state_from_the_driver(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a")
    for state in ("QUEUED", "RUNNING", "FAILED"):
        assert store.ingest(con, tmp_path, {"a": (state, "")}) == 1
        assert rows(con, "select state from runs") == [(state,)]


def test_a_run_without_a_directory_is_there_in_the_drivers_words(
    con: store.Connection, tmp_path: Path
) -> None:
    store.ingest(con, tmp_path, {"a": ("PLANNED", "")})
    assert rows(con, "select run_id, state, attempts from runs") == [("a", "PLANNED", 0)]


def test_runs_that_the_driver_does_not_name_belong_to_other_studies(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", result={})
    write_run(tmp_path, "b", result={})
    store.ingest(con, tmp_path, {"a": ("DONE", "")})
    assert rows(con, "select run_id from runs") == [("a",)]


def test_spec_and_result_become_columns(con: store.Connection, tmp_path: Path) -> None:
    write_run(tmp_path, "a", spec={"seed": 3, "budget": 2e18}, result={"mfu": 0.4})
    store.ingest(con, tmp_path, {"a": ("DONE", "")})
    wanted = (
        "seed, budget, lr, d_model, n_kv_heads, global_batch_tokens, params_active, tokens, mfu"
    )
    assert rows(con, f"select {wanted} from runs") == [
        (3, 2e18, 1e-3, 64, 1, 4096, 1000, 40960, 0.4)
    ]


def test_every_column_of_a_run_is_filled_from_what_train_writes(
    con: store.Connection, tmp_path: Path
) -> None:
    """The run directory is the one contract with train, which this room does not import."""
    model = {"vocab_size": 512, "seq_len": 128, "n_layers": 2, "d_model": 64, "d_ff": 128}
    heads = {"n_heads": 2, "n_kv_heads": 1, "d_head": 32}
    spec = RunSpec.model_validate(
        {"study": "s", "trial": 0, "budget": 1e11, "stage": "sft", "parent": "p", "tokens": 8192}
        | {"model": {**model, **heads}, "data": {}, "optim": {"lr": 1e-3}}
        | {"batch": {"global_batch_tokens": 2048, "micro_batch_size": 4}}
        | {"schedule": {"warmup_tokens": 0}}
    )
    run = create_run(tmp_path, spec)
    result = Result.model_validate({**measured(run.path.name), "cause": "why", "mfu": 0.5})
    run.write_result(result)
    run.claim(Attempt(number=1, job="j", host="h", pid=1, world_size=1, started=0.0))
    (run.path / "env.json").write_text('{"commit": "c0ffee"}')
    append_line(run.metrics(1), step(1, 3.0))
    run.event("start", resumed=False)
    store.ingest(con, tmp_path / "runs", {run.path.name: ("RUNNING", "")})
    (row,) = store.query(con, "select * from runs").to_dicts()
    assert [name for name, value in row.items() if value is None] == []
    assert (row["state"], row["attempts"], row["tokens"]) == ("DONE", 1, 40960)
    assert (row["commit"], row["host"]) == ("c0ffee", "h")
    assert rows(con, "select step, tokens, loss from steps") == [(1, 4096, 3.0)]
    assert rows(con, "select event from events") == [("start",)]


def test_the_metrics_of_a_result_are_evals(con: store.Connection, tmp_path: Path) -> None:
    write_run(tmp_path, "a", result={})
    store.ingest(con, tmp_path, {"a": ("DONE", "")})
    assert rows(con, "select metric, value from evals order by 1") == [
        ("bits_per_byte", 1.1),
        ("nats_per_token", 2.5),
        ("nats_per_token/code", 2.25),
    ]


def test_the_driver_says_why_a_run_has_no_result_until_there_is_one(
    con: store.Connection, tmp_path: Path
) -> None:
    folder = write_run(tmp_path, "a")
    for said in (("FAILED", "killed: no word"), ("PRUNED", "rung 2"), ("PRUNED", "rung 3")):
        assert store.ingest(con, tmp_path, {"a": said}) == 1
        assert rows(con, "select state, cause from runs") == [said]
    (folder / "result.json").write_text(json.dumps(measured("a")))
    store.ingest(con, tmp_path, {"a": ("PRUNED", "rung 3")})
    assert rows(con, "select state, cause from runs") == [("DONE", "")]


def test_every_attempt_says_where_it_ran_and_how_it_failed(
    con: store.Connection, tmp_path: Path
) -> None:
    folder = write_run(tmp_path, "a")
    for number in (2, 10):
        attempt = {"number": number, "job": f"job{number}", "host": f"n{number}", "started": 1.0}
        (folder / f"attempt.{number}.json").write_text(json.dumps(attempt))
    for number in (2, 3):
        failure = {"attempt": number, "cause": "killed", "message": "it's gone", "step": 40}
        (folder / f"failure.{number}.json").write_text(json.dumps(failure))
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    assert rows(con, "select attempts, job, host from runs") == [(2, "job10", "n10")]
    assert rows(con, "select * exclude (run_id, started) from attempts order by attempt") == [
        (2, "job2", "n2", "killed", "it's gone", 40),
        (3, None, None, "killed", "it's gone", 40),
        (10, "job10", "n10", None, None, None),
    ]


def test_ingesting_twice_changes_nothing(con: store.Connection, tmp_path: Path) -> None:
    for name in "abc":
        write_run(
            tmp_path, name, result={}, metrics={1: [step(1, 3.0)]}, events=[{"event": "start"}]
        )
    states = dict.fromkeys("abc", ("RUNNING", ""))
    assert store.ingest(con, tmp_path, states) == 3
    before = everything(con)
    assert store.ingest(con, tmp_path, states) == 0
    assert everything(con) == before


def test_only_the_run_that_changed_is_read_again(con: store.Connection, tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path, name, metrics={1: [step(1, 3.0)]})
    states = dict.fromkeys("ab", ("RUNNING", ""))
    store.ingest(con, tmp_path, states)
    with (tmp_path / "a" / "metrics.1.jsonl").open("a") as file:
        file.write(json.dumps(step(2, 2.9)) + "\n")
    assert store.ingest(con, tmp_path, states) == 1
    assert rows(con, "select run_id, count(*) from steps group by 1 order by 1") == [
        ("a", 2),
        ("b", 1),
    ]


def settled(runs: Path, *names: str) -> None:
    """Folders last changed a minute ago, as those of runs that ended some time ago are."""
    for name in names:
        then = time.time() - 60
        os.utime(runs / name, (then, then))


def test_a_finished_run_is_not_looked_at_again_until_its_folder_changes(
    con: store.Connection, tmp_path: Path
) -> None:
    for name in "ab":
        write_run(tmp_path, name, result={} if name == "a" else None, metrics={1: [step(1, 3.0)]})
    settled(tmp_path, "a", "b")
    states = dict.fromkeys("ab", ("RUNNING", ""))
    assert store.ingest(con, tmp_path, states) == 2
    for name in "ab":
        with (tmp_path / name / "metrics.1.jsonl").open("a") as file:
            file.write(json.dumps(step(2, 2.9)) + "\n")
    assert store.ingest(con, tmp_path, states) == 1
    assert rows(con, "select run_id from steps where step = 2") == [("b",)]
    (tmp_path / "a" / "attempt.2.json").write_text("{}")
    assert store.ingest(con, tmp_path, states) == 1
    assert rows(con, "select attempts from runs where run_id = 'a'") == [(2,)]


def test_a_folder_that_changed_just_now_is_looked_at_again(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", result={}, metrics={1: [step(1, 3.0)]})
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    (tmp_path / "a" / "metrics.1.jsonl").write_text("")
    assert store.ingest(con, tmp_path, {"a": ("RUNNING", "")}) == 1
    assert rows(con, "select count(*) from steps") == [(0,)]


def test_what_is_gone_from_a_folder_is_gone_from_the_store(
    con: store.Connection, tmp_path: Path
) -> None:
    for name in "ab":
        write_run(tmp_path, name, result={}, metrics={1: [step(1, 3.0)]}, events=[{"event": "end"}])
    settled(tmp_path, "a", "b")
    states = dict.fromkeys("ab", ("PLANNED", ""))
    store.ingest(con, tmp_path, states)
    (tmp_path / "a" / "result.json").unlink()
    (tmp_path / "a" / "metrics.1.jsonl").unlink()
    shutil.rmtree(tmp_path / "b")
    assert store.ingest(con, tmp_path, states) == 2
    assert rows(con, "select run_id, state, attempts from runs order by 1") == [
        ("a", "PLANNED", 1),
        ("b", "PLANNED", 0),
    ]
    assert rows(con, "select count(*) from steps") == [(0,)]
    assert rows(con, "select run_id from events") == [("a",)]
    assert store.ingest(con, tmp_path, states) == 0


def test_a_rebuilt_store_is_the_store(tmp_path: Path) -> None:
    """Growing with the runs, or read at once from their end: the same rows."""
    runs = tmp_path / "runs"
    with store.connect(tmp_path / "grown.duckdb") as grown:
        write_run(runs, "a", metrics={1: [step(1, 3.0)]}, events=[{"event": "start", "time": 1.0}])
        store.ingest(grown, runs, {"a": ("RUNNING", "")})
        write_run(
            runs, "a", metrics={1: [step(1, 3.0)], 2: [step(1, 3.1), step(2, 2.9)]}, result={}
        )
        store.ingest(grown, runs, {"a": ("RUNNING", "")})
        with store.connect(tmp_path / "rebuilt.duckdb") as rebuilt:
            store.ingest(rebuilt, runs, {"a": ("RUNNING", "")})
            assert everything(rebuilt) == everything(grown)


def test_the_latest_attempt_that_covers_a_step_wins(con: store.Connection, tmp_path: Path) -> None:
    first = [step(n, 3.0) for n in (1, 2, 3, 4)]
    second = [step(n, 2.0) for n in (2, 3)]
    write_run(tmp_path, "a", metrics={1: first, 2: second, 10: [step(3, 1.0)]})
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    assert rows(con, "select step, attempt, loss from steps order by step") == [
        (1, 1, 3.0),
        (2, 2, 2.0),
        (3, 10, 1.0),
        (4, 1, 3.0),
    ]


def test_unknown_keys_of_a_metrics_line_are_kept_beside_it(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", metrics={1: [step(1, 3.0, update_norm=0.25)]})
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    assert rows(con, "select cast(others->>'update_norm' as double) from steps") == [(0.25,)]


def test_events_keep_their_details(con: store.Connection, tmp_path: Path) -> None:
    write_run(tmp_path, "a", events=[{"time": 12.5, "event": "checkpoint", "step": 40}])
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    assert rows(con, "select time, event, detail->>'step' from events") == [
        (12.5, "checkpoint", "40")
    ]


def test_a_metrics_file_cut_at_any_byte_gives_its_whole_lines(
    con: store.Connection, tmp_path: Path
) -> None:
    """A run for every byte that a killed writer can have stopped at; half of them went on."""
    lines = [json.dumps(step(n, 3.0)).encode() + b"\n" for n in (1, 2, 3)]
    whole = b"".join(lines)
    ends = [len(b"".join(lines[:n])) for n in (1, 2, 3)]
    expected: list[tuple[str, int]] = []
    for cut in range(len(whole) + 1):
        name, went_on = f"{cut:04d}", cut % 2 == 1
        folder = write_run(tmp_path, name)
        rest = b"\n" + json.dumps(step(9, 3.0)).encode() + b'\n{"step": \xff' if went_on else b""
        (folder / "metrics.1.jsonl").write_bytes(whole[:cut] + rest)
        # A line that lacks nothing but its end of line is whole.
        expected += [(name, n) for n, end in enumerate(ends, start=1) if cut >= end - 1]
        expected += [(name, 9)] * went_on
    store.ingest(con, tmp_path, {f"{cut:04d}": ("RUNNING", "") for cut in range(len(whole) + 1)})
    assert rows(con, "select run_id, step from steps order by all") == expected


@pytest.mark.parametrize("content", ['{"run_id": "a", "sta', "", "[]", '{"run_id": "b"}', b"\xff{"])
def test_a_torn_or_foreign_result_is_no_result(
    con: store.Connection, tmp_path: Path, content: str | bytes
) -> None:
    folder = write_run(tmp_path, "a")
    (folder / "result.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    assert rows(con, "select state, finished from runs") == [("RUNNING", False)]


def test_a_loss_that_is_not_a_number_is_stored_as_such(
    con: store.Connection, tmp_path: Path
) -> None:
    write_run(tmp_path, "a", metrics={1: [step(1, float("nan")), step(2, float("inf"))]})
    store.ingest(con, tmp_path, {"a": ("RUNNING", "")})
    assert rows(con, "select isnan(loss), isinf(loss) from steps order by step") == [
        (True, False),
        (False, True),
    ]

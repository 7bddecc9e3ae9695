"""The run directory: atomic, exclusive, tolerant of killed writers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.runlog import (
    Attempt,
    Failure,
    Result,
    RunDir,
    Stop,
    append_line,
    create_exclusive,
    create_run,
    read_lines,
    write_atomic,
)

ATTEMPT = Attempt(number=1, job="job", host="host", pid=1, world_size=1, started=0.0)


def result_for(run: RunDir) -> Result:
    return Result(
        run_id=run.path.name,
        state="DONE",
        tokens=1,
        flops=1.0,
        nats_per_token=1.0,
        bits_per_byte=1.0,
        params_total=1,
        params_non_embedding=1,
        params_active=1,
        seconds=1.0,
        gpu_hours=1.0,
        tokens_per_second=1.0,
    )


def test_creating_a_run_twice_gives_one_directory(make_run: Callable[..., RunDir]) -> None:
    first, second = make_run(seed=90), make_run(seed=90, study="another", trial=7, budget=2.0)
    assert first.path == second.path
    assert first.spec().study == "test"


def test_a_result_is_read_back_and_a_torn_or_foreign_one_is_none(
    make_run: Callable[..., RunDir],
) -> None:
    run = make_run(seed=91)
    assert run.result() is None
    run.write_result(result_for(run))
    assert run.result() == result_for(run)
    text = (run.path / "result.json").read_text()
    for torn in (text[: len(text) // 2], "", text.replace(run.path.name, "0" * 16)):
        (run.path / "result.json").write_text(torn)
        assert run.result() is None


def test_an_attempt_can_be_claimed_once(make_run: Callable[..., RunDir]) -> None:
    run = make_run(seed=92)
    assert run.claim(ATTEMPT)
    assert not run.claim(ATTEMPT.model_copy(update={"pid": 2}))
    assert run.claim(ATTEMPT.model_copy(update={"number": 2}))
    assert [attempt.number for attempt in run.attempts()] == [1, 2]
    assert run.attempts()[0].pid == 1


def test_of_several_failures_of_an_attempt_the_first_stands(
    make_run: Callable[..., RunDir],
) -> None:
    run = make_run(seed=93)
    run.write_failure(Failure(attempt=1, cause="exception", message="the cause"))
    run.write_failure(Failure(attempt=1, cause="exception", message="connection closed by peer"))
    failure = run.failure(1)
    assert failure is not None
    assert failure.message == "the cause"


def test_an_attempt_whose_file_cannot_be_read_still_counts(make_run: Callable[..., RunDir]) -> None:
    run = make_run(seed=95)
    run.claim(ATTEMPT)
    for number, content in ((2, ""), (3, '{"number": 3, "jo'), (10, '"\udcff"')):
        (run.path / f"attempt.{number}.json").write_bytes(
            content.encode("utf-8", "surrogateescape")
        )
    (run.path / "attempt.x.json").write_text("{}")
    (run.path / "attempt.4.json").mkdir()
    assert [attempt.number for attempt in run.attempts()] == [1, 2, 3, 4, 10]
    assert [attempt.job for attempt in run.attempts()] == ["job", "", "", "", ""]


def test_an_attempt_is_superseded_by_a_later_one_alone(make_run: Callable[..., RunDir]) -> None:
    run = make_run(seed=96)
    assert not run.superseded(1)
    run.claim(ATTEMPT.model_copy(update={"number": 9}))
    assert not run.superseded(9)
    run.claim(ATTEMPT.model_copy(update={"number": 10}))
    assert run.superseded(9)
    assert not run.superseded(10)


def test_all_failures_are_read_in_order_and_torn_ones_left_out(
    make_run: Callable[..., RunDir],
) -> None:
    run = make_run(seed=97)
    for number in (10, 2, 1):
        run.write_failure(Failure(attempt=number, cause="preempted", message="asked", step=number))
    (run.path / "failure.3.json").write_text('{"attempt": 3')
    assert [failure.step for failure in run.failures()] == [1, 2, 10]
    assert run.failure(3) is None


def test_an_order_to_stop_is_for_one_attempt_and_the_first_stands(
    make_run: Callable[..., RunDir],
) -> None:
    run = make_run(seed=98)
    order = Stop(state="PRUNED", cause="worse than half at rung 2", study="a")
    assert run.stop(2) is None
    assert run.write_stop(2, order)
    assert not run.write_stop(2, Stop(state="CANCELLED", cause="by hand", study="b"))
    assert run.stop(2) == order
    assert run.stop(1) is None


def test_of_two_results_the_first_stands(make_run: Callable[..., RunDir]) -> None:
    run = make_run(seed=99)
    run.write_result(result_for(run))
    run.write_result(result_for(run).model_copy(update={"tokens": 2}))
    assert run.result() == result_for(run)
    (run.path / "result.json").write_text("{")
    run.write_result(result_for(run).model_copy(update={"tokens": 2}))
    result = run.result()
    assert result is not None
    assert result.tokens == 2


def test_a_write_that_fails_leaves_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "a", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_exclusive_creation_leaves_no_other_file(tmp_path: Path) -> None:
    assert create_exclusive(tmp_path / "a", "1")
    assert not create_exclusive(tmp_path / "a", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "1"


RECORDS = st.lists(st.dictionaries(st.text(max_size=5), st.integers()), min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, cut=st.integers(min_value=1))
def test_a_line_torn_by_a_kill_loses_itself_alone(
    tmp_path: Path, records: list[dict[str, int]], cut: int
) -> None:
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    for record in records:
        append_line(path, record)
    last = len(json.dumps(records[-1])) + 1
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - min(cut, last - 1) - 1])
    append_line(path, {"after": 1})
    assert list(read_lines(path)) == [*records[:-1], {"after": 1}]


def test_a_run_directory_of_a_store_knows_its_home(make_run: Callable[..., RunDir]) -> None:
    run = make_run(seed=94)
    assert create_run(run.home, run.spec()).path == run.path
    with pytest.raises(FileNotFoundError):
        RunDir(run.home / "runs" / "absent").spec()

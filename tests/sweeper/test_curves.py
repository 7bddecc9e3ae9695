"""Marks that runs passed, read from their metrics as these grow."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.curves import CurveReader, Reached
from sweeper.designs import expand
from sweeper.planner import Planned
from sweeper.runs import RunView
from sweeper.study import Study
from train.runlog import RunDir, create_run


@pytest.fixture
def planned(study: Study) -> Planned:
    return expand(study)[0]


def view(planned: Planned, attempts: int = 1) -> dict[str, RunView]:
    return {planned.run_id: RunView(planned.run_id, planned.spec, "RUNNING", attempts)}


def write(run: RunDir, tokens: int, percents: range, attempt: int = 1, loss: float = 4.0) -> None:
    with run.metrics(attempt).open("a") as file:
        for percent in percents:
            line = {"tokens": tokens * percent / 100, "loss": loss - percent / 100}
            file.write(json.dumps(line) + "\n")


def test_a_mark_is_passed_with_the_mean_loss_of_the_last_fifth(
    planned: Planned, tmp_path: Path
) -> None:
    run = create_run(tmp_path, planned.spec)
    reader = CurveReader(tmp_path / "runs", (0.1, 0.5))
    assert reader.look(view(planned)) == {planned.run_id: ()}
    write(run, planned.spec.tokens, range(1, 12))
    # Steps 9 and 10 of a hundred.
    (mark,) = reader.look(view(planned))[planned.run_id]
    assert mark == pytest.approx((0.1, 3.905))
    write(run, planned.spec.tokens, range(12, 60))
    marks = reader.look(view(planned))[planned.run_id]
    assert marks[1] == pytest.approx((0.5, 4 - 0.455))
    assert len(marks) == 2


def test_only_whole_lines_and_numbers_count(planned: Planned, tmp_path: Path) -> None:
    run = create_run(tmp_path, planned.spec)
    reader = CurveReader(tmp_path / "runs", (0.5,))
    half = json.dumps({"tokens": planned.spec.tokens * 0.5, "loss": 3.0})
    with run.metrics(1).open("a") as file:
        file.write('{"tokens": 10, "lo\n{"tokens": 20, "loss": NaN}\n' + half[:10])
    assert reader.look(view(planned))[planned.run_id] == ()
    with run.metrics(1).open("a") as file:
        file.write(half[10:] + "\n")
    assert reader.look(view(planned))[planned.run_id] == (Reached(0.5, 3.0),)


def test_an_attempt_that_resumes_goes_on_where_the_last_one_came_to(
    planned: Planned, tmp_path: Path
) -> None:
    run = create_run(tmp_path, planned.spec)
    reader = CurveReader(tmp_path / "runs", (0.2, 0.4))
    write(run, planned.spec.tokens, range(1, 31))
    before = reader.look(view(planned))[planned.run_id]
    write(run, planned.spec.tokens, range(10, 51), attempt=2)
    after = reader.look(view(planned, attempts=2))[planned.run_id]
    assert after[:1] == before
    assert [point.fraction for point in after] == [0.2, 0.4]


def test_a_new_reader_finds_what_one_that_watched_had_found(
    planned: Planned, tmp_path: Path
) -> None:
    run = create_run(tmp_path, planned.spec)
    watching = CurveReader(tmp_path / "runs", (0.1, 0.3, 0.9))
    for start in range(1, 101, 7):
        write(run, planned.spec.tokens, range(start, min(101, start + 7)))
        watching.look(view(planned))
    assert CurveReader(tmp_path / "runs", (0.1, 0.3, 0.9)).look(view(planned)) == watching.look(
        view(planned)
    )


def test_a_finished_run_is_read_once_more_and_not_again(planned: Planned, tmp_path: Path) -> None:
    run = create_run(tmp_path, planned.spec)
    reader = CurveReader(tmp_path / "runs", (0.5,))
    write(run, planned.spec.tokens, range(1, 101))
    ended = {name: replace(one, state="DONE") for name, one in view(planned).items()}
    found = reader.look(ended)
    run.metrics(1).unlink()
    assert reader.look(ended) == found
    assert len(found[planned.run_id]) == 1

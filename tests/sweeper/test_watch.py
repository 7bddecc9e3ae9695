import io
import re
from pathlib import Path

import fake_trainer
import pytest
from rich.console import Console

from sweeper.designs import expand
from sweeper.runs import Progress, RunView, planned_flops
from sweeper.speed import Speed, calibrate, measured_speed
from sweeper.study import Study
from sweeper.watch import Display, duration, summarise
from train.config import RunSpec, run_id
from train.runlog import create_run


@pytest.fixture
def specs(study: Study) -> list[RunSpec]:
    return list({p.run_id: p.spec for p in expand(study)}.values())


def seen(spec: RunSpec, state: str) -> RunView:
    result = fake_trainer.result(spec, 10.0) if state == "DONE" else None
    return RunView(run_id(spec), spec, state, 1, result=result)  # pyright: ignore


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_progress_is_counted_in_flops(specs: list[RunSpec]) -> None:
    done, running, planned = specs[:3]
    half = Progress(running.tokens // 2, 2.0, 1e4)
    views = [seen(done, "DONE"), seen(running, "RUNNING"), seen(planned, "PLANNED")]
    said = summarise(views, {run_id(running): half}, Speed(), workers=2)
    assert said.total_flops == pytest.approx(sum(map(planned_flops, specs[:3])))
    expected = planned_flops(done) + planned_flops(running) / 2
    assert said.flops == pytest.approx(expected, rel=1e-3)


def test_the_rest_is_shared_by_the_workers_but_the_longest_run_is_not(
    specs: list[RunSpec],
) -> None:
    planned = [seen(spec, "PLANNED") for spec in specs]
    speed = Speed()
    seconds = [speed.seconds(spec) for spec in specs]
    assert summarise(planned, {}, speed, 1).seconds_left == pytest.approx(sum(seconds))
    assert summarise(planned, {}, speed, 2).seconds_left == pytest.approx(sum(seconds) / 2)
    assert summarise(planned, {}, speed, 10_000).seconds_left == pytest.approx(max(seconds))


def test_a_running_run_is_judged_by_its_own_speed(specs: list[RunSpec]) -> None:
    at = Progress(specs[0].tokens - 5000, 2.0, tokens_per_second=1000.0)
    said = summarise([seen(specs[0], "RUNNING")], {run_id(specs[0]): at}, Speed(), 1)
    assert said.seconds_left == pytest.approx(5.0)


def test_speed_is_that_of_the_results(specs: list[RunSpec]) -> None:
    results = [fake_trainer.result(spec, 3 * Speed().seconds(spec)) for spec in specs]
    speed = calibrate(results)
    assert speed.scale == pytest.approx(1 / 3)
    assert speed.source == f"measured on {len(specs)} earlier runs"
    assert Speed().source == "a rough estimate"


def test_speed_is_read_from_the_runs_of_all_studies(specs: list[RunSpec], tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert measured_speed(home / "runs") == Speed()
    for spec in specs[:2]:
        create_run(home, spec).write_result(fake_trainer.result(spec, Speed().seconds(spec)))
    create_run(home, specs[2])
    speed = measured_speed(home / "runs")
    assert (speed.runs, speed.scale) == (2, pytest.approx(1.0))


def piped() -> tuple[Console, io.StringIO]:
    said = io.StringIO()
    return Console(file=said, width=200), said


def test_a_pipe_gets_one_line_a_change(specs: list[RunSpec], tmp_path: Path) -> None:
    console, said = piped()
    with Display(console, "small", Speed()) as display:
        for state in ("PLANNED", "RUNNING", "RUNNING", "DONE", "DONE"):
            views = {run_id(spec): seen(spec, "PLANNED") for spec in specs}
            views[run_id(specs[0])] = seen(specs[0], state)
            display.update(views, tmp_path, workers=2)
    lines = said.getvalue().splitlines()
    assert len(lines) == 3
    assert f"{len(specs)} planned; about" in lines[0]
    assert re.match(r"trial 0: [\d,]+ .* RUNNING", lines[1])
    assert "nats/token (1 of" in lines[2]


def test_a_failure_is_said_with_its_message(specs: list[RunSpec], tmp_path: Path) -> None:
    console, said = piped()
    broken = RunView(run_id(specs[0]), specs[0], "FAILED", 1, message="[Errno 28] disk full")
    with Display(console, "small", Speed()) as display:
        before = {run_id(specs[0]): seen(specs[0], "RUNNING")}
        display.update(before, tmp_path, workers=2)
        display.update({run_id(specs[0]): broken}, tmp_path, workers=2)
    assert "FAILED: [Errno 28] disk full" in said.getvalue()


def test_a_terminal_gets_a_table_of_what_runs(specs: list[RunSpec], tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=100, force_terminal=True)
    home = tmp_path
    run = create_run(home, specs[0])
    run.metrics(1).write_text('{"tokens": 2048, "loss": 3.25, "tokens_per_second": 5e4}\n')
    with Display(console, "small", Speed()) as display:
        display.update({run_id(specs[0]): seen(specs[0], "RUNNING")}, home / "runs", workers=2)
    for part in ("small", "trial 0", "3.250", "50,000", "1 running"):
        assert part in said.getvalue()

"""Whole launches in real processes and real jobs, and what is found afterwards."""

import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from command_line import STUDY, CommandLine
from observing import runs, starts, until

from sweeper.designs import expand
from sweeper.folders import StudyDir
from sweeper.ledger import read
from sweeper.study_file import load
from train.runlog import read_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CommandLine, str]:
    """A study launched to its end, and what was said."""
    folder = tmp_path_factory.mktemp("done")
    path = folder / "small.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    line = CommandLine(folder / "home", path)
    code, said = line.launch()
    assert code == 0, said
    return line, said


@pytest.fixture
def copy(done: tuple[CommandLine, str], tmp_path: Path) -> CommandLine:
    """The launched study in a place where it may be harmed."""
    line, _ = done
    shutil.copytree(line.home, tmp_path / "copy")
    return CommandLine(tmp_path / "copy", line.study)


def test_a_launch_ends_with_forecast_promotion_and_report(done: tuple[CommandLine, str]) -> None:
    line, said = done
    for pattern in (
        r"N\*    [\d,]+  \([\d,]+ to [\d,]+\)",
        r"D\*    [\d,]+  \([\d,]+ to [\d,]+\)",
        r"loss  1\.\d+ nats/token  \(1\.\d+ to 1\.\d+\)",
        r"measured 1\.\d+ against the forecast 1\.\d+: error [+-]0\.\d+%, inside the interval",
        r"report: .*/studies/small/report\.html",
        r"took \d+ s",
    ):
        assert re.search(pattern, said), pattern
    assert (line.home / "studies/small/report.html").stat().st_size > 1_000_000


def test_every_run_is_done_once_and_counted(done: tuple[CommandLine, str]) -> None:
    line, _ = done
    planned = {p.run_id for p in expand(load(line.study))}
    assert line.rows("select stage, state, count(*) from runs group by all order by all") == [
        "dpo DONE 1",
        f"pretrain DONE {len(planned) + 1}",
        "sft DONE 1",
    ]
    assert {starts(run) for run in runs(line.home)} == {1}


def test_stages_follow_each_other_as_jobs_of_two_processes(done: tuple[CommandLine, str]) -> None:
    line, _ = done
    record = read(StudyDir(line.home, "small").ledger)
    wide = [job for job in record.jobs if job.stage == "promotion"]
    assert [job.world_size for job in wide] == [2, 2, 2]
    stages = {run.path.name: run.spec().stage for run in runs(line.home)}
    assert [stages[job.grants[0][0]] for job in wide] == ["pretrain", "sft", "dpo"]


def test_the_log_of_a_run_is_its_own_and_its_program_a_copy(done: tuple[CommandLine, str]) -> None:
    command, _ = done
    names = [run.path.name for run in runs(command.home)]
    for name in names[:2]:
        code, said = command.run("logs", name)
        assert code == 0, said
        assert [other for other in names if f"this is {other}" in said] == [name]
        assert f"trained by {StudyDir(command.home, 'small').path / 'code'}" in said


def test_workers_share_the_cores(done: tuple[CommandLine, str]) -> None:
    line, _ = done
    cores = len(psutil.Process().cpu_affinity() or ())
    seen = {
        event["threads"]
        for run in runs(line.home)
        for event in read_lines(run.events)
        if event["event"] == "start"
    }
    assert seen == {max(1, cores // 2)}


def test_a_second_launch_trains_nothing_and_says_so(copy: CommandLine) -> None:
    before = read(StudyDir(copy.home, "small").ledger)
    started = time.monotonic()
    code, said = copy.launch()
    assert code == 0
    assert "nothing was left to train" in said
    assert time.monotonic() - started < 10
    assert read(StudyDir(copy.home, "small").ledger) == before


def derived(line: CommandLine) -> tuple[list[str], list[str], bytes]:
    folder = StudyDir(line.home, "small")
    tables = line.rows(
        "select run_id, state, nats_per_token, tokens, attempts from runs order by run_id"
    )
    forecast = line.rows("select law, coef, intervals from fits")
    return tables, forecast, folder.report.read_bytes()


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_what_is_derived_is_made_again(copy: CommandLine, harm: str) -> None:
    code, _ = copy.launch()
    before = derived(copy)
    place = StudyDir(copy.home, "small")
    for path in (place.optuna, place.store, place.report):
        path.unlink()
        if harm == "damaged":
            path.write_bytes(b"this is no database and no report " * 50)
    code, said = copy.launch()
    assert (code, "nothing was left to train" in said) == (0, True), said
    assert derived(copy) == before


def test_a_promotion_is_not_decided_again(copy: CommandLine) -> None:
    place = StudyDir(copy.home, "small")
    before = place.promotion.read_bytes()
    code, said = copy.run("promote", str(copy.study), "--force", "once more")
    assert code == 0, said
    assert place.promotion.read_bytes() == before
    events = [json.loads(line)["event"]["event"] for line in place.ledger.read_text().splitlines()]
    assert Counter(events)["promoted"] == 1


def test_another_study_with_the_same_runs_trains_none_of_them(copy: CommandLine) -> None:
    code, said = copy.launch("name=other")
    assert code == 0, said
    assert "nothing was left to train" in said
    assert {starts(run) for run in runs(copy.home)} == {1}


def test_a_held_study_says_which_gate_holds_it_and_a_person_may_force_it(
    quick: CommandLine,
) -> None:
    strict = "promotion.gates.interval_width=1e-6"
    code, said = quick.launch(strict)
    assert code == 0
    assert "not promoted: held by interval_width" in said
    assert f'sweeper promote {quick.study} --force "your reason"' in said
    code, said = quick.run("promote", str(quick.study), strict)
    assert code == 1
    assert not StudyDir(quick.home, "small").promotion.exists()
    code, said = quick.run("promote", str(quick.study), strict, "--dry-run")
    assert code == 0
    assert "promoted run: " in said
    assert not StudyDir(quick.home, "small").promotion.exists()
    code, said = quick.run("promote", str(quick.study), strict, "--force", "we want to know")
    assert code == 0, said
    assert "(we want to know)" in said
    assert "dpo: DONE" in said


RUNG = "promotion.rung=1.2e14"


def test_a_validation_rung_is_trained_and_hit_before_the_promotion(copy: CommandLine) -> None:
    StudyDir(copy.home, "small").promotion.unlink()
    code, said = copy.run("promote", str(copy.study), RUNG, "--dry-run")
    assert code == 0
    assert re.search(r"HOLD  validation_rung: - \(limit 1\); its run of 1\.2e\+14 FLOPs", said)
    assert "the validation rung is to be trained" in said
    code, said = copy.launch(RUNG)
    assert code == 0, said
    assert re.search(r"pass  validation_rung: 0\.\d+ \(limit 1\); 1\.2e\+14 FLOPs: measured", said)
    assert re.search(r"validation rung of 1\.2e\+14 FLOPs: forecast 1.*: DONE, measured 1", said)
    assert "promoted by gates (every gate passed)" in said
    assert "inside the interval" in said
    record = read(StudyDir(copy.home, "small").ledger)
    assert [job.world_size for job in record.jobs if job.stage == "validation"] == [2]
    code, said = copy.launch(RUNG)
    assert (code, "nothing was left to train" in said) == (0, True), said


def test_a_driver_killed_when_it_chose_the_rung_or_started_it_trains_it_once(
    copy: CommandLine,
) -> None:
    place = StudyDir(copy.home, "small")
    place.promotion.unlink()
    before = {run.path for run in runs(copy.home)}
    for instant in ('"event": "rung"', '"stage": "validation"'):
        with copy.start("launch", str(copy.study), RUNG, FAKE_SECONDS="2") as driver:
            until(lambda seen=instant: seen in place.ledger.read_text())
            driver.kill()
    code, said = copy.launch(RUNG)
    assert code == 0, said
    assert [starts(run) for run in runs(copy.home) if run.path not in before] == [1]
    assert len(read(place.ledger).rungs) == 1


@pytest.mark.parametrize("verb", ["status", "fit", "promote", "report"])
def test_a_study_that_was_not_launched_is_not_shown(quick: CommandLine, verb: str) -> None:
    code, said = quick.run(verb, str(quick.study))
    assert code == 2
    assert "was not launched below" in said
    assert not quick.home.exists()


def test_bad_sql_is_one_message(copy: CommandLine) -> None:
    code, said = copy.run("sql", str(copy.study), "selct 1")
    assert code == 2
    assert "syntax error" in said
    assert "Traceback" not in said


def test_sql_cannot_change_the_store(copy: CommandLine) -> None:
    code, said = copy.run("sql", str(copy.study), "delete from runs")
    assert code == 2
    assert "read-only" in said

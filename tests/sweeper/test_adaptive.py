"""An adaptive ladder grows by what it saw, says so in the ledger, and goes on after any death."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_trainer
import optuna
import pytest
from at_once import AtOnce
from command_line import STUDY, CommandLine
from rich.console import Console

from sweeper import driver
from sweeper.adaptive import next_batch
from sweeper.designs import expand
from sweeper.driver import Driver
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.growth import grow
from sweeper.launch import run_trials
from sweeper.ledger import Ledger, read
from sweeper.overrides import with_values
from sweeper.plan import plan_rows
from sweeper.plan_words import summary_lines
from sweeper.planner import Planned
from sweeper.record import Batch
from sweeper.runs import RunView
from sweeper.speed import Speed
from sweeper.study import Adaptive, IsoFLOP, Study
from sweeper.study_file import load
from sweeper.watch import Display

BUDGETS = (1e12, 4e12, 1.6e13, 6.4e13)
CAP = 2.5e14
DESIGN = Adaptive(
    flops=CAP,
    loss_within=1e-4,
    params_within=1e-3,
    start=IsoFLOP(sizes_per_budget=5, spread=4.0, tokens_per_param=80),
    start_budgets=3,
    batch=10,
)
Views = dict[str, RunView]


def of(study: Study, design: Adaptive, **changes: Any) -> Study:
    """The study with this design alone."""
    return Study.model_validate(
        {**dict(study), "axes": (), "designs": (design,), "budgets": BUDGETS, **changes}
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "small.py"
    path.write_text(STUDY.format(corpus="builtin"))
    return of(with_values(load(path), {"base.data.digest": "0"}), DESIGN)


def seen(planned: list[Planned], ended: Callable[[Planned], bool] = lambda p: True) -> Views:
    """Runs with results where they ended, else not begun."""
    views: Views = {}
    for p in planned:
        result = fake_trainer.result(p.spec, 1.0) if ended(p) else None
        state = result.state if result else "PLANNED"
        views[p.run_id] = RunView(p.run_id, p.spec, state, int(ended(p)), result=result)
    return views


def budgets_of(planned: list[Planned]) -> float:
    return sum(p.trial.budget for p in planned)


def expected_error(batch: Batch) -> float:
    """Of the loss at the target, in per cent, before the batch's own runs."""
    found = re.search(r"expected error at the target ([\d.]+)%", batch.why)
    assert found
    return float(found[1])


def test_it_starts_with_a_small_ladder_of_the_cheapest_budgets(grown: Study) -> None:
    planned = expand(grown)
    assert {p.trial.budget for p in planned} == set(BUDGETS[:3])
    assert {p.trial.design for p in planned} == {"adaptive"}
    assert len(planned) == 15


def test_the_same_results_ask_for_the_same_runs(grown: Study) -> None:
    planned = expand(grown)
    first = next_batch(grown, DESIGN, planned, seen(planned))
    assert next_batch(grown, DESIGN, planned, seen(planned)) == first
    assert len(first.points) == 10
    assert first.saw == tuple(sorted(p.run_id for p in planned))
    assert "expected error at the target" in first.why


def test_every_trial_of_a_batch_is_a_new_run_of_the_study(grown: Study) -> None:
    planned = expand(grown)
    batch = next_batch(grown, DESIGN, planned, seen(planned))
    more = expand(grown, [batch])
    assert more[: len(planned)] == planned
    assert [p.trial.number for p in more] == list(range(25))
    assert len({p.run_id for p in more}) == 25
    assert {p.trial.budget for p in more} <= set(BUDGETS)
    assert [p.trial.values["batch"] for p in more] == [0] * 15 + [1] * 10


def test_a_run_in_flight_is_not_asked_for_again(grown: Study) -> None:
    planned = expand(grown)
    late = planned[-1].run_id
    views = seen(planned, lambda p: p.run_id != late)
    batch = next_batch(grown, DESIGN, planned, views)
    assert late not in batch.saw
    assert late not in {p.run_id for p in expand(grown, [batch])[len(planned) :]}
    # What it will tell is counted on already.
    blind = next_batch(grown, DESIGN, planned[:-1], views)
    assert expected_error(batch) < expected_error(blind)


def test_workers_that_have_work_ask_for_nothing(grown: Study, tmp_path: Path) -> None:
    planned = expand(grown)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    last = [p.run_id for p in planned[-2:]]
    busy = seen(planned, lambda p: p.run_id not in last)
    assert grow(grown, planned, busy, ledger, lambda said: None) == []
    idle = seen(planned, lambda p: p.run_id != last[1])
    assert len(grow(grown, planned, idle, ledger, lambda said: None)) == 10
    assert len(read(ledger.path).batches) == 1


def test_a_batch_that_saw_other_runs_is_left_out(grown: Study) -> None:
    planned = expand(grown)
    batch = next_batch(grown, DESIGN, planned, seen(planned))
    changed = with_values(grown, {"base.lr.scale": 2.0})
    assert len(expand(changed, [batch])) == len(planned)


def test_it_ends_when_the_interval_is_as_tight_as_asked(grown: Study) -> None:
    planned = expand(grown)
    loose = DESIGN.model_copy(update={"loss_within": 0.5, "params_within": 5.0})
    batch = next_batch(grown, loose, planned, seen(planned))
    assert batch.points == ()
    assert "ends: the interval at the target is within" in batch.why


def test_it_ends_when_the_flops_are_spent(grown: Study) -> None:
    planned = expand(grown)
    cap = budgets_of(planned) + 3.5e12
    spent = DESIGN.model_copy(update={"flops": cap})
    batch = next_batch(grown, spent, planned, seen(planned))
    assert [asked.budget for asked in batch.points] == [1e12] * 3
    more = expand(grown, [batch])
    ended = next_batch(grown, spent, more, seen(more))
    assert ended.points == ()
    assert ended.why == f"ends: 5e11 of flops={cap:g} are left"


def test_without_a_loss_it_ends_and_says_so(grown: Study) -> None:
    planned = expand(grown)
    lost = {k: replace(v, state="FAILED", result=None) for k, v in seen(planned).items()}
    batch = next_batch(grown, DESIGN, planned, lost)
    assert batch.points == ()
    assert batch.why.startswith("ends: none of 15 runs gave a loss")


def test_a_diverged_run_is_paid_for_but_teaches_nothing(grown: Study) -> None:
    planned = expand(grown)
    views = seen(planned)
    wrong = planned[7].run_id
    views[wrong] = replace(
        views[wrong],
        state="DIVERGED",
        result=fake_trainer.result(planned[7].spec, 1.0).model_copy(
            update={"state": "DIVERGED", "nats_per_token": None}
        ),
    )
    assert len(next_batch(grown, DESIGN, planned, views).points) == 10


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (DESIGN.model_copy(update={"flops": 1e13}), r"flops=1e\+13 .* do not pay for its start"),
        (DESIGN.model_copy(update={"start_budgets": 5}), "start_budgets=5 .* 4 budgets"),
    ],
)
def test_a_design_that_cannot_start_is_refused(
    grown: Study, design: Adaptive, message: str
) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        expand(of(grown, design))


def test_two_adaptive_designs_are_refused(grown: Study) -> None:
    with pytest.raises(ValueError, match="2 adaptive designs would chase the same answer"):
        Study.model_validate({**dict(grown), "designs": (DESIGN, DESIGN)})


def test_the_plan_says_what_may_follow_the_start(grown: Study, tmp_path: Path) -> None:
    rows = plan_rows(expand(grown), StudyDir(tmp_path, grown.name), Speed())
    assert "adaptive: up to 2.5e+14 FLOPs" in "\n".join(summary_lines(grown, rows, Speed()))


class Died(BaseException):
    """The driver's end at an instant of the test's choosing."""


def launch(
    study: Study, home: Path, monkeypatch: pytest.MonkeyPatch, *, dies_in: int | None = None
) -> list[str]:
    """Drive the trials, their jobs done at once in this process; dies at the start of a job."""
    said: list[str] = []
    started: list[str] = []

    def work(grants: list[tuple[Path, int]], job: str) -> None:
        started.append(job)
        if len(started) == dies_in:
            raise Died
        fake_trainer.work(grants, job, 1, 0, 1, 0, Path("unused"))

    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(Driver, "prepare", lambda self, configs: None)
    place = StudyDir(home, study.name)
    place.path.mkdir(parents=True, exist_ok=True)
    display = Display(Console(quiet=True), study.name, Speed())
    monkeypatch.setattr(display, "say", said.append)
    driving = Driver(study, place, Speed(), display, AtOnce(work))
    run_trials(driving, expand(study, driving.ledger.record.batches))
    return [line for line in said if line.startswith("adaptive")]


def trials_of(study: Study, home: Path) -> list[tuple[object, ...]]:
    return [
        (p.trial.number, p.run_id, p.trial.budget, p.trial.seed)
        for p in expand(study, read(StudyDir(home, study.name).ledger).batches)
    ]


@pytest.fixture(scope="module")
def whole(grown: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The home of the study driven to its end without harm, and what was said of its growth."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        return home, launch(grown, home, patch)


def test_it_grows_to_its_cap_and_optuna_holds_every_trial(
    grown: Study, whole: tuple[Path, list[str]]
) -> None:
    home, said = whole
    place = StudyDir(home, grown.name)
    planned = expand(grown, read(place.ledger).batches)
    assert CAP - BUDGETS[0] < budgets_of(planned) <= CAP
    assert said[-1].startswith("adaptive: ends: ")
    held = optuna.load_study(study_name=grown.name, storage=f"sqlite:///{place.optuna}").trials
    assert [trial.user_attrs["run_id"] for trial in held] == [p.run_id for p in planned]
    assert {trial.state.name for trial in held} == {"COMPLETE"}
    assert [trial.params for trial in held] == [p.trial.params() for p in planned]


def test_each_batch_of_the_ledger_follows_from_the_runs_that_it_saw(
    grown: Study, whole: tuple[Path, list[str]]
) -> None:
    batches = read(StudyDir(whole[0], grown.name).ledger).batches
    assert len(batches) > 1
    for i, batch in enumerate(batches):
        planned = expand(grown, batches[:i])
        views = seen(planned, lambda p, saw=batch.saw: p.run_id in saw)
        assert next_batch(grown, DESIGN, planned, views) == batch


# The first job carries the whole start, then come two for each batch: its second is the last.
@pytest.mark.parametrize("dies_in", [1, 3, 5])
def test_a_driver_that_died_goes_on_with_the_same_trials(
    grown: Study,
    whole: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_in: int,
) -> None:
    with pytest.raises(Died):
        launch(grown, tmp_path, monkeypatch, dies_in=dies_in)
    launch(grown, tmp_path, monkeypatch)
    assert trials_of(grown, tmp_path) == trials_of(grown, whole[0])


def test_a_second_launch_asks_for_nothing_more(
    grown: Study, whole: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, said = whole
    before = read(StudyDir(home, grown.name).ledger)
    assert launch(grown, home, monkeypatch) == said[-1:]
    assert read(StudyDir(home, grown.name).ledger) == before


@pytest.mark.slow
def test_an_adaptive_study_is_launched_to_its_report_and_shown(quick: CommandLine) -> None:
    text = quick.study.read_text()
    text = text.replace("IsoFLOP(sizes_per_budget=5, spread=3.0, tokens_per_param=80),", SWAPPED)
    quick.study.write_text(text.replace("Axis,", "Adaptive, Axis,", 1))
    code, said = quick.launch()
    assert code == 0, said
    assert "adaptive: 8 runs more; expected error at the target" in said
    assert "adaptive: ends: " in said
    record = read(StudyDir(quick.home, "small").ledger)
    planned = expand(load(quick.study), record.batches)
    code, said = quick.run("status", str(quick.study))
    assert f"{len(planned)} trials" in said
    assert quick.rows("select count(*) from trials where design = 'adaptive'") == [
        f"{len(planned) - 4}"
    ]


SWAPPED = """Adaptive(
            flops=1.8e14, loss_within=1e-4, params_within=1e-3, start_budgets=3,
            start=IsoFLOP(sizes_per_budget=5, spread=3.0, tokens_per_param=80),
        ),"""

"""A search proposes by what it saw, the same in every process, and goes on after any death."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_trainer
import optuna
import pytest
from command_line import CommandLine
from observing import HOLD, runs, starts, until
from optuna.trial import TrialState
from test_designs import RATE, SWITCH, study_of

from sweeper.axes import Axis, Constraint
from sweeper.constraints import measured
from sweeper.designs import expand, survey
from sweeper.folders import StudyDir
from sweeper.growth import grow
from sweeper.layouts import Search
from sweeper.ledger import Ledger, read
from sweeper.overrides import with_values
from sweeper.plan_words import summary_lines
from sweeper.planner import Planned
from sweeper.record import Batch
from sweeper.runs import RunView
from sweeper.search import next_batch, outcome
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.study_file import load

DECAY = Axis(name="decay", path="optim.weight_decay", levels=(0.01, 0.1, 1.0), scale="log")
WIDE = Axis(name="rate", path="lr.scale", levels=(0.1, 1.0, 10.0), scale="log")
SEARCHES = {
    "tpe": Search(sampler="tpe", trials=30, budget=1e13, batch=4),
    "cmaes": Search(sampler="cmaes", trials=30, budget=1e13, batch=4),
    "random": Search(sampler="random", trials=30, budget=1e13, batch=4),
}
Views = dict[str, RunView]


def searching(design: Search, **changes: Any) -> Study:
    return study_of(design, axes=(WIDE, DECAY), **changes)


def loss_of(planned: Planned) -> float:
    """Least where the rate is twice the recipe's and the decay is 0.1."""
    rate, decay = (float(planned.trial.levels[axis.path]) for axis in (WIDE, DECAY))
    return 3 + abs(rate / 2 - 1) + abs(decay / 0.1 - 1) + planned.trial.seed / 1000


def ended(planned: Sequence[Planned]) -> Views:
    views: Views = {}
    for p in planned:
        result = fake_trainer.result(p.spec, 1.0)
        result = result.model_copy(update={"state": "DONE", "nats_per_token": loss_of(p)})
        views[p.run_id] = RunView(p.run_id, p.spec, "DONE", 1, result=result)
    return views


def searched(study: Study, folder: Path, *, forget: Sequence[int] = ()) -> list[Planned]:
    """Grow a search to its end, its runs done at once; at some batches by a driver new to it."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    planned = expand(study, ledger.record.batches)
    while more := grow(study, planned, ended(planned), ledger, lambda said: None):
        planned += more
        if len(ledger.record.batches) in forget:
            ledger = Ledger(folder / "ledger.jsonl")
            planned = expand(study, ledger.record.batches)
    return planned


def points(planned: Sequence[Planned]) -> list[tuple[object, ...]]:
    return [(p.trial.number, p.run_id, dict(p.trial.levels), p.trial.seed) for p in planned]


@pytest.fixture(scope="module", params=SEARCHES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_search_that_is_taken_up_again_proposes_the_same_points(
    kind: str, tmp_path: Path
) -> None:
    study = searching(SEARCHES[kind])
    whole = searched(study, tmp_path / "whole")
    assert len(whole) == 30
    assert len({p.run_id for p in whole}) == 30
    torn = searched(study, tmp_path / "torn", forget=(1, 3, 4, 6))
    assert points(torn) == points(whole)
    assert read(tmp_path / "torn" / "ledger.jsonl").batches == (
        read(tmp_path / "whole" / "ledger.jsonl").batches
    )


def test_every_batch_follows_from_the_runs_that_it_saw(kind: str, tmp_path: Path) -> None:
    study = searching(SEARCHES[kind])
    whole = searched(study, tmp_path)
    batches = read(tmp_path / "ledger.jsonl").batches
    for i, batch in enumerate(batches):
        planned = expand(study, batches[:i])
        views = {name: run for name, run in ended(whole).items() if name in batch.saw}
        assert next_batch(study, SEARCHES[kind], planned, views, batches[:i]) == batch


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_search_that_learns_comes_nearer_than_chance(sampler: str, tmp_path: Path) -> None:
    def least(name: str) -> float:
        found = searched(searching(SEARCHES[name]), tmp_path / name)
        return sum(sorted(map(loss_of, found[-12:]))[:6])

    assert least(sampler) < least("random")


def test_more_trials_keep_those_that_were_asked_for(tmp_path: Path) -> None:
    few = SEARCHES["tpe"].model_copy(update={"trials": 14})
    before = searched(searching(few), tmp_path)
    after = searched(searching(SEARCHES["tpe"]), tmp_path)
    assert points(after)[:14] == points(before)
    assert len(after) == 30


def test_a_changed_recipe_keeps_no_answer_of_the_old_one(tmp_path: Path) -> None:
    study = searching(SEARCHES["tpe"])
    searched(study, tmp_path)
    batches = read(tmp_path / "ledger.jsonl").batches
    assert len(expand(study, batches)) == 30
    assert len(expand(with_values(study, {"base.optim.beta2": 0.99}), batches)) == 4
    other = study_of(SEARCHES["tpe"], axes=(RATE, SWITCH))
    assert len(expand(other, batches)) == 4


def test_points_that_break_a_constraint_are_replaced_kept_in_mind_and_named(
    tmp_path: Path,
) -> None:
    limit = Constraint(measure="optim.weight_decay", at_most=0.1)
    study = searching(SEARCHES["tpe"], constraints=(limit,))
    found = searched(study, tmp_path)
    assert len(found) == 30
    assert all(measured(p.spec, "optim.weight_decay") <= 0.1 for p in found)
    left_out = survey(study, read(tmp_path / "ledger.jsonl").batches).left_out
    assert left_out
    assert all("optim.weight_decay=" in one.why for one in left_out)
    # Half of all points break it: the sampler has learnt where.
    late = read(tmp_path / "ledger.jsonl").batches[-1].points
    assert sum(float(p.levels[DECAY.path]) > 0.1 for p in late) < len(late) / 2


def test_a_search_without_a_legal_point_left_ends_and_says_so(tmp_path: Path) -> None:
    rates = (0.5, 1.0, 2.0)
    axis = Axis(name="rate", path="lr.scale", levels=rates)
    limit = Constraint(measure="optim.weight_decay", at_most=0.1)
    switch = Axis(name="decay", path="optim.weight_decay", levels=(0.1, 0.2))
    design = Search(trials=6, budget=1e13, batch=2)
    study = study_of(design, axes=(axis, switch), constraints=(limit,))
    found = searched(study, tmp_path)
    assert len(found) == 3
    last = next_batch(study, design, found, ended(found), read(tmp_path / "ledger.jsonl").batches)
    assert last.points == ()
    assert last.why.startswith("ends: 100 proposals in a row repeat a point or break a constraint")


def test_a_point_is_worth_the_mean_over_its_seeds_and_told_when_all_have_ended() -> None:
    design = SEARCHES["random"].model_copy(update={"seeds": (0, 4), "batch": 2})
    study = searching(design)
    planned = expand(study)
    assert [p.trial.seed for p in planned] == [0, 4, 0, 4]
    views = ended(planned)
    least = min(loss_of(p) for p in planned if p.trial.seed == 0) + 0.002
    assert f"least so far {least:.4f}" in next_batch(study, design, planned, views, ()).why
    del views[planned[1].run_id]
    assert "points seen: 1;" in next_batch(study, design, planned, views, ()).why


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (("DONE", "DONE"), (TrialState.COMPLETE, 3.5)),
        (("DONE", "FAILED"), (TrialState.COMPLETE, 3.0)),
        (("DONE", "DIVERGED"), (TrialState.PRUNED, None)),
        (("PRUNED", "DONE"), (TrialState.PRUNED, None)),
        (("FAILED", "CANCELLED"), (TrialState.FAIL, None)),
    ],
)
def test_a_run_without_a_loss_is_told_as_no_number(
    states: tuple[Any, ...], told: tuple[TrialState, float | None]
) -> None:
    planned = expand(searching(SEARCHES["random"]))[:2]
    views = ended(planned)
    for p, loss, state in zip(planned, (3.0, 4.0), states, strict=True):
        run = views[p.run_id]
        assert run.result is not None
        result = run.result.model_copy(update={"nats_per_token": loss})
        views[p.run_id] = replace(run, state=state, result=result if state == "DONE" else None)
    found = outcome([views[p.run_id] for p in planned])
    assert (found.state, found.loss) == told


def test_the_plan_says_what_a_search_may_cost() -> None:
    study = searching(SEARCHES["tpe"])
    said = "\n".join(summary_lines(study, [], Speed()))
    assert "search: 30 points by tpe, 4 at a time; up to 3e+14 FLOPs" in said


SEARCHED = """Search(trials=14, budget=1e12, batch=3, seeds=(0, 1), tokens_per_param=80),
    ),
    constraints=(Constraint(measure="optim.lr", at_most=0.02),),"""
AXES = """axes=(
        Axis(name="activation", path="model.activation", levels=("swiglu", "gelu")),
        Axis(name="rate", path="lr.scale", levels=(0.25, 1.0, 4.0), scale="log"),
    ),"""


def write_search(command: CommandLine) -> None:
    """The small study with a search in the place of its ablation."""
    text = command.study.read_text()
    text = text.replace(
        "OneAtATime(budget=1e12, seeds=(0, 1), tokens_per_param=80),\n    ),", SEARCHED
    )
    line = next(line for line in text.splitlines() if line.startswith("    axes="))
    text = text.replace(line.strip(), AXES).replace(" Axis,", " Axis, Constraint, Search,", 1)
    command.study.write_text(text)


def batches_of(home: Path) -> tuple[Batch, ...]:
    return read(StudyDir(home, "small").ledger).batches


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_with_the_trials_of_one_that_was_not(
    quick: CommandLine, tmp_path: Path
) -> None:
    write_search(quick)
    # One worker: what ends before a batch is asked for does not hang on the machine's speed.
    one = ("cluster.workers=1", HOLD)
    whole = CommandLine(tmp_path / "whole", quick.study)
    code, said = whole.launch(*one)
    assert code == 0, said
    assert "search: 3 points more by tpe" in said
    for count in (1, 3):
        with quick.start("launch", str(quick.study), *one) as driver:
            until(lambda count=count: len(batches_of(quick.home)) >= count, seconds=90)
            driver.kill()
    code, said = quick.launch(*one)
    assert code == 0, said
    study = load(quick.study)
    torn, untorn = (points(expand(study, batches_of(home))) for home in (quick.home, whole.home))
    assert torn == untorn
    assert (
        len([p for p in expand(study, batches_of(quick.home)) if p.trial.design == "search"]) == 28
    )
    assert all(starts(run) == 1 for run in runs(quick.home))
    held = optuna.load_study(
        study_name="small", storage=f"sqlite:///{StudyDir(quick.home, 'small').optuna}"
    )
    assert [t.user_attrs["run_id"] for t in held.trials] == [run for _, run, _, _ in torn]
    assert {t.state for t in held.trials} == {TrialState.COMPLETE}

"""Trials that others left behind are named, the same by whoever looks; nobody else is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import fake_trainer
import pytest
from test_designs import RATE, SWITCH, study_of

from sweeper.designs import expand
from sweeper.layouts import Grid, IsoFLOP, Pruning, Random
from sweeper.planner import Planned
from sweeper.pruning import PRUNERS, Pruner, marks
from sweeper.runs import RunView
from sweeper.study import Study
from train.config import State
from train.runlog import create_run

DESIGN = Random(trials=18, budget=1e13)
LADDER = IsoFLOP(sizes_per_budget=5)


def pruned_study(rule: Pruning | None, *designs: Random | Grid | IsoFLOP) -> Study:
    return study_of(*(designs or (DESIGN,)), axes=(SWITCH, RATE), pruning=rule)


def write(home: Path, planned: Planned, upto: float, loss: float) -> None:
    """The metrics of a run that came so far with this loss; those of before are written over."""
    run = create_run(home, planned.spec)
    lines = [
        json.dumps({"tokens": planned.spec.tokens * percent / 100, "loss": loss})
        for percent in range(1, round(100 * upto) + 1)
    ]
    run.metrics(1).write_text("".join(f"{line}\n" for line in lines))


def seen(
    planned: Sequence[Planned], states: Mapping[int, State] | None = None
) -> dict[str, RunView]:
    views: dict[str, RunView] = {}
    for p in planned:
        state = (states or {}).get(p.trial.number, "RUNNING")
        result = fake_trainer.result(p.spec, 1.0) if state == "DONE" else None
        views[p.run_id] = RunView(p.run_id, p.spec, state, 1, result=result)
    return views


def losses(home: Path, planned: Sequence[Planned], upto: float) -> None:
    """All at one place, each worse than the one before."""
    for p in planned:
        write(home, p, upto, 3 + p.trial.number / 10)


def named(found: Sequence[tuple[str, str]], planned: Sequence[Planned]) -> list[int]:
    by_id = {p.run_id: p.trial.number for p in planned}
    return [by_id[run] for run, _ in found]


def test_marks_run_from_the_first_fraction_by_the_reduction_factor() -> None:
    assert list(marks(Pruning())) == pytest.approx([0.1, 0.3, 0.9])
    assert list(marks(Pruning(min_fraction=0.25, reduction_factor=2))) == [0.25, 0.5]
    assert list(marks(Pruning(kind="median", min_fraction=0.25))) == [0.25, 0.5, 0.75]


def test_successive_halving_lets_the_best_third_go_on(tmp_path: Path) -> None:
    study = pruned_study(Pruning())
    planned = expand(study)
    pruner = Pruner(study, tmp_path / "runs")
    losses(tmp_path, planned, 0.05)
    assert pruner.look(planned, seen(planned)) == []
    losses(tmp_path, planned, 0.1)
    found = pruner.look(planned, seen(planned))
    # They came in the order of their losses, and each of the first six was of the best third then.
    assert set(range(6, 18)) <= set(named(found, planned))
    assert 0 not in named(found, planned)
    assert found[-1][1] == (
        "asha: 4.7000 nats/token at 10% of its tokens is behind other trials of random at 1e+13 "
        "FLOPs"
    )


@pytest.mark.parametrize("kind", PRUNERS)
def test_a_pruner_that_starts_anew_names_the_same_trials(kind: str, tmp_path: Path) -> None:
    study = pruned_study(Pruning.model_validate({"kind": kind}))
    planned = expand(study)
    states: dict[int, State] = dict.fromkeys(range(9), "DONE")
    watching = Pruner(study, tmp_path / "runs")
    for p in planned[:9]:
        write(tmp_path, p, 1.0, 3 + p.trial.number / 10)
    for upto in (0.05, 0.1, 0.2, 0.4):
        losses(tmp_path, planned[9:], upto)
        found = watching.look(planned, seen(planned, states))
    assert found
    assert set(named(found, planned)) <= set(range(9, 18))
    assert Pruner(study, tmp_path / "runs").look(planned, seen(planned, states)) == found
    assert watching.look(planned, seen(planned, states)) == found


@pytest.mark.parametrize("kind", PRUNERS)
def test_the_best_trial_is_never_ended(kind: str, tmp_path: Path) -> None:
    study = pruned_study(Pruning.model_validate({"kind": kind}))
    planned = expand(study)
    states: dict[int, State] = dict.fromkeys(range(9, 18), "DONE")
    losses(tmp_path, planned[9:], 1.0)
    losses(tmp_path, planned[:1], 0.95)
    assert (
        Pruner(study, tmp_path / "runs").look(planned[:1] + planned[9:], seen(planned, states))
        == []
    )


def test_a_trial_that_ended_is_not_named_again_and_still_counts(tmp_path: Path) -> None:
    study = pruned_study(Pruning())
    planned = expand(study)
    losses(tmp_path, planned, 0.1)
    pruner = Pruner(study, tmp_path / "runs")
    first = named(pruner.look(planned, seen(planned)), planned)
    states: dict[int, State] = dict.fromkeys(first, "PRUNED")
    assert pruner.look(planned, seen(planned, states)) == []
    left = {p.run_id for p in planned if p.trial.number not in first}
    assert left
    assert pruner.curves.keys() == {p.run_id for p in planned}


def test_only_trials_of_the_same_design_and_budget_compete(tmp_path: Path) -> None:
    grid = Grid(budgets=(1e13, 4e13), seeds=(0, 1, 2))
    study = pruned_study(Pruning(designs=("grid",)), grid)
    planned = expand(study)
    for p in planned:
        write(tmp_path, p, 0.1, 3.0 if p.trial.budget == 1e13 else 9.0)
    assert Pruner(study, tmp_path / "runs").look(planned, seen(planned)) == []


def test_a_ladder_is_left_alone_unless_named(tmp_path: Path) -> None:
    for rule, any_named in ((Pruning(), False), (Pruning(designs=("isoflop",)), True)):
        study = pruned_study(rule, LADDER)
        planned = expand(study)
        losses(tmp_path, planned, 0.3)
        assert bool(Pruner(study, tmp_path / "runs").look(planned, seen(planned))) == any_named


def test_a_run_that_another_design_needs_is_left_alone(tmp_path: Path) -> None:
    grid = Grid(budgets=(1e13,))
    study = study_of(
        Random(trials=6, budget=1e13),
        grid,
        axes=(SWITCH, RATE.model_copy(update={"scale": "categorical"})),
        pruning=Pruning(),
    )
    planned = expand(study)
    assert len({p.run_id for p in planned}) == 6
    losses(tmp_path, planned, 0.3)
    assert Pruner(study, tmp_path / "runs").look(planned, seen(planned)) == []


def test_a_study_without_pruning_ends_nothing(tmp_path: Path) -> None:
    study = pruned_study(None)
    planned = expand(study)
    losses(tmp_path, planned, 0.3)
    assert Pruner(study, tmp_path / "runs").look(planned, seen(planned)) == []

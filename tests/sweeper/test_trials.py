"""Optuna's storage: asked and told through Optuna, readable by its tools, made again at need."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fake_trainer
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from sweeper.axes import Axis
from sweeper.curves import Reached
from sweeper.designs import expand
from sweeper.layouts import Random
from sweeper.overrides import with_values
from sweeper.planner import Planned
from sweeper.runs import RunView
from sweeper.study import Study
from sweeper.trials import OptunaTrials

Views = dict[str, RunView]


@pytest.fixture
def planned(study: Study) -> list[Planned]:
    return expand(study)


def views_of(planned: list[Planned], finished: int = 0) -> Views:
    """The first `finished` runs done, the others not begun."""
    views: Views = {}
    for p in planned:
        done = p.trial.number < finished or (p.run_id in views and views[p.run_id].finished)
        result = fake_trainer.result(p.spec, 1.0) if done else None
        state = result.state if result else "PLANNED"
        views[p.run_id] = RunView(p.run_id, p.spec, state, int(done), result=result)
    return views


Opener = Callable[..., OptunaTrials]


@pytest.fixture
def opened(study: Study, planned: list[Planned], tmp_path: Path) -> Iterator[Opener]:
    """Opens the storage, as a driver that starts does; every one is closed at the end."""
    every: list[OptunaTrials] = []

    def open_it(views: Views | None = None, of: list[Planned] | None = None) -> OptunaTrials:
        of = planned if of is None else of
        every.append(OptunaTrials(tmp_path / "optuna.db", study, of, views or views_of(of)))
        return every[-1]

    yield open_it
    for one in every:
        one.close()


def as_others_see_it(folder: Path, name: str = "small") -> optuna.Study:
    """The study as optuna-dashboard and Optuna's own tools open it."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")


def test_every_trial_is_asked_with_its_own_values(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    opened().ask(planned)
    seen = as_others_see_it(tmp_path)
    assert [trial.params for trial in seen.trials] == [p.trial.params() for p in planned]
    assert {trial.state for trial in seen.trials} == {TrialState.RUNNING}
    assert seen.direction == optuna.study.StudyDirection.MINIMIZE
    assert seen.metric_names == ["val/nats_per_token"]


def test_losses_are_told_and_what_gave_none_fails_by_name(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    views = views_of(planned, finished=3)
    wrong = planned[1].run_id
    views[wrong] = replace(views[wrong], state="DIVERGED", result=None)
    trials = opened()
    trials.ask(planned)
    trials.tell(views)
    told = as_others_see_it(tmp_path).trials
    assert told[0].value == fake_trainer.law(planned[0].spec)
    assert (told[1].state, told[1].user_attrs["state"]) == (TrialState.FAIL, "DIVERGED")
    assert (told[2].state, told[2].user_attrs["run_id"]) == (TrialState.COMPLETE, planned[2].run_id)
    assert told[3].state == TrialState.RUNNING


def test_a_second_driver_asks_and_tells_only_what_is_missing(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    first = opened()
    first.ask(planned)
    first.tell(views_of(planned, 4))
    before = as_others_see_it(tmp_path).trials
    again = opened(views_of(planned, 6))
    again.ask(planned)
    again.tell(views_of(planned, 6))
    after = as_others_see_it(tmp_path).trials
    assert [t.datetime_complete for t in after[:4]] == [t.datetime_complete for t in before[:4]]
    assert [t.datetime_start for t in after] == [t.datetime_start for t in before]
    assert [t.state.name for t in after[4:7]] == ["COMPLETE", "COMPLETE", "RUNNING"]


def test_trials_that_a_design_asks_for_later_follow_those_that_are_there(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    opened(of=planned[:4]).ask(planned[:4])
    before = as_others_see_it(tmp_path).trials
    opened().ask(planned)
    after = as_others_see_it(tmp_path).trials
    assert [t.datetime_start for t in after[:4]] == [t.datetime_start for t in before]
    assert [t.user_attrs["run_id"] for t in after] == [p.run_id for p in planned]


def test_a_trial_that_somebody_else_put_there_makes_the_storage_again(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    opened().ask(planned[:1])
    as_others_see_it(tmp_path).ask()
    opened().ask(planned)
    assert [t.params for t in as_others_see_it(tmp_path).trials] == [
        p.trial.params() for p in planned
    ]


def test_a_pruned_trial_is_told_with_the_losses_that_it_passed(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    views = views_of(planned, 2)
    name = planned[0].run_id
    views[name] = replace(views[name], state="PRUNED", result=None)
    trials = opened()
    trials.ask(planned)
    trials.tell(views, {name: [Reached(0.1, 4.5), Reached(0.3, 4.0)]})
    told = as_others_see_it(tmp_path).trials
    assert (told[0].state, told[0].value) == (TrialState.PRUNED, None)
    assert told[0].intermediate_values == {10: 4.5, 30: 4.0}
    assert told[1].state == TrialState.COMPLETE


def test_an_axis_with_a_scale_is_a_range_to_optuna(study: Study, tmp_path: Path) -> None:
    rate = Axis(name="rate", path="lr.scale", levels=(0.5, 1.0, 2.0), scale="log")
    drawn = Study.model_validate(
        {**dict(study), "axes": (rate,), "designs": (Random(trials=5, budget=1e12),)}
    )
    planned = expand(drawn)
    trials = OptunaTrials(tmp_path / "optuna.db", drawn, planned, {})
    trials.ask(planned)
    trials.close()
    seen = as_others_see_it(tmp_path).trials
    assert [t.params["lr.scale"] for t in seen] == [p.trial.levels["lr.scale"] for p in planned]
    assert seen[0].distributions["lr.scale"] == FloatDistribution(0.5, 2.0, log=True)


def content(folder: Path) -> list[tuple[object, ...]]:
    return [
        (t.number, t.state, t.params, t.values, t.user_attrs)
        for t in as_others_see_it(folder).trials
    ]


@pytest.mark.parametrize("damage", ["absent", "garbage", "truncated"])
def test_a_lost_storage_is_made_again_with_the_same_content(
    opened: Opener, planned: list[Planned], tmp_path: Path, damage: str
) -> None:
    trials = opened()
    trials.ask(planned)
    trials.tell(views_of(planned, 5))
    before = content(tmp_path)
    trials.close()
    path = tmp_path / "optuna.db"
    whole = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(b"no database " * 99 if damage == "garbage" else whole[:10_000])
    again = opened(views_of(planned, 5))
    again.ask(planned)
    again.tell(views_of(planned, 5))
    assert content(tmp_path) == before


def test_a_storage_that_contradicts_the_runs_is_made_again(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    first = opened()
    first.ask(planned)
    failed = views_of(planned, 1)
    name = planned[0].run_id
    failed[name] = replace(failed[name], state="FAILED", result=None)
    first.tell(failed)
    mended = views_of(planned, 1)
    second = opened(mended)
    second.ask(planned)
    second.tell(mended)
    assert as_others_see_it(tmp_path).trials[0].value == fake_trainer.law(planned[0].spec)


def test_a_changed_study_makes_its_storage_again(
    opened: Opener, study: Study, planned: list[Planned], tmp_path: Path
) -> None:
    opened().ask(planned)
    changed = expand(with_values(study, {"base.lr.scale": 2}))
    with_changed = opened(of=changed)
    with_changed.study = with_values(study, {"base.lr.scale": 2})
    with_changed.ask(changed)
    seen = {trial.user_attrs["run_id"] for trial in as_others_see_it(tmp_path).trials}
    assert seen == {p.run_id for p in changed}


def test_the_dashboard_serves_the_study(
    opened: Opener, planned: list[Planned], tmp_path: Path
) -> None:
    opened().ask(planned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optuna_dashboard import wsgi

        app = wsgi(optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/optuna.db"))
    started: list[str] = []
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "wsgi.errors": None}
    body = b"".join(app(request, lambda status, headers, *rest: started.append(status)))
    assert started == ["200 OK"]
    assert b'"small"' in body

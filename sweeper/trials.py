"""The study as Optuna holds it: every trial asked for and told through a plain Optuna storage.

The storage is derived: where it is missing, damaged or contradicts the record it is made again.
"""

import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeper.designs import Planned, plan_trial
from sweeper.runs import RunView
from sweeper.study import Study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    # A derived file need not survive a power cut, and a commit a parameter is slow on disks.
    connection.execute("PRAGMA synchronous=OFF")
    return connection


def _attributes(planned: Planned) -> dict[str, Any]:
    trial = planned.trial
    return {
        "number": trial.number,
        "run_id": planned.run_id,
        "design": trial.design,
        "values": dict(trial.values),
    }


def _contradicts(
    held: Sequence[FrozenTrial], planned: Sequence[Planned], views: Mapping[str, RunView]
) -> bool:
    """Whether the storage holds other trials than the plan, or another outcome than the runs."""
    if len(held) > len(planned):
        return True
    for trial, wanted in zip(held, planned, strict=False):
        attributes = {key: value for key, value in trial.user_attrs.items() if key != "state"}
        if attributes != _attributes(wanted):
            return True
        if trial.state != TrialState.WAITING and trial.params != wanted.trial.params():
            return True
        told = trial.user_attrs.get("state") if trial.state.is_finished() else None
        if told not in (None, views[wanted.run_id].state):
            return True
    return False


def _space(study: Study, planned: Sequence[Planned]) -> dict[str, BaseDistribution]:
    budgets = [p.trial.budget for p in planned]
    sizes = [p.trial.params_target for p in planned]
    levels = {axis.path: CategoricalDistribution(axis.levels) for axis in study.axes}
    return {
        "budget": FloatDistribution(min(budgets), max(budgets), log=True),
        "seed": IntDistribution(0, 2**31 - 1),
        "params_target": FloatDistribution(min(sizes), max(sizes), log=True),
        **levels,
    }


class OptunaTrials:
    """The trials of one study in its storage; a trial has the same number here and there."""

    def __init__(
        self,
        path: Path,
        study: Study,
        planned: Sequence[Planned],
        views: Mapping[str, RunView],
    ) -> None:
        self.study = study
        try:
            self._open(path)
            stale = _contradicts(self.held.get_trials(deepcopy=False), planned, views)
        except (SQLAlchemyError, sqlite3.DatabaseError, OptunaError, RuntimeError):
            stale = True
        if stale:
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink()
            self._open(path)

    def _open(self, path: Path) -> None:
        self.storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"creator": lambda: _connect(path)}
        )
        self.held = optuna.create_study(
            storage=self.storage,
            study_name=self.study.name,
            direction="minimize",
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.held.set_metric_names([self.study.metric])

    def ask(self, planned: Sequence[Planned]) -> list[Planned]:
        """Ask for every trial that was not asked for yet; returns the runs of the values asked."""
        space = _space(self.study, planned)
        held = self.held.get_trials(deepcopy=False)
        # Optuna hands out its queue in the order of numbers, so what was asked is a prefix. One is
        # queued when it is asked for: every ask reads the whole queue.
        asked = sum(trial.state != TrialState.WAITING for trial in held)
        for place, wanted in enumerate(planned[asked:], asked):
            if place >= len(held):
                self.held.enqueue_trial(wanted.trial.params(), user_attrs=_attributes(wanted))
            self.held.ask({name: space[name] for name in wanted.trial.params()})
        values = [trial.params for trial in self.held.get_trials(deepcopy=False)]
        return [
            plan_trial(self.study, wanted.trial.with_params(params))
            for wanted, params in zip(planned, values, strict=True)
        ]

    def tell(self, views: Mapping[str, RunView]) -> None:
        """Tell what finished and was not told: losses of DONE runs; the others fail, by name."""
        for trial in self.held.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            run = views.get(trial.user_attrs["run_id"])
            if run is not None and run.finished:
                self._tell(trial.number, run)

    def _tell(self, number: int, run: RunView) -> None:
        study_id = self.storage.get_study_id_from_name(self.study.name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        self.storage.set_trial_user_attr(trial_id, "state", run.state)
        loss = run.result.nats_per_token if run.result else None
        if run.state == "DONE" and loss is not None:
            self.held.tell(number, loss)
        else:
            self.held.tell(number, state=TrialState.FAIL)

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()

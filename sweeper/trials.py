"""The study as Optuna holds it: a plain Optuna storage for optuna-dashboard and Optuna's own tools.

The storage is derived: where it is missing, damaged or contradicts the record it is made again.
Optuna makes the file; its rows are written here, all of a change in one transaction: through
Optuna each trial costs some fifteen of them, and ten thousand trials minutes.
"""

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.exceptions import ExperimentalWarning, OptunaError
from sqlalchemy.exc import SQLAlchemyError

from sweeper.curves import Curves
from sweeper.distributions import distribution
from sweeper.planner import Planned
from sweeper.runs import RunView
from sweeper.study import Study

optuna.logging.set_verbosity(optuna.logging.WARNING)

# Optuna counts steps in whole numbers.
PERCENT = 100
# Optuna's names of the states in which a trial ends without a loss; the rest FAIL.
ENDS = {"PRUNED": "PRUNED"}
Row = tuple[object, ...]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    # A derived file need not survive a power cut.
    connection.execute("PRAGMA synchronous=OFF")
    return connection


def _create(path: Path, study: Study) -> None:
    """Have Optuna make the storage and the study in it, where they are not there."""
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{path}", engine_kwargs={"creator": lambda: _connect(path)}
    )
    try:
        held = optuna.create_study(
            storage=storage, study_name=study.name, direction="minimize", load_if_exists=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            held.set_metric_names([study.metric])
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _attributes(planned: Planned) -> dict[str, str]:
    """What a trial is shown with; the digest is of all that was asked, to find a changed one by."""
    trial = planned.trial
    shown: dict[str, Any] = {
        "number": trial.number,
        "run_id": planned.run_id,
        "design": trial.design,
        "values": dict(trial.values),
    }
    content = json.dumps([shown, trial.params()], sort_keys=True)
    shown["digest"] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {key: json.dumps(value) for key, value in shown.items()}


def _space(study: Study, planned: Sequence[Planned]) -> dict[str, BaseDistribution]:
    budgets = [p.trial.budget for p in planned]
    sizes = [p.trial.params_target for p in planned]
    return {
        "budget": FloatDistribution(min(budgets), max(budgets), log=True),
        "seed": IntDistribution(0, 2**31 - 1),
        "params_target": FloatDistribution(min(sizes), max(sizes), log=True),
        **{axis.path: distribution(axis) for axis in study.axes},
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


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
        # By number: Optuna's id of each trial that was asked, and the run of those not told yet.
        self._ids: list[int] = []
        self._running: dict[int, str] = {}
        try:
            self._open(path)
            stale = self._contradicts(planned, views)
        except (SQLAlchemyError, sqlite3.Error, OptunaError, RuntimeError, ValueError, TypeError):
            stale = True
        if stale:
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink()
            self._ids, self._running = [], {}
            self._open(path)

    def _open(self, path: Path) -> None:
        _create(path, self.study)
        self._connection = _connect(path)
        named = "select study_id from studies where study_name = ?"
        (self._study_id,) = self._connection.execute(named, (self.study.name,)).fetchone()

    def _contradicts(self, planned: Sequence[Planned], views: Mapping[str, RunView]) -> bool:
        """Whether the storage holds other trials than the plan, or other outcomes than the runs."""
        rows = self._connection.execute(
            "select t.trial_id, t.number, t.state, d.value_json, s.value_json from trials t "
            "left join trial_user_attributes d on d.trial_id = t.trial_id and d.key = 'digest' "
            "left join trial_user_attributes s on s.trial_id = t.trial_id and s.key = 'state' "
            "where t.study_id = ? order by t.number",
            (self._study_id,),
        ).fetchall()
        if len(rows) > len(planned):
            return True
        for (trial_id, number, state, digest, told), wanted in zip(rows, planned, strict=False):
            running = state == "RUNNING"
            if number != len(self._ids) or digest != _attributes(wanted)["digest"]:
                return True
            if not running and told != json.dumps(views[wanted.run_id].state):
                return True
            self._ids.append(trial_id)
            if running:
                self._running[number] = wanted.run_id
        return False

    def ask(self, planned: Sequence[Planned]) -> None:
        """Put down as running every trial that is not there yet."""
        new = planned[len(self._ids) :]
        if not new:
            return
        space = _space(self.study, planned)
        texts = {name: distribution_to_json(one) for name, one in space.items()}
        first, now = self._next_id(), _now()
        ids = range(first, first + len(new))
        params = [
            (trial_id, name, space[name].to_internal_repr(value), texts[name])
            for trial_id, p in zip(ids, new, strict=True)
            for name, value in p.trial.params().items()
        ]
        with self._connection:
            self._insert(
                "trials (trial_id, number, study_id, state, datetime_start)",
                [
                    (trial_id, p.trial.number, self._study_id, "RUNNING", now)
                    for trial_id, p in zip(ids, new, strict=True)
                ],
            )
            self._insert(
                "trial_params (trial_id, param_name, param_value, distribution_json)", params
            )
            self._describe((i, _attributes(p)) for i, p in zip(ids, new, strict=True))
        self._ids += ids
        self._running |= {p.trial.number: p.run_id for p in new}

    def tell(self, views: Mapping[str, RunView], curves: Curves | None = None) -> None:
        """Tell what finished and was not told: losses of DONE runs; the others end by name.

        With `curves`, the losses that runs passed on their way are told too, at percents of their
        tokens.
        """
        ended = [
            (number, views[run])
            for number, run in self._running.items()
            if run in views and views[run].finished
        ]
        if not ended:
            return
        with self._connection:
            self._end(ended)
            self._describe((self._ids[n], {"state": json.dumps(run.state)}) for n, run in ended)
            passed = [
                (self._ids[number], round(PERCENT * point.fraction), point.loss, "FINITE")
                for number, run in ended
                for point in (curves or {}).get(run.run_id, ())
            ]
            self._insert(
                "trial_intermediate_values "
                "(trial_id, step, intermediate_value, intermediate_value_type)",
                passed,
            )
        for number, _ in ended:
            del self._running[number]

    def _end(self, ended: Sequence[tuple[int, RunView]]) -> None:
        losses = {
            number: run.result.nats_per_token
            for number, run in ended
            if run.state == "DONE" and run.result and run.result.nats_per_token is not None
        }
        now = _now()
        self._connection.executemany(
            "update trials set state = ?, datetime_complete = ? where trial_id = ?",
            [
                ("COMPLETE" if n in losses else ENDS.get(run.state, "FAIL"), now, self._ids[n])
                for n, run in ended
            ],
        )
        self._insert(
            "trial_values (trial_id, objective, value, value_type)",
            [(self._ids[n], 0, loss, "FINITE") for n, loss in losses.items()],
        )

    def _next_id(self) -> int:
        found = self._connection.execute("select coalesce(max(trial_id), 0) + 1 from trials")
        return int(found.fetchone()[0])

    def _describe(self, attributes: Iterable[tuple[int, Mapping[str, str]]]) -> None:
        rows = [(i, key, text) for i, some in attributes for key, text in some.items()]
        self._insert("trial_user_attributes (trial_id, key, value_json)", rows)

    def _insert(self, into: str, rows: Sequence[Row]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._connection.executemany(f"insert into {into} values ({marks})", rows)

    def close(self) -> None:
        self._connection.close()

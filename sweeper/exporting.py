"""Runs in the form of other trackers, written by their own packages where these are installed.

Each run keeps its id; its steps become the tracker's, its evaluations numbers beside them.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from analysis import store
from sweeper.errors import UserError

MEASURED = ("loss", "grad_norm", "lr", "tokens", "tokens_per_second")
# What MLflow takes at once.
MOST_PARAMS, MOST_METRICS = 100, 1000


Item = TypeVar("Item")


@dataclass(frozen=True)
class Exported:
    """One run: its numbers by step, those of its end, and what it was asked to do."""

    run_id: str
    state: str
    started: float
    steps: tuple[Mapping[str, Any], ...]
    evals: Mapping[str, float]
    spec: Mapping[str, Any]

    @property
    def numbers(self) -> Iterator[tuple[int, str, float, float]]:
        """Step, name, value, and time (seconds since 1970) of every number."""
        last, moment = 0, self.started
        for row in self.steps:
            last, moment = row["step"], self.started + (row["seconds"] or 0.0)
            values = {name: row[name] for name in MEASURED} | json.loads(row["others"] or "{}")
            yield from ((last, name, v, moment) for name, v in values.items() if v is not None)
        yield from ((last, f"eval/{name}", v, moment) for name, v in self.evals.items())


Writer = Callable[[Exported], None]


def check(name: str, folder: Path) -> None:
    """Refuse, in a UserError, a tracker without its package or a folder that is not empty."""
    try:
        import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} is not installed; pip install {name}, or export to parquet: --to runs.parquet"
        ) from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--{name} {folder}: is not an empty folder; give a new one")


def write(con: store.Connection, study: str, name: str, folder: Path) -> int:
    """Write all runs that were started in a tracker's form; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count, add = 0, EXPORTERS[name](folder.resolve(), study)
    for run in _exported(con):
        add(run)
        count += 1
    return count


def _exported(con: store.Connection) -> Iterator[Exported]:
    """All runs of the store that were started, one after another."""
    started = (
        "select r.*, coalesce((select min(started) from attempts a where a.run_id = r.run_id), 0) "
        "as started from runs r where attempts > 0 or finished order by run_id"
    )
    for run in store.query(con, started).iter_rows(named=True):
        steps = store.query(con, "from steps where run_id = ? order by step", [run["run_id"]])
        evals = store.query(
            con, "select metric, value from evals where run_id = ?", [run["run_id"]]
        )
        spec = json.loads(run["spec"] or "{}")
        numbers = dict(evals.rows())
        said = (run["run_id"], run["state"], run["started"])
        yield Exported(*said, tuple(steps.to_dicts()), numbers, spec)


def _flat(spec: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings by dotted path, as text."""
    found: dict[str, str] = {}
    for name, value in spec.items():
        path = f"{before}{name}"
        if isinstance(value, dict):
            found |= _flat(cast("dict[str, Any]", value), f"{path}.")
        else:
            found[path] = str(value)
    return found


def _tensorboard(folder: Path, study: str) -> Writer:
    files = import_module("tensorboard.summary.writer.event_file_writer")
    event = import_module("tensorboard.compat.proto.event_pb2")
    summary = import_module("tensorboard.compat.proto.summary_pb2")

    def add(run: Exported) -> None:
        file = files.EventFileWriter(str(folder / run.run_id))
        for step, name, value, moment in run.numbers:
            one = summary.Summary.Value(tag=name, simple_value=value)
            content = summary.Summary(value=[one])
            file.add_event(event.Event(step=step, wall_time=moment, summary=content))
        file.close()

    return add


def _mlflow(folder: Path, study: str) -> Writer:
    # MLflow keeps plain files only for who says so; its database would want more packages.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow, entities = import_module("mlflow"), import_module("mlflow.entities")
    client = mlflow.MlflowClient(tracking_uri=folder.as_uri())
    experiment = client.create_experiment(study)

    def add(run: Exported) -> None:
        made = client.create_run(experiment, int(run.started * 1000), run_name=run.run_id)
        name = made.info.run_id
        for pairs in batched(_flat(run.spec).items(), MOST_PARAMS):
            client.log_batch(name, params=[entities.Param(*pair) for pair in pairs])
        for numbers in batched(run.numbers, MOST_METRICS):
            metrics = [entities.Metric(n, v, int(at * 1000), step) for step, n, v, at in numbers]
            client.log_batch(name, metrics=metrics)
        client.set_terminated(name, "FAILED" if run.state == "FAILED" else "FINISHED")

    return add


def _wandb(folder: Path, study: str) -> Writer:
    wandb = import_module("wandb")
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)

    def add(run: Exported) -> None:
        about = {"project": study, "id": run.run_id, "name": run.run_id, "config": dict(run.spec)}
        made = wandb.init(mode="offline", dir=str(folder), settings=quiet, **about)
        for step, name, value, _ in run.numbers:
            made.log({name: value}, step=step)
        made.finish()

    return add


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


# By option, which is the name of the package too.
EXPORTERS: dict[str, Callable[[Path, str], Writer]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}

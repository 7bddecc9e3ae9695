"""Runs in the form of other trackers: refused without their packages, whole with them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import store
from sweeper import exporting
from sweeper.errors import UserError

LINES = [
    {"step": n, "tokens": n * 64, "loss": 4.0 - n, "grad_norm": 1.0, "lr": 1e-3}
    | {"tokens_per_second": 100.0, "seconds": float(n)}
    for n in (1, 2)
]


@pytest.fixture
def con(tmp_path: Path) -> Iterator[store.Connection]:
    """A store of two runs that were started and one that was not."""
    for run_id in ("a", "b"):
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seed": 3, "optim": {"lr": 1e-3}}))
        (folder / "attempt.1.json").write_text(json.dumps({"number": 1, "started": 1000.0}))
        (folder / "metrics.1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LINES))
    result = {"run_id": "a", "state": "DONE", "nats_per_token": 2.5}
    (tmp_path / "runs" / "a" / "result.json").write_text(json.dumps(result))
    with store.connect(tmp_path / "study.duckdb") as connection:
        states = dict.fromkeys("ab", ("RUNNING", "")) | {"c": ("PLANNED", "")}
        store.ingest(connection, tmp_path / "runs", states)
        yield connection


@pytest.mark.parametrize("name", exporting.EXPORTERS)
def test_a_tracker_that_is_not_installed_is_refused_with_the_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{name} is not installed; pip install {name}, or export"):
        exporting.check(name, tmp_path / "new")


def test_a_folder_that_holds_something_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", sys)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"is not an empty folder; give a new one"):
        exporting.check("wandb", tmp_path)


def test_tensorboard_reads_every_step(con: store.Connection, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert exporting.write(con, "s", "tensorboard", tmp_path / "tb") == 2
    events = reader.EventAccumulator(str(tmp_path / "tb" / "a"))
    events.Reload()
    assert [(e.step, e.value, e.wall_time) for e in events.Scalars("loss")] == [
        (1, 3.0, 1001.0),
        (2, 2.0, 1002.0),
    ]
    assert [(e.step, e.value) for e in events.Scalars("eval/nats_per_token")] == [(2, 2.5)]


def test_mlflow_finds_every_run_with_its_settings(con: store.Connection, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert exporting.write(con, "s", "mlflow", tmp_path / "ml") == 2
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "ml").as_uri())
    experiment = client.get_experiment_by_name("s").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert sorted(runs) == ["a", "b"]
    assert runs["a"].data.params == {"seed": "3", "optim.lr": "0.001"}
    history = client.get_metric_history(runs["a"].info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 3.0), (2, 2.0)]


def test_wandb_has_a_folder_for_every_run(con: store.Connection, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    assert exporting.write(con, "s", "wandb", tmp_path / "wb") == 2
    assert len(list((tmp_path / "wb").glob("wandb/offline-run-*/run-*.wandb"))) == 2

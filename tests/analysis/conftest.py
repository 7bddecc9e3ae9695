"""A simulated study, at whatever stage a test wants it."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis import forecast, store
from analysis.imported import ingest
from analysis.runs import prepare
from tests.analysis import ladders

SURFACE = (1.2, 12.0, 30.0, 0.28, 0.25)
BUDGETS = (1e11, 2.5e11, 6e11, 1.6e12)
TARGET = 1e13

Study = Callable[..., store.Connection]


def _ladder(runs: Path, noise: float) -> list[dict[str, Any]]:
    """Trials of a ladder whose run7 diverged, and their run directories."""
    trials: list[dict[str, Any]] = []
    points = ladders.ladder(BUDGETS, noise=noise, surface=SURFACE, spread=3.0)
    for number, row in enumerate(points.iter_rows(named=True)):
        lost = row["run_id"] == "run7"
        result = {"tokens": int(row["tokens"]), "params_active": int(row["params"])}
        result |= {"flops": 6 * row["params"] * row["tokens"]}
        result |= {"state": "DIVERGED" if lost else "DONE"}
        result |= {"nats_per_token": None if lost else row["loss"]}
        metrics = {1: [ladders.step(n, row["loss"] + 3 / n) for n in range(1, 9)]}
        ladders.write_run(
            runs, row["run_id"], spec={"budget": row["budget"]}, result=result, metrics=metrics
        )
        trials.append({"design": "isoflop", "budget": row["budget"], "seed": 0, "values": {}})
        trials[-1] |= {"number": number, "run_id": row["run_id"]}
    return trials


def _ablation(runs: Path, first: int) -> list[dict[str, Any]]:
    """Trials of one axis with three seeds; gelu is worse by .03, relu2 by nothing."""
    trials: list[dict[str, Any]] = []
    for seed in range(3):
        for level, shift in (("swiglu", 0.0), ("gelu", 0.03), ("relu2", 0.0)):
            run_id, wobble = f"{level}{seed}", 0.002 * ((seed * 7 + len(level)) % 3 - 1)
            loss = 2.5 + 0.01 * seed + shift + wobble
            ladders.write_run(runs, run_id, result={"nats_per_token": loss}, spec={"seed": seed})
            values = {"axis": "activation", "level": level, "baseline": level == "swiglu"}
            trials.append({"design": "one_at_a_time", "budget": 2.5e11, "seed": seed})
            trials[-1] |= {"number": first + len(trials), "run_id": run_id, "values": values}
    return trials


def _promote(
    con: store.Connection, runs: Path, name: str, states: dict[str, tuple[str, str]]
) -> None:
    said = forecast.panel(prepare(store.points(con, name)), draws=200).at(TARGET)
    stages = {"p0": ("pretrain", said.loss * 1.01), "p1": ("sft", 1.9)}
    for run_id, (stage, loss) in stages.items():
        spec, result = {"stage": stage, "budget": TARGET}, {"nats_per_token": loss}
        metrics = {1: [ladders.step(n, loss + 2 / n) for n in range(1, 30)]}
        ladders.write_run(runs, run_id, spec=spec, result=result, metrics=metrics)
    store.ingest(con, runs, states | dict.fromkeys(stages, ("RUNNING", "")))
    gates = [{"name": "width", "passed": False, "observed": 0.31, "limit": 0.25, "why": "wide"}]
    promotion = {"name": "flagship", "run_ids": [*stages, "p2"], "target": TARGET}
    promotion |= {"forecast": forecast.as_json(said), "gates": gates, "reason": "approved"}
    store.replace(con, "promotions", name, [promotion | {"decided_by": "a team", "created": 1.0}])


@contextmanager
def builder(folder: Path) -> Generator[Study]:
    """`build(name=..., done=..., promoted=...)`: its store, with the trials planned or done."""
    with store.connect(folder / "study.duckdb") as con:

        def build(
            *,
            name: str = "tiny",
            question: str = "Which size?",
            done: bool = True,
            promoted: bool = False,
            noise: float = 0.004,
        ) -> store.Connection:
            runs = folder / "runs"
            trials = _ladder(runs, noise)
            trials += _ablation(runs, len(trials))
            about = {"question": question, "metric": "nats_per_token", "created": 0.0}
            about["resolved"] = json.dumps({"promotion": {"target": TARGET}})
            store.replace(con, "studies", name, [about])
            store.replace(con, "trials", name, trials)
            states = {str(trial["run_id"]): ("RUNNING", "") for trial in trials}
            if done:
                store.ingest(con, runs, states)
            if promoted:
                _promote(con, runs, name, states)
            return con

        yield build


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """A builder of studies with a store of the test's own."""
    with builder(tmp_path) as build:
        yield build


def imported(con: store.Connection, folder: Path, rows: pl.DataFrame, name: str = "outside") -> str:
    """A study that has rows from outside alone; what they lack of the usual columns is null."""
    usual = dict.fromkeys(("budget", "params", "tokens", "flops", "loss"), pl.Float64)
    lacking = {n: pl.lit(None, dtype) for n, dtype in usual.items() if n not in rows.columns}
    state = {} if "state" in rows.columns else {"state": pl.lit("DONE")}
    run_id = pl.format("row {}", pl.int_range(1, pl.len() + 1))
    path = folder / f"{name}.parquet"
    rows.with_columns(**lacking, **state, run_id=run_id).write_parquet(path)
    ingest(con, name, path)
    store.replace(con, "studies", name, [{"question": "Runs from outside", "metric": "loss"}])
    return name

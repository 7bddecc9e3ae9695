"""What a report shows of the norms of layers."""

import math
from pathlib import Path

import polars as pl
import pytest

from analysis import store
from analysis.report import layers
from analysis.report.write import write
from tests.analysis.conftest import Study
from tests.analysis.ladders import step, write_run


def norms(number: int, *names: str) -> dict[str, float]:
    """What a line of metrics has beside the rest."""
    return {name: float(number + place) for place, name in enumerate(names, start=1)}


def measured_run(
    runs: Path, run_id: str, loss: float, budget: float = 1e11, state: str = "DONE"
) -> None:
    """A run of which every other step was measured, in two blocks."""
    lines = [
        step(n, loss, **(norms(n, *(f"{quantity}/block.{layer}" for quantity in layers.PANELS
                                    for layer in (0, 1))) if n % 2 == 0 else {}))
        for n in range(1, 41)
    ]  # fmt: skip
    write_run(runs, run_id, spec={"budget": budget}, result={"state": state}, metrics={1: lines})


def measured_study(con: store.Connection, runs: Path, **states: tuple[float, float, str]) -> None:
    """Trials of the study "tiny": budget, loss and state by run."""
    for run_id, (budget, loss, state) in states.items():
        measured_run(runs, run_id, loss, budget, state)
    trials = [
        {"number": n, "run_id": run_id, "design": "isoflop", "budget": budget, "seed": 0,
         "values": {}}
        for n, (run_id, (budget, _, _)) in enumerate(states.items())
    ]  # fmt: skip
    store.replace(con, "trials", "tiny", trials)
    store.ingest(con, runs, dict.fromkeys(states, ("RUNNING", "")))


def test_norms_of_layers_are_rows_that_sql_finds(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    lines = [step(1, 3.0), step(2, 3.0, noise_scale=7.0, **{"gradient_norm/block.3": 0.25,
             "attention_logit_max/encoder.block.0": -1.5})]  # fmt: skip
    write_run(tmp_path / "runs", "a", metrics={1: lines})
    store.ingest(con, tmp_path / "runs", {"a": ("RUNNING", "")})
    assert store.query(con, "from layer_norms order by quantity").rows() == [
        ("a", 2, 8192, "attention_logit_max", "encoder.block.0", -1.5),
        ("a", 2, 8192, "gradient_norm", "block.3", 0.25),
    ]
    sql = "select cast(others->>'gradient_norm/block.3' as double) from steps where step = 2"
    assert store.query(con, sql).item() == 0.25


def test_of_each_budget_the_lowest_run_and_a_diverged_one_are_shown(
    study: Study, tmp_path: Path
) -> None:
    con = study(done=False)
    measured_study(con, tmp_path / "runs", a=(1e11, 3.0, "DONE"), b=(1e11, 2.9, "DONE"),
                   c=(1e11, math.nan, "DIVERGED"), d=(1e12, 2.5, "DONE"),
                   e=(1e10, 3.5, "DONE"))  # fmt: skip
    found = layers.measured(con, "tiny")
    assert set(found["run_id"]) == {"b", "c", "d", "e"}
    assert set(layers.measured(con, "tiny", shown=2)["run_id"]) == {"b", "d"}
    assert layers.measured(con, "another").is_empty()


def test_a_run_has_a_line_a_layer_from_input_to_output(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    measured_study(con, tmp_path / "runs", a=(1e11, 3.0, "DONE"))
    data = layers.layers_data(layers.measured(con, "tiny"))
    lines = data.select("quantity", "layer", "depth").unique().rows()
    assert sorted(lines) == [(q, f"block.{n}", n) for q in sorted(layers.PANELS) for n in (0, 1)]
    assert data.filter(pl.col("quantity") == "gradient_norm", pl.col("layer") == "block.0")[
        "value"
    ].to_list() == [float(n + 1) for n in range(2, 41, 2)]
    figure = layers.layers_figure(data).to_dict()
    assert len(figure["data"]) == len(lines)
    assert len({trace["line"]["color"] for trace in figure["data"]}) == 2


def test_layers_stand_in_the_order_that_a_text_goes_through() -> None:
    ordered = ["embedding", "encoder.bias", "encoder.block.0", "encoder.block.10", "encoder.norm",
               "bias", "block.2", "block.2.cross", "block.10", "norm", "head"]  # fmt: skip
    assert sorted(sorted(ordered), key=layers.depth) == ordered


def test_a_long_run_is_thinned_and_its_spikes_are_kept() -> None:
    values = [1.0] * 5000
    values[777] = 50.0
    rows = pl.DataFrame({"quantity": "attention_logit_max", "layer": "block.0", "value": values})
    rows = rows.with_columns(step=pl.int_range(1, 5001), tokens=pl.int_range(1, 5001))
    data = layers.layers_data(rows, points=100)
    assert 90 <= len(data) <= 100
    assert data["value"].max() == 50.0
    assert data["tokens"].is_sorted()


def test_zeros_are_left_out_where_an_axis_is_logarithmic() -> None:
    rows = pl.DataFrame({
        "quantity": ["gradient_norm", "gradient_norm", "attention_logit_max"],
        "layer": "block.0", "step": [1, 2, 1], "tokens": [10, 20, 10], "value": [0.0, 1.0, -3.0],
    })  # fmt: skip
    data = layers.layers_data(rows)
    assert data["value"].to_list() == [-3.0, 1.0]
    layers.layers_figure(data)


@pytest.mark.parametrize("with_norms", [True, False])
def test_a_report_shows_layers_where_they_were_measured(
    study: Study, tmp_path: Path, with_norms: bool
) -> None:
    con = study(done=False)
    if with_norms:
        measured_study(con, tmp_path / "runs", a=(1e11, 3.0, "DONE"), d=(1e12, 2.5, "DIVERGED"))
    write(con, "tiny", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for sign in ("<h2>Layers</h2>", 'id="layers-1"', "Run d, 1e12 FLOPs, DIVERGED"):
        assert (sign in page) == with_norms

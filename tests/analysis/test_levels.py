"""Which levels the trials of a study set, and which of its runs sweep the learning rate."""

import json
from typing import Any

import polars as pl
import pytest

from analysis.ablation.levels import CROSSED, ablation_rows, baseline_levels, swept

STUDY = {
    "base": {"model": {"norm": "rms"}, "lr": {"scale": 1.0}},
    "axes": [{"name": "norm", "path": "model.norm"}, {"name": "rate", "path": "lr.scale"}],
}


def trial(run_id: str, norm: str, rate: float, **more: Any) -> dict[str, Any]:
    row = {"run_id": run_id, "design": "grid", "budget": 1e18, "seed": 0, "state": "DONE"}
    row |= {"loss": 2.5, "values": json.dumps({"norm": norm, "rate": rate})}
    return row | {"lr": 0.01 * rate, "params": 1e8, "tokens": 2e9} | more


def sweep(points: pl.DataFrame) -> list[str]:
    settings = ablation_rows(points, baseline_levels(STUDY))
    return swept(points, settings, STUDY)["run_id"].to_list()


@pytest.mark.parametrize("design", CROSSED)
def test_trials_that_set_every_axis_become_a_row_an_axis(design: str) -> None:
    points = pl.DataFrame([trial("r", "layer", 1.0, design=design)])
    rows = ablation_rows(points, baseline_levels(STUDY))
    assert rows.select("axis", "level", "baseline", "run_id", "loss").rows() == [
        ("norm", "layer", False, "r", 2.5),
        ("rate", "1.0", True, "r", 2.5),
    ]


def test_a_grid_whose_baseline_is_not_known_has_no_rows() -> None:
    assert ablation_rows(pl.DataFrame([trial("r", "layer", 1.0)])).is_empty()


def test_three_rates_at_one_size_are_a_sweep() -> None:
    points = pl.DataFrame([trial(f"r{x}", "rms", x) for x in (0.5, 1.0, 2.0)])
    assert sweep(points) == ["r0.5", "r1.0", "r2.0"]
    assert sweep(points.head(2)) == []


def test_runs_of_another_model_are_no_part_of_a_sweep() -> None:
    rows = [trial(f"{norm}{x}", norm, x) for norm in ("rms", "layer") for x in (0.5, 1.0, 2.0)]
    assert sweep(pl.DataFrame(rows)) == ["rms0.5", "rms1.0", "rms2.0"]


def test_a_ladder_with_one_rate_a_size_is_no_sweep() -> None:
    rows = [trial(f"r{x}", "rms", x, params=1e8 * x) for x in (0.5, 1.0, 2.0)]
    assert sweep(pl.DataFrame(rows)) == []

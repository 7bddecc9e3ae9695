"""What `fit` answers: one plain object, from which every number can be reproduced."""

import json
import math

import polars as pl
import pytest

from analysis.answer import LAW_NAMES, answer
from analysis.law import NotEnough
from analysis.points import Points
from analysis.wording import lines
from tests.analysis import ladders, reference

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)
KEYS = {"law", "params_convention", "coef", "se", "interval", "optimum", "excluded", "diagnostics"}
COMPUTE = [name for name in LAW_NAMES if name not in ("lr-batch", "downstream", "mixture")]


def points() -> Points:
    """A ladder that repeats some of its data, so that every law of compute applies."""
    rows = ladders.ladder(BUDGETS, sizes=7, noise=0.002)
    return Points(
        rows.with_columns(unique_tokens=pl.col("tokens") / (1 + (pl.col("budget") > 2e19)))
    )


@pytest.mark.parametrize("law", COMPUTE)
def test_every_law_answers_in_the_same_words(law: str) -> None:
    said = json.loads(json.dumps(answer(points(), law, 1e21, None, draws=50), allow_nan=False))
    assert KEYS | {"objective", "rows"} <= set(said)
    assert said["law"] == law
    assert set(said["coef"]) == set(said["se"]) == set(said["interval"])
    optimum = said["optimum"]
    for name in ("loss",) if law == "envelope" else ("params", "tokens", "loss"):
        assert optimum[f"{name}_low"] <= optimum[name] <= optimum[f"{name}_high"]
    assert any(line.startswith("optimum at 1e21 FLOPs") for line in lines(said))


def test_the_coefficients_give_back_every_prediction_to_a_thousandth() -> None:
    sizes = pl.DataFrame({"params": [1e8, 7e10], "tokens": [2e9, 1.4e12]})
    said = answer(points(), "parametric", None, sizes, draws=50)
    c = said["coef"]
    for row in said["predictions"]:
        loss = c["E"] + c["A"] / row["params"] ** c["alpha"] + c["B"] / row["tokens"] ** c["beta"]
        assert row["loss"] == pytest.approx(loss, rel=1e-3)
        assert row["low"] < row["loss"] < row["high"]
    assert said["optimum"] is None


def test_the_coefficients_give_back_the_optimum_to_a_thousandth() -> None:
    said = answer(points(), "isoflop", 1e21, None, draws=50)
    c, optimum = said["coef"], said["optimum"]
    assert optimum["params"] == pytest.approx(
        c["params_coefficient"] * 1e21 ** c["params_exponent"], rel=1e-3
    )
    assert optimum["loss"] == pytest.approx(
        c["loss_irreducible"] + c["loss_coefficient"] * 1e21 ** -c["loss_exponent"], rel=1e-3
    )


def test_a_run_kept_out_is_named_by_its_row() -> None:
    rows = points().frame
    spoilt = rows.with_columns(
        loss=pl.when(pl.col("run_id") == "run4").then(math.nan).otherwise("loss")
    )
    said = answer(Points(spoilt), "parametric", None, None, draws=20)
    assert said["excluded"] == [{"row": "run4", "reason": "no finite positive loss"}]
    assert said["rows"] == len(rows) - 1


def test_auto_says_what_each_law_says_and_which_do_not_apply() -> None:
    rows = ladders.ladder(BUDGETS[:3], sizes=7, noise=0.002)
    said = answer(Points(rows), "auto", 1e20, None, draws=50)
    assert {row["law"] for row in said["laws"]} == {"isoflop", "parametric", "tied", "farseer"}
    assert said["not_applicable"][0]["name"] == "envelope"
    assert [row["budget"] for row in said["budgets"]] == list(BUDGETS[:3])


@pytest.mark.parametrize("law", ["lr-batch", "downstream", "mixture", "isoflop"])
def test_a_law_that_knows_no_losses_of_sizes_predicts_none(law: str) -> None:
    sizes = pl.DataFrame({"params": [1e8], "tokens": [2e9]})
    with pytest.raises(NotEnough, match="predict"):
        answer(points(), law, None, sizes, draws=20)


def test_small_runs_foresee_the_large_runs_of_gadre() -> None:
    """Gadre et al. 2024, arXiv:2403.08540, tab. 1: .7 % at 1.4B x 32 and 7B from 300x less."""
    table = pl.read_csv(reference.folder() / "gadre_overtraining_104.csv")
    runs = table.filter(pl.col("dataset_name") == "rpj").select(
        params=pl.col("params").cast(pl.Float64),
        tokens=pl.col("tokens").cast(pl.Float64),
        loss="loss_c4_val",
        run_id="name",
        budget=pl.lit(None, pl.Float64),
    )
    large = (pl.col("params") > 5e9) | ((pl.col("params") > 1e9) & (pl.col("tokens") > 9e11))
    targets = runs.filter(large)
    said = answer(Points(runs.filter(pl.col("params") < 1e9)), "auto", None, targets, draws=200)
    assert len(targets) == 2
    for row, measured in zip(said["predictions"], targets["loss"], strict=True):
        assert row["loss"] == pytest.approx(measured, rel=0.0075)
        assert row["low"] < measured < row["high"]

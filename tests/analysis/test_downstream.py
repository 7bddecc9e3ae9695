"""From compute to the loss on right answers to accuracy: both steps, their doubts, the chain."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.downstream import figures as downstream_figures
from analysis.downstream import fit as downstream
from analysis.downstream import sigmoid
from analysis.law import NotEnough

BUDGETS = np.geomspace(1e18, 1e22, 20)
FLOOR, SLOPE, MIDPOINT = 0.25, 6.0, 0.75


def nll_of(flops: Any) -> Any:
    return 0.4 + 300.0 * np.asarray(flops) ** -0.14


def accuracy_of(nll: Any, ceiling: float = 1.0) -> Any:
    return FLOOR + (ceiling - FLOOR) / (1 + np.exp(SLOPE * (np.asarray(nll) - MIDPOINT)))


def runs(
    *, noise: float = 0.0, seed: int = 0, ceiling: float = 1.0, budgets: Any = BUDGETS
) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    nll = nll_of(budgets) * (1 + noise * rng.normal(size=len(budgets)))
    accuracy = np.clip(accuracy_of(nll, ceiling) + noise * rng.normal(size=len(budgets)), 0, 1)
    names = [f"row {i + 1}" for i in range(len(budgets))]
    return pl.DataFrame({"run_id": names, "flops": budgets, "nll": nll, "accuracy": accuracy})


def names_of(fitted: downstream.Downstream) -> set[str]:
    return {each.name for task in fitted.tasks for each in task.diagnostics}


def test_both_steps_give_back_their_coefficients() -> None:
    points = runs(ceiling=0.9, budgets=np.geomspace(1e17, 1e24, 40))
    coef = downstream.answer(downstream.fit(points, draws=20), None)["coef"]
    expected = {"floor": FLOOR, "ceiling": 0.9, "slope": SLOPE, "midpoint": MIDPOINT}
    expected |= {"nll_irreducible": 0.4, "nll_coefficient": 300.0, "nll_exponent": 0.14}
    assert coef == pytest.approx(expected, rel=1e-3)


def test_a_loss_that_falls_with_log_compute_is_fitted_by_a_line() -> None:
    points = runs().with_columns(nll=3.0 - 0.05 * pl.col("flops").log())
    points = points.with_columns(accuracy=pl.col("nll").map_elements(accuracy_of, pl.Float64))
    (task,) = downstream.fit(points, draws=20).tasks
    assert task.form == "linear"
    assert task.line == pytest.approx([3.0, -0.05], rel=1e-6)


def test_the_form_is_the_one_that_predicts_larger_runs() -> None:
    (task,) = downstream.fit(runs(noise=0.003), draws=20).tasks
    assert task.form == "power"
    assert task.backtest["power"] < task.backtest["linear"]


def test_a_ceiling_that_no_run_is_near_is_said_and_not_estimated() -> None:
    points = runs(noise=0.003, budgets=np.geomspace(1e17, 1e20, 20))
    fitted = downstream.fit(points, draws=20)
    assert "ceiling_unidentified" in names_of(fitted)
    said = downstream.answer(fitted, None)
    assert (said["coef"]["ceiling"], said["se"]["ceiling"]) == (1.0, None)


def test_a_ceiling_that_runs_have_reached_is_estimated() -> None:
    points = runs(noise=0.003, ceiling=0.85, budgets=np.geomspace(1e17, 1e25, 40))
    fitted = downstream.fit(points, draws=200)
    assert "ceiling_unidentified" not in names_of(fitted)
    low, high = downstream.answer(fitted, None)["interval"]["ceiling"]
    assert low < 0.85 < high < 0.9


def test_a_known_chance_is_the_floor() -> None:
    points = runs(noise=0.003, budgets=np.geomspace(1e21, 1e23, 12))
    fitted = downstream.fit(points.with_columns(chance=pl.lit(0.25)), draws=20)
    assert downstream.answer(fitted, None)["coef"]["floor"] == 0.25
    assert "floor_unidentified" not in names_of(fitted)


def test_a_floor_that_no_run_is_near_is_said() -> None:
    points = runs(noise=0.003, budgets=np.geomspace(1e21, 1e23, 12))
    assert "floor_unidentified" in names_of(downstream.fit(points, draws=20))


def test_accuracy_that_ignores_the_loss_gets_no_number() -> None:
    rng = np.random.default_rng(0)
    points = runs().with_columns(accuracy=0.25 + 0.01 * pl.Series(rng.normal(size=20)))
    fitted = downstream.fit(points, draws=20)
    assert "accuracy_flat" in names_of(fitted)
    optimum = downstream.answer(fitted, 1e24)["optimum"]
    assert optimum["accuracy"] is None
    assert optimum["nll_low"] < optimum["nll"] < optimum["nll_high"]


def test_a_loss_that_rises_with_compute_is_said() -> None:
    points = runs().with_columns(nll=0.5 + 0.02 * pl.col("flops").log(), accuracy=pl.lit(0.3))
    assert names_of(downstream.fit(points, draws=20)) >= {"accuracy_flat"}
    rising = {"nll_not_falling", "nll_irreducible_at_bound"}
    assert names_of(downstream.fit(points, draws=20)) & rising


def test_few_levels_of_compute_are_never_back_tested_and_it_is_said() -> None:
    points = runs(noise=0.003, budgets=np.repeat(np.geomspace(1e19, 1e21, 3), 3))
    assert "not_backtested" in names_of(downstream.fit(points, draws=20))


def test_the_chained_intervals_hold_runs_ten_times_larger_and_say_something() -> None:
    held, trials, top = np.zeros(2), 25, 1e23
    widths: list[float] = []
    for seed in range(trials):
        (task,) = downstream.fit(runs(noise=0.01, seed=seed), draws=200, seed=seed).tasks
        said = downstream.predict(task, top)
        run = runs(noise=0.01, seed=1000 + seed, budgets=np.array([top])).row(0, named=True)
        assert said.accuracy_low is not None
        assert said.accuracy_high is not None
        held[0] += said.nll_low <= run["nll"] <= said.nll_high
        held[1] += said.accuracy_low <= run["accuracy"] <= said.accuracy_high
        widths.append(said.accuracy_high - said.accuracy_low)
    assert (held / trials >= 0.9).all(), held / trials
    assert np.median(widths) < 0.2


def test_the_interval_widens_with_the_distance_extrapolated() -> None:
    (task,) = downstream.fit(runs(noise=0.01), draws=500).tasks
    widths = [
        said.nll_high / said.nll_low
        for said in (downstream.predict(task, budget) for budget in (1e22, 1e23, 1e25))
    ]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


@settings(max_examples=15, deadline=None)
@given(slope=st.floats(2.0, 20.0), midpoint=st.floats(0.3, 0.9), floor=st.floats(0.0, 0.4))
def test_the_sigmoid_is_found_from_any_place(slope: float, midpoint: float, floor: float) -> None:
    nll = np.linspace(0.1, 1.5, 30)
    accuracy = floor + (0.95 - floor) / (1 + np.exp(slope * (nll - midpoint)))
    curve = sigmoid.fit(nll, accuracy, None)
    assert sigmoid.value(curve.theta, nll) == pytest.approx(accuracy, abs=2e-3)


def test_resamples_refitted_together_are_as_fitted_alone() -> None:
    points = runs(noise=0.01)
    nll, accuracy = points["nll"].to_numpy(), points["accuracy"].to_numpy()
    curve = sigmoid.fit(nll, accuracy, 0.25)
    rng = np.random.default_rng(0)
    drawn = sigmoid.value(curve.theta, nll) + 0.01 * rng.normal(size=(20, len(nll)))
    together = sigmoid.refit(curve, nll, drawn)
    alone = [sigmoid.fit(nll, each, 0.25) for each in drawn]
    same = [i for i, each in enumerate(alone) if np.array_equal(each.free, curve.free)]
    assert len(same) > 10
    squares = ((sigmoid.value(together, nll) - drawn) ** 2).sum(axis=1)
    assert squares[same] == pytest.approx([alone[i].squares for i in same], rel=1e-4)


def test_several_tasks_are_fitted_each_by_itself() -> None:
    second = runs(ceiling=0.8).with_columns(run_id=pl.concat_str(pl.lit("b"), "run_id"))
    both = pl.concat(
        [runs().with_columns(task=pl.lit("easy")), second.with_columns(task=pl.lit("hard"))]
    )
    said = downstream.answer(downstream.fit(both, draws=20), 1e24)
    assert {name.split("/")[0] for name in said["coef"]} == {"easy", "hard"}
    assert said["optimum"]["hard/accuracy"] < said["optimum"]["easy/accuracy"]


def test_a_task_with_too_few_runs_is_left_out_and_said() -> None:
    few = runs(budgets=BUDGETS[:3]).with_columns(task=pl.lit("few"))
    fitted = downstream.fit(pl.concat([runs().with_columns(task=pl.lit("all")), few]), draws=20)
    assert [task.name for task in fitted.tasks] == ["all"]
    assert [each.name for each in fitted.diagnostics] == ["too_few_points"]


def test_rows_without_evidence_are_named() -> None:
    points = runs().with_columns(
        nll=pl.when(pl.col("run_id") == "row 3").then(float("nan")).otherwise("nll"),
        accuracy=pl.when(pl.col("run_id") == "row 5").then(None).otherwise("accuracy"),
    )
    reasons = {each.run_id: each.reason for each in downstream.fit(points, draws=20).excluded}
    assert reasons == {"row 3": "no finite positive nll", "row 5": "no accuracy"}


def test_the_loss_serves_where_there_is_no_nll_and_it_is_said() -> None:
    fitted = downstream.fit(runs().rename({"nll": "loss"}), draws=20)
    assert [each.name for each in fitted.diagnostics] == ["loss_for_nll"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p.drop("accuracy"), "no column accuracy"),
        (lambda p: p.with_columns(accuracy=100 * pl.col("accuracy")), "give fractions"),
        (lambda p: p.head(3), "5 at 3 are needed"),
        (lambda p: p.clear(), "no usable run"),
    ],
)
def test_points_that_carry_no_law_are_refused_with_the_way_out(change: Any, sentence: str) -> None:
    with pytest.raises(NotEnough, match=sentence):
        downstream.fit(change(runs()), draws=20)


def test_the_answer_is_plain_json_and_a_seed_repeats_it() -> None:
    points = runs(noise=0.003)
    one, two = (downstream.answer(downstream.fit(points, draws=50, seed=1), 1e24) for _ in "ab")
    assert one == two == json.loads(json.dumps(one, allow_nan=False))
    at = one["optimum"]
    assert at["accuracy_low"] < at["accuracy"] < at["accuracy_high"]
    assert at["accuracy"] == pytest.approx(accuracy_of(nll_of(1e24)), abs=0.03)


def test_the_figure_has_runs_law_and_target_of_both_steps() -> None:
    fitted = downstream.fit(runs(noise=0.003), draws=50)
    data = downstream_figures.downstream_data(fitted, 1e24)
    for step in ("nll", "accuracy"):
        kinds = data.filter(pl.col("step") == step)["kind"].value_counts()
        counts = dict(kinds.iter_rows())
        assert counts == {"run": 20, "law": downstream_figures.STEPS, "target": 1}
    assert len(downstream_figures.downstream_figure(data).to_dict()["data"]) == 8


@pytest.fixture
def gadre() -> pl.DataFrame:
    """Gadre et al. 2024 on RedPajama; the loss on C4 stands for that on the answers."""
    folder = os.environ.get("SWEEPER_REFERENCE_DATA")
    if not folder:
        pytest.skip("SWEEPER_REFERENCE_DATA is not set: no public results to compare with")
    table = pl.read_csv(Path(folder) / "gadre_overtraining_104.csv", infer_schema_length=None)
    table = table.filter(pl.col("dataset_name") == "rpj").with_row_index("run_id")
    tasks = ("hellaswag", "arc_easy", "piqa", "lambada_openai", "avg_subset")
    return pl.concat(
        table.select(
            "run_id",
            pl.col("flops").cast(pl.Float64),
            nll="loss_c4_val",
            accuracy=1 - pl.col(f"err_{task}"),
            task=pl.lit(task),
        )
        for task in tasks
    )


@pytest.mark.parametrize("shrink", [3, 10, 30])
def test_large_runs_of_gadre_fall_inside_what_the_small_ones_say(
    gadre: pl.DataFrame, shrink: float
) -> None:
    cut = float(gadre["flops"].to_numpy().max()) / shrink
    fitted = downstream.fit(gadre.filter(pl.col("flops") <= cut), draws=300)
    held: list[bool] = []
    for task in fitted.tasks:
        above = gadre.filter(pl.col("flops") > cut, pl.col("task") == task.name)
        for flops, nll, accuracy in above.select("flops", "nll", "accuracy").iter_rows():
            said = downstream.predict(task, flops)
            assert said.accuracy_low is not None
            assert said.accuracy_high is not None
            held.append(said.nll_low <= nll <= said.nll_high)
            held.append(said.accuracy_low <= accuracy <= said.accuracy_high)
    assert np.mean(held) >= 0.9

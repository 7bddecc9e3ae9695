"""Learning-rate and batch laws: known and published ones, their intervals, what laws cost."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.hyper import cells as hyper_cells
from analysis.hyper import figures as hyper_figures
from analysis.hyper import fit as hyper
from analysis.hyper.laws import PUBLISHED, Rule
from analysis.law import NotEnough
from tests.analysis.sweeps import BATCH, LR, SHAPES, cell_of, sweep, table


def law_of(fitted: hyper.Hyper, knob: str) -> Rule:
    return next(law.rule for law in fitted.laws if law.knob == knob)


def test_laws_in_size_and_tokens_are_given_back() -> None:
    fitted = hyper.fit(sweep(), draws=50)
    lr, batch = law_of(fitted, "lr"), law_of(fitted, "batch_tokens")
    assert (lr.form, lr.exponents) == ("N,D", pytest.approx((-0.7, 0.3), abs=1e-6))
    assert lr.coefficient == pytest.approx(1.5, rel=1e-4)
    tokens = batch.exponents[-1] if batch.form == "N,D" else batch.exponents[0]
    assert tokens == pytest.approx(0.57, abs=1e-6)


def test_following_the_true_law_costs_nothing() -> None:
    own = [each for each in hyper.fit(sweep(), draws=50).excess if each.law == hyper.OWN]
    assert len(own) == len(SHAPES)
    assert all(each.inside and 0 <= each.excess < 1e-9 for each in own)


def test_a_setting_off_by_a_factor_costs_what_the_bowl_says() -> None:
    judged, _ = hyper_cells.cells(sweep())
    off = {"off": {"lr": Rule("N,D", 3.0, (-0.7, 0.3)), "batch_tokens": BATCH}}
    costs = [each.excess for each in hyper.excess(off, judged)]
    assert costs == pytest.approx([0.01 * math.log(2) ** 2] * len(SHAPES), rel=1e-3)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_diverged_runs_are_named_and_do_not_move_the_law(share: float) -> None:
    clean = sweep(noise=0.0005, seed=1)
    rng = np.random.default_rng(2)
    hit = rng.random(len(clean)) < share
    factor = np.where(hit, rng.uniform(1.2, 2.5, len(clean)), 1.0)
    fitted = hyper.fit(clean.with_columns(pl.col("loss") * factor), draws=50)
    named = {each.run_id for each in fitted.excluded if "diverged" in each.reason}
    assert named == set(clean.filter(pl.Series(hit))["run_id"])
    for at, true in zip(law_of(fitted, "lr").exponents, LR.exponents, strict=True):
        assert at == pytest.approx(true, abs=0.03)


def test_every_row_is_used_or_excluded_with_a_reason() -> None:
    points = sweep(noise=0.001)
    state = pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.lit("DIVERGED"))
    points = points.with_columns(state.otherwise(pl.lit("DONE")).alias("state"))
    lost = pl.when(pl.int_range(pl.len()) % 50 == 1).then(math.nan).otherwise("loss")
    fitted = hyper.fit(points.with_columns(lost.alias("loss")), draws=50)
    used = {run_id for cell in fitted.cells for run_id in cell.run_ids}
    reasons = {each.run_id: each.reason for each in fitted.excluded}
    assert used | set(reasons) == set(points["run_id"])
    assert used.isdisjoint(reasons)
    assert reasons["row 1"] == "state DIVERGED"
    assert reasons["row 2"] == "no finite positive loss"


def test_a_refused_cell_is_left_out_and_said() -> None:
    rows = [row for n, d in SHAPES for row in cell_of(n, d)]
    rows += cell_of(3e9, 1e11, lr_steps=(2.0, 4.0, 8.0))
    fitted = hyper.fit(table(rows), draws=50)
    assert len(fitted.cells) == len(SHAPES)
    assert [each.name for each in fitted.diagnostics if each.name == "minimum_at_edge"]


@pytest.mark.parametrize("column", ["kept", "dropped"])
def test_one_batch_a_cell_gives_a_law_of_the_rate_alone_and_it_is_said(column: str) -> None:
    points = sweep(batch_steps=(1.0,))
    fitted = hyper.fit(points if column == "kept" else points.drop("batch_tokens"), draws=50)
    assert [law.knob for law in fitted.laws] == ["lr"]
    assert law_of(fitted, "lr").exponents == pytest.approx(LR.exponents, abs=1e-6)
    assert "batch_not_swept" in {each.name for each in fitted.diagnostics}


def test_compute_alone_gives_a_law_in_compute() -> None:
    points = pl.concat([sweep(), sweep()]).unique("run_id", maintain_order=True)
    points = points.with_columns(flops=6 * pl.col("params") * pl.col("tokens"))
    fitted = hyper.fit(points.drop("params", "tokens"), draws=50)
    assert {law.rule.form for law in fitted.laws} == {"C"}
    assert set(hyper.predict(fitted, {"flops": 1e22})) == {"lr", "batch_tokens"}


def test_the_form_is_the_one_that_cells_left_out_choose() -> None:
    """Along a ladder of one ratio of tokens to params, size and tokens are not told apart."""
    rows = [row for n in (1e8, 2e8, 4e8, 8e8) for row in cell_of(n, 20 * n)]
    (lr, batch) = hyper.fit(table(rows), draws=50).laws
    assert "N,D" not in lr.left_out
    assert set(lr.left_out) == {"C", "D", "N"}
    assert batch.left_out[batch.rule.form] == min(batch.left_out.values())


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held, trials = np.zeros(4), 40
    truth = {"params": 1e10, "tokens": 2e11, "flops": 1.2e22}
    for seed in range(trials):
        fitted = hyper.fit(sweep(noise=0.001, seed=seed), draws=200, seed=seed)
        interval = hyper.answer(fitted, None)["interval"]
        at = hyper.predict(fitted, truth)
        checks = [
            (interval["lr_params_exponent"], -0.7),
            (interval["lr_tokens_exponent"], 0.3),
            ((at["lr"].low, at["lr"].high), math.exp(LR.log_value(truth))),
            ((at["batch_tokens"].low, at["batch_tokens"].high), math.exp(BATCH.log_value(truth))),
        ]
        held += [low <= value <= high for (low, high), value in checks]
    assert (held / trials >= 0.85).all(), held / trials


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(1e-9, 1e3))
def test_the_unit_of_size_does_not_matter(scale: float) -> None:
    points = sweep(noise=0.001)
    one = hyper.fit(points, draws=20)
    other = hyper.fit(points.with_columns(pl.col("params") * scale), draws=20)
    assert law_of(one, "lr").exponents == pytest.approx(law_of(other, "lr").exponents, abs=1e-6)


def test_a_seed_repeats_the_answer() -> None:
    points = sweep(noise=0.001)
    one, two = (hyper.answer(hyper.fit(points, draws=50, seed=3), 1e22) for _ in range(2))
    assert one == two


def test_the_answer_is_plain_json_with_the_settings_at_the_target() -> None:
    said = hyper.answer(hyper.fit(sweep(noise=0.001), draws=100), 1e22)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    at = said["optimum"]
    for knob, rule in (("lr", LR), ("batch_tokens", BATCH)):
        assert at[f"{knob}_low"] < at[knob] < at[f"{knob}_high"]
        assert at[knob] == pytest.approx(math.exp(rule.log_value(at)), rel=0.2)
    assert at["params"] * at["tokens"] * 6 == pytest.approx(1e22)
    assert "shape_at_target" in {each["name"] for each in said["diagnostics"]}
    assert {each["law"] for each in said["excess"]} == {hyper.OWN, *PUBLISHED}


def test_without_a_target_there_is_no_optimum() -> None:
    assert hyper.answer(hyper.fit(sweep(), draws=50), None)["optimum"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p.drop("lr"), "no value of lr"),
        (lambda p: p.drop("params", "tokens"), "no value of params, tokens or flops"),
        (lambda p: p.with_columns(lr=pl.lit(0.003)), "lr is 0.003 in every run"),
        (lambda p: p.filter(pl.col("tokens") < 5e9, pl.col("params") < 5e8), "2 usable cells"),
        (lambda p: p.clear(), "no value of loss"),
        (lambda p: p.with_columns(loss=-pl.col("loss")), "0 usable cells"),
    ],
)
def test_points_that_carry_no_law_are_refused_with_the_way_out(change: Any, sentence: str) -> None:
    with pytest.raises(NotEnough, match=sentence):
        hyper.fit(change(sweep()), draws=20)


@pytest.fixture
def steplaw() -> dict[str, pl.DataFrame]:
    """Li et al. 2025: batch in sequences of 2,048 tokens (their fit_tool.py), N not embedded."""
    folder = os.environ.get("SWEEPER_REFERENCE_DATA")
    if not folder:
        pytest.skip("SWEEPER_REFERENCE_DATA is not set: no public results to compare with")
    rows = pl.read_csv(Path(folder) / "scalebench_lr_bsz_scaling_law.csv").with_row_index("run_id")
    points = rows.select(
        "run_id",
        "split",
        "lr",
        batch_tokens=2048 * pl.col("bsz"),
        params="non_embedding_param_size",
        tokens="data_size",
        loss="lm_loss",
    )
    return {str(name): part for (name,), part in points.group_by("split")}


def test_the_published_exponents_of_step_law_are_found_in_its_runs(
    steplaw: dict[str, pl.DataFrame],
) -> None:
    """Li et al. 2025, arXiv:2503.04715: lr = 1.79 N^-.713 D^.307."""
    fitted = hyper.fit(steplaw["train"], draws=200)
    assert law_of(fitted, "lr").form == "N,D"
    assert law_of(fitted, "lr").exponents == pytest.approx((-0.713, 0.307), abs=0.03)
    interval = hyper.answer(fitted, None)["interval"]
    for name, value in (("params", -0.713), ("tokens", 0.307)):
        low, high = interval[f"lr_{name}_exponent"]
        assert low < value < high


def test_the_law_costs_less_than_a_thousandth_on_the_cell_held_out(
    steplaw: dict[str, pl.DataFrame],
) -> None:
    fitted = hyper.fit(steplaw["train"], draws=50)
    (held_out,), _ = hyper_cells.cells(steplaw["test"])
    rules = {hyper.OWN: {law.knob: law.rule for law in fitted.laws}, **PUBLISHED}
    cost = {each.law: each.excess for each in hyper.excess(rules, [held_out])}
    assert cost[hyper.OWN] < 1e-3
    assert cost[hyper.OWN] < cost["StepLaw"] < cost["DeepSeek"]


def test_figures_have_every_cell_and_every_law() -> None:
    fitted = hyper.fit(sweep(noise=0.001), draws=50)
    data = hyper_figures.settings_data(fitted)
    kinds = {"minimum", hyper.OWN, *PUBLISHED}
    assert set(data["kind"]) == kinds
    assert len(data) == len(kinds) * len(fitted.cells) * 2
    excess = hyper_figures.excess_data(fitted)
    assert (excess["excess"] >= -1e-12).all()
    surfaces = hyper_figures.surfaces_data(fitted)
    assert surfaces["cell"].n_unique() == hyper_figures.SURFACES_SHOWN
    lowest = surfaces.filter(pl.col("kind") == "surface").group_by("cell").agg(pl.min("excess"))
    assert (lowest["excess"].is_between(0, 1e-3)).all()


def test_figures_are_drawn_from_the_rows() -> None:
    fitted = hyper.fit(sweep(batch_steps=(1.0,)), draws=50)
    drawn = (
        hyper_figures.settings_figure(hyper_figures.settings_data(fitted)),
        hyper_figures.excess_figure(hyper_figures.excess_data(fitted)),
        hyper_figures.surfaces_figure(hyper_figures.surfaces_data(fitted)),
    )
    assert all(len(figure.to_dict()["data"]) > 0 for figure in drawn)

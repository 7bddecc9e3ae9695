"""Runs that do not belong: found by rule, named, and without a say in the law."""

import numpy as np
import polars as pl
import pytest

from analysis import parametric
from analysis.runs import prepare
from tests.analysis import ladders, reference

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)


def test_the_five_rows_that_the_replication_drops_by_hand_are_found() -> None:
    """Besiroglu et al. 2024, arXiv:2404.10102, sec. 3: five outliers at the smallest D/N."""
    points = reference.chinchilla()
    by_hand = points.filter("epoch_excluded_outlier")["run_id"].to_list()
    runs = prepare(points)
    assert sorted(e.run_id for e in runs.excluded) == sorted(by_hand)
    assert all("sigma" in e.reason for e in runs.excluded)
    assert parametric.fit(runs, draws=20).coef["a"] == pytest.approx(0.514, abs=0.02)


def test_the_240_rows_that_it_keeps_are_kept() -> None:
    assert prepare(reference.chinchilla(outliers=False)).excluded == ()


@pytest.mark.parametrize("seed", range(5))
def test_diverged_runs_are_named_and_good_ones_are_not(seed: int) -> None:
    points = ladders.ladder(BUDGETS, sizes=9, noise=0.004, seed=seed)
    rng = np.random.default_rng(seed)
    spoilt = rng.choice(len(points), 4, replace=False)
    factor = np.ones(len(points))
    factor[spoilt] = rng.uniform(1.2, 2.5, 4)
    runs = prepare(points.with_columns(pl.col("loss") * pl.Series(factor)))
    assert {e.run_id for e in runs.excluded} == {f"run{i}" for i in spoilt}


def test_a_loss_too_low_to_be_true_is_named_too() -> None:
    points = ladders.ladder(BUDGETS, sizes=9, noise=0.004)
    halved = pl.when(pl.col("run_id") == "run11").then(pl.col("loss") / 2).otherwise("loss")
    assert [e.run_id for e in prepare(points.with_columns(halved.alias("loss"))).excluded] == [
        "run11"
    ]


def test_few_runs_are_not_judged() -> None:
    points = ladders.ladder(BUDGETS[:2], sizes=5, noise=0.004)
    doubled = pl.when(pl.col("run_id") == "run3").then(pl.col("loss") * 2).otherwise("loss")
    assert prepare(points.with_columns(doubled.alias("loss"))).excluded == ()

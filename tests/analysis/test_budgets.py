"""Budgets read off the FLOPs of runs: ladders found whole, nothing found in scatter."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.budgets import group
from analysis.law import Floats


@pytest.fixture
def reference_data() -> Path:
    folder = os.environ.get("SWEEPER_REFERENCE_DATA")
    if not folder:
        pytest.skip("SWEEPER_REFERENCE_DATA is not set: no public results to compare with")
    return Path(folder)


def columns(path: Path, *names: str) -> list[Floats]:
    frame = pl.read_csv(path)
    return [frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names]


def found(budget: Floats) -> list[float]:
    return sorted(set(budget[np.isfinite(budget)].tolist()))


@given(
    rungs=st.integers(1, 8),
    sizes=st.integers(4, 9),
    step=st.sampled_from([2.0, 3.0, 10.0]),
    jitter=st.sampled_from([0.0, 0.01, 0.05, 0.1]),
    seed=st.integers(0, 2**20),
)
def test_a_ladder_and_nothing_else_is_found_whole(
    rungs: int, sizes: int, step: float, jitter: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centre = np.array([1e18 * step**n for n in range(rungs)])
    flops = centre[:, None] * np.exp(rng.uniform(-jitter, jitter, (rungs, sizes)))
    budget = group(flops.ravel(), rng.uniform(1e8, 1e9, rungs * sizes)).reshape(rungs, sizes)
    assert (budget == budget[:, :1]).all()
    assert found(budget.ravel()) == sorted(np.median(flops, axis=1))


def test_the_order_of_the_runs_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    flops = np.repeat([1e18, 3e18, 1e19], 5) * np.exp(rng.normal(0, 0.02, 15))
    sizes, order = rng.uniform(1, 9, 15), rng.permutation(15)
    assert (group(flops[order], sizes[order]) == group(flops, sizes)[order]).all()


def test_scattered_runs_show_no_budgets() -> None:
    rng = np.random.default_rng(0)
    for runs in [10, 30, 100, 300] * 25:
        params, tokens = np.exp(rng.uniform(0, 5, (2, runs)))
        assert found(group(6 * params * tokens, params)) == []


def test_replicates_of_few_sizes_are_no_budget() -> None:
    flops = np.repeat([1e18, 3e18, 1e19], 12)
    assert found(group(flops, np.tile([1.0, 2.0, 3.0], 12))) == []


def test_runs_without_flops_or_size_belong_to_none() -> None:
    flops = np.array([1e18] * 5 + [np.nan, 0.0, -1e18, np.inf])
    budget = group(flops, np.arange(1.0, 10.0))
    assert np.isfinite(budget).tolist() == [True] * 5 + [False] * 4


def test_the_ten_budgets_of_llama_3_are_found_exactly(reference_data: Path) -> None:
    path = reference_data / "llama3_isoflop_digitized_133.csv"
    flops, tokens = columns(path, "compute_budget", "training_tokens")
    budget = group(flops, flops / tokens)
    assert (budget == flops).all()
    assert len(found(budget)) == 10


def test_the_nine_budgets_of_chinchilla_stand_out_from_its_other_runs(reference_data: Path) -> None:
    path = reference_data / "chinchilla_epoch_245.csv"
    flops, params, meant = columns(path, "flops", "params", "isoflop_budget")
    budget = group(flops, params)
    both = np.isfinite(budget) & np.isfinite(meant)
    # Off by a tenth at most: the digitised runs lie below the budgets' round numbers.
    assert np.abs(np.log(budget[both] / meant[both])).max() < np.log(1.12)
    assert len(found(budget[both])) == 9
    assert both.sum() / np.isfinite(meant).sum() > 0.9
    assert (np.isfinite(budget) & ~np.isfinite(meant)).sum() / np.isnan(meant).sum() < 0.25


def test_runs_that_are_no_ladder_show_no_budgets(reference_data: Path) -> None:
    flops, params = columns(reference_data / "gadre_overtraining_104.csv", "flops", "params")
    assert found(group(flops, params)) == []

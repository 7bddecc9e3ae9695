"""L(N, D) fitted: one optimum from anywhere, published values, and what is not identified."""

import numpy as np
import polars as pl
import pytest

from analysis import parametric
from analysis.law import NotEnough
from analysis.runs import prepare
from analysis.solve import descend, polish, solve
from analysis.surface import SURFACES, sizes_of
from tests.analysis import ladders, reference

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)
PARAMETRIC = SURFACES["parametric"]


def scattered(seed: int = 0, runs: int = 60, noise: float = 0.0) -> pl.DataFrame:
    """Runs all over the plane, on the Chinchilla surface."""
    rng = np.random.default_rng(seed)
    n, d = np.exp(rng.uniform(16, 23, runs)), np.exp(rng.uniform(19, 26, runs))
    e, a, b, alpha, beta = ladders.CHINCHILLA
    loss = (e + a / n**alpha + b / d**beta) * np.exp(noise * rng.normal(size=runs))
    names = [f"run{i}" for i in range(runs)]
    table = {"run_id": names, "params": n, "tokens": d, "loss": loss, "state": ["DONE"] * runs}
    return pl.DataFrame(table | {"budget": [None] * runs}, schema_overrides={"budget": pl.Float64})


def test_the_replication_of_chinchilla_is_at_its_true_minimum() -> None:
    """Besiroglu et al. 2024, arXiv:2404.10102, print alpha .3478, beta .3658 near this minimum."""
    fit = parametric.fit(prepare(reference.chinchilla(outliers=False)), draws=50)
    assert fit.objective <= 1.018275e-3
    assert fit.coef["alpha"] == pytest.approx(0.3473, abs=5e-4)
    assert fit.coef["beta"] == pytest.approx(0.3672, abs=7e-4)
    assert fit.coef["E"] == pytest.approx(1.8172, abs=1e-3)
    assert fit.coef["a"] == pytest.approx(0.5139, abs=1e-3)


def test_twenty_random_starts_end_at_one_minimum() -> None:
    points = reference.chinchilla(outliers=False)
    sizes, log_y = sizes_of(points), np.log(points["loss"].to_numpy())
    best, lowest = solve(PARAMETRIC, sizes, log_y)
    rng = np.random.default_rng(0)
    low, high = [-1, -3, -3, 0.1, 0.1], [1, 1, 1, 1, 1]
    starts = rng.uniform(low, high, size=(20, 5))
    ones = np.ones((20, len(log_y)))
    for theta in descend(PARAMETRIC, sizes, log_y, ones, starts, steps=200):
        found, value = polish(PARAMETRIC, sizes, log_y, theta)
        assert value == pytest.approx(lowest, rel=1e-6)
        np.testing.assert_allclose(found, best, rtol=1e-2)


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e3])
def test_the_unit_of_n_and_d_changes_nothing_but_a_and_b(unit: float) -> None:
    points = scattered(noise=0.003)
    scaled = points.with_columns(pl.col("params") * unit, pl.col("tokens") / unit)
    one, other = (parametric.fit(prepare(p), draws=20) for p in (points, scaled))
    assert other.coef["alpha"] == pytest.approx(one.coef["alpha"], rel=1e-5)
    assert other.coef["E"] == pytest.approx(one.coef["E"], rel=1e-5)
    assert other.objective == pytest.approx(one.objective, rel=1e-6)


def test_a_surface_without_noise_is_recovered() -> None:
    fit = parametric.fit(prepare(scattered()), draws=20)
    for name, value in zip(("E", "A", "B", "alpha", "beta"), ladders.CHINCHILLA, strict=True):
        assert fit.coef[name] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("budget", [1e20, 1e24])
def test_the_optimum_is_that_of_the_closed_form(budget: float) -> None:
    runs = prepare(ladders.ladder(BUDGETS, sizes=7))
    fit = parametric.fit(runs, draws=5)
    said = np.exp(parametric.optimum(fit, runs, budget)[0])
    assert said == pytest.approx(ladders.optimum(budget), rel=1e-5)


def test_flops_that_are_not_6nd_move_the_optimum_by_their_measured_ratio() -> None:
    points = ladders.ladder(BUDGETS, sizes=7).with_columns(
        flops=8 * pl.col("params") * pl.col("tokens"), budget=pl.col("budget") * 8 / 6
    )
    runs = prepare(points)
    fit = parametric.fit(runs, draws=5)
    assert [d.name for d in runs.notes] == ["flops_ratio"]
    assert "8" in runs.notes[0].detail
    said = np.exp(parametric.optimum(fit, runs, 8e22)[0])
    assert said == pytest.approx(ladders.optimum(6e22), rel=1e-5)


def test_an_exponent_that_the_runs_do_not_show_is_named_and_not_printed() -> None:
    """Params that span a factor of 1.2 say nothing of alpha."""
    points = scattered(noise=0.004).with_columns(
        params=pl.lit(1e9) * (1 + 0.2 * (pl.col("params") / pl.col("params").max()))
    )
    e, a, b, alpha, beta = ladders.CHINCHILLA
    noise = np.exp(0.004 * np.random.default_rng(1).normal(size=len(points)))
    loss = (e + a / pl.col("params") ** alpha + b / pl.col("tokens") ** beta) * pl.lit(
        pl.Series(noise)
    )
    fit = parametric.fit(prepare(points.with_columns(loss=loss)), draws=50)
    assert "alpha_unidentified" in {d.name for d in fit.diagnostics}
    assert fit.coef["alpha"] is None
    assert fit.intervals["A"] is None
    assert fit.coef["beta"] == pytest.approx(beta, abs=0.1)


def test_a_floor_that_the_runs_do_not_show_is_named() -> None:
    rng = np.random.default_rng(0)
    points = scattered().with_columns(
        loss=400 / pl.col("params") ** 0.3 * pl.Series(np.exp(0.01 * rng.normal(size=60)))
    )
    fit = parametric.fit(prepare(points), draws=50)
    assert "E_unidentified" in {d.name for d in fit.diagnostics}
    assert fit.coef["E"] is None


def test_repeats_are_found_to_be_worth_what_they_were_made_worth() -> None:
    rng = np.random.default_rng(0)
    n, u = np.exp(rng.uniform(17, 21, 120)), np.exp(rng.uniform(20, 23, 120))
    epochs = np.exp(rng.uniform(0, 3.5, 120))
    repeated = u * (1 + 15 * (1 - np.exp(-(epochs - 1) / 15)))
    loss = 1.8 + 480 / n**0.35 + 2000 / repeated**0.37
    points = pl.DataFrame(
        {"run_id": [str(i) for i in range(120)], "params": n, "tokens": u * epochs}
        | {"unique_tokens": u, "loss": loss, "budget": [None] * 120},
        schema_overrides={"budget": pl.Float64},
    )
    fit = parametric.fit(prepare(points), name="data-constrained", draws=20)
    assert fit.coef["RD"] == pytest.approx(15, rel=0.1)
    assert fit.coef["alpha"] == pytest.approx(0.35, abs=0.02)


def test_a_surface_of_one_exponent_keeps_one() -> None:
    fit = parametric.fit(prepare(scattered(noise=0.003)), name="tied", draws=20)
    assert fit.coef["alpha"] == fit.coef["beta"]
    assert fit.coef["a"] == 0.5


def test_a_surface_whose_n_and_d_interact_is_recovered_by_the_richer_law() -> None:
    rng = np.random.default_rng(0)
    log_n, log_d = rng.uniform(16, 23, 80), rng.uniform(19, 26, 80)
    x, y = log_n - 19.5, log_d - 22.5
    loss = 1.5 + np.exp(-0.5 - 0.3 * x) + np.exp(-0.7 - 0.4 * y - 0.1 * x + 0.02 * x * y)
    points = scattered(runs=80).with_columns(
        params=pl.Series(np.exp(log_n)), tokens=pl.Series(np.exp(log_d)), loss=pl.Series(loss)
    )
    runs = prepare(points)
    rich, plain = (parametric.fit(runs, name=name, draws=20) for name in ("farseer", "parametric"))
    assert rich.coef["gamma"] == pytest.approx(0.02, abs=1e-3)
    assert rich.objective < plain.objective / 10


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (ladders.ladder([1e19], sizes=9), "runs at several budgets"),
        (ladders.ladder([1e19, 1e20], sizes=2), "4 usable runs; law 'parametric' needs 7"),
        (scattered().with_columns(params=pl.lit(1e8)), "1 model sizes"),
    ],
    ids=["one budget", "few runs", "one size"],
)
def test_runs_that_cannot_carry_the_law_are_refused_with_the_way_out(
    points: pl.DataFrame, sentence: str
) -> None:
    with pytest.raises(NotEnough, match=sentence):
        parametric.fit(prepare(points))


def test_repeats_are_asked_for_by_the_law_that_needs_them() -> None:
    with pytest.raises(NotEnough, match="no run repeats its data"):
        parametric.fit(prepare(scattered()), name="data-constrained")


def test_draws_are_stratified_and_repeat_by_seed() -> None:
    strata = np.array([1.0] * 5 + [2.0] * 7)
    weights = parametric.resampled(strata, 50, seed=1)
    assert (weights[:, :5].sum(axis=1) == 5).all()
    assert (weights[:, 5:].sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, parametric.resampled(strata, 50, seed=1))
    assert not np.array_equal(weights, parametric.resampled(strata, 50, seed=2))

"""Axes varied together: main effects and interactions, in blocks of seed and budget."""

import itertools
import math

import numpy as np
import polars as pl
import pytest

from analysis.ablation.effects import Effect, effects
from analysis.ablation.factorial import interactions

Runs = dict[tuple[str, ...], list[float]]


def grid(runs: Runs, baseline: tuple[str, ...], *, budget: float = 1e18) -> pl.DataFrame:
    """Rows of runs by their levels of axes a, b, c; one loss a seed, null where it is NaN."""
    return pl.DataFrame(
        {"axis": axis, "level": level, "baseline": level == own}
        | {"budget": budget, "seed": seed, "loss": None if math.isnan(loss) else loss}
        | {"run_id": f"{'/'.join(levels)}/{seed}/{budget:g}"}
        for levels, losses in runs.items()
        for seed, loss in enumerate(losses)
        for axis, level, own in zip("abc", levels, baseline, strict=False)
    )


def simulated(*, twist: float, noise: float, seeds: int = 3, rng_seed: int = 0) -> Runs:
    """Two axes of levels 0 and 1, worth -.02 and -.03, and `twist` more where both are 1."""
    rng = np.random.default_rng(rng_seed)
    luck = 0.1 * rng.normal(size=seeds)
    return {
        (str(a), str(b)): [
            3 + luck[s] - 0.02 * a - 0.03 * b + twist * a * b + noise * rng.normal()
            for s in range(seeds)
        ]
        for a, b in itertools.product((0, 1), repeat=2)
    }


def by_axis(found: list[Effect]) -> dict[str, Effect]:
    return {effect.axis: effect for effect in found}


def test_a_textbook_factorial_in_blocks_gives_its_effects_and_its_error() -> None:
    """Montgomery, Design and Analysis of Experiments, the 2^2 design in three blocks.

    A = 8.33, B = -5.00, AB = 1.67 (half of what both do beyond the sum), mean square error 4.14 on
    6 degrees of freedom.
    """
    runs: Runs = {
        ("-", "-"): [28, 25, 27],
        ("+", "-"): [36, 32, 32],
        ("-", "+"): [18, 19, 23],
        ("+", "+"): [31, 30, 29],
    }
    found = by_axis(interactions(grid(runs, ("-", "-"))))
    assert found["a"].difference == pytest.approx(8.33, abs=0.005)
    assert found["b"].difference == pytest.approx(-5.00, abs=0.005)
    assert found["a x b"].difference == pytest.approx(2 * 1.67, abs=0.01)
    assert all(e.noise == pytest.approx(math.sqrt(4.14), abs=0.001) for e in found.values())
    assert (found["a"].verdict, found["b"].verdict) == ("worse", "better")


def test_changes_that_simply_add_up_do_not_interact() -> None:
    found = by_axis(interactions(grid(simulated(twist=0.0, noise=0.001), ("0", "0"))))
    assert found["a x b"].verdict == "no difference seen"
    assert (found["a"].verdict, found["b"].verdict) == ("better", "better")


def test_two_changes_that_spoil_each_other_are_worse_together() -> None:
    found = by_axis(interactions(grid(simulated(twist=0.05, noise=0.001), ("0", "0"))))
    assert found["a x b"].difference == pytest.approx(0.05, abs=0.005)
    assert (found["a x b"].level, found["a x b"].verdict) == ("1 x 1", "worse")


def test_a_main_effect_is_averaged_over_the_levels_of_the_other_axis() -> None:
    found = by_axis(interactions(grid(simulated(twist=0.05, noise=0.0), ("0", "0"))))
    assert found["a"].difference == pytest.approx(-0.02 + 0.05 / 2)


def test_false_alarms_over_all_terms_stay_at_five_percent() -> None:
    """Of 200 grids of two levels that do nothing; 5 % and three standard errors is 9.6 %."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        runs = {levels: list(3 + 0.01 * rng.normal(size=3)) for levels in simulated_levels()}
        found = interactions(grid(runs, ("0", "0")))
        alarms += any(e.verdict in ("better", "worse") for e in found)
    assert alarms / 200 <= 0.096


def simulated_levels() -> list[tuple[str, str]]:
    return list(itertools.product("012", "01"))


def test_a_combination_that_never_finished_leaves_its_terms_untested_and_named() -> None:
    runs = simulated(twist=0.0, noise=0.001)
    runs["1", "1"] = [math.nan] * 3
    found = by_axis(interactions(grid(runs, ("0", "0"))))
    assert (found["a x b"].difference, found["a x b"].verdict) == (None, "not tested")
    assert [d.name for d in found["a x b"].diagnostics] == ["not_estimable"]


def test_a_run_that_failed_leaves_the_others_in_their_blocks() -> None:
    runs = simulated(twist=0.05, noise=0.001)
    runs["1", "0"][2] = math.nan
    found = by_axis(interactions(grid(runs, ("0", "0"))))
    assert found["a x b"].difference == pytest.approx(0.05, abs=0.005)
    assert found["a"].n == 5


def test_one_run_of_each_combination_leaves_no_noise_to_test_by() -> None:
    found = interactions(grid(simulated(twist=0.05, noise=0.0, seeds=1), ("0", "0")))
    assert {e.verdict for e in found} == {"not tested"}
    assert by_axis(found)["a x b"].difference == pytest.approx(0.05)


def test_budgets_are_blocks_as_seeds_are() -> None:
    low = grid(simulated(twist=0.05, noise=0.001, seeds=1), ("0", "0"))
    runs = {levels: [x - 0.5 for x in losses] for levels, losses in simulated_run().items()}
    found = by_axis(interactions(pl.concat([low, grid(runs, ("0", "0"), budget=1e19)])))
    assert found["a x b"].difference == pytest.approx(0.05, abs=0.005)
    assert found["a x b"].noise is not None
    assert found["a x b"].noise < 0.005


def simulated_run() -> Runs:
    return simulated(twist=0.05, noise=0.001, seeds=1, rng_seed=7)


def test_levels_changed_one_at_a_time_have_no_interactions() -> None:
    runs = simulated(twist=0.0, noise=0.001)
    del runs["1", "1"]
    assert interactions(grid(runs, ("0", "0"))) == []


def test_three_axes_have_three_main_effects_and_three_interactions() -> None:
    rng = np.random.default_rng(0)
    runs = {levels: [float(rng.normal())] for levels in itertools.product("01", repeat=3)}
    found = interactions(grid(runs, ("0", "0", "0")))
    assert [e.axis for e in found] == ["a", "b", "c", "a x b", "a x c", "b x c"]
    assert all(e.verdict != "not tested" for e in found)


def test_effects_take_from_a_grid_the_runs_that_change_one_axis() -> None:
    found = by_axis(effects(grid(simulated(twist=0.5, noise=0.0), ("0", "0"))))
    assert found["a"].difference == pytest.approx(-0.02)
    assert (found["a"].n, found["b"].n) == (3, 3)

"""IsoFLOP laws: bias taken off, refusals by name, and what was published on the same numbers."""

from contextlib import suppress

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import isoflop
from analysis.law import Fit, NotEnough
from analysis.runs import prepare
from tests.analysis import ladders, reference

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)


def fitted(points: pl.DataFrame, **options: object) -> Fit:
    return isoflop.fit(prepare(points), draws=50, **options)  # pyright: ignore[reportArgumentType]


def at(fit: Fit, points: pl.DataFrame, budget: float) -> tuple[float, float, float]:
    params, tokens, loss = np.exp(isoflop.optimum(fit, prepare(points), budget)[0])
    return params, tokens, loss


def test_the_tokens_law_of_llama_3_is_found_in_its_digitised_figure() -> None:
    """Llama 3, arXiv:2407.21783, sec. 3.2.1: alpha, A = .53, .29 and D*(3.8e25) = 16.55 T."""
    points = reference.llama3()
    fit = fitted(points, corrected=False)
    assert fit.coef["tokens_exponent"] == pytest.approx(0.5368, abs=0.001)
    assert fit.coef["tokens_coefficient"] == pytest.approx(0.2994, abs=0.005)
    assert at(fit, points, 3.8e25)[1] == pytest.approx(16.1e12, abs=0.05e12)


def test_the_correction_moves_llama_3_by_less_than_its_rounding() -> None:
    points = reference.llama3()
    fit = fitted(points)
    assert fit.coef["tokens_exponent"] == pytest.approx(0.5368, abs=0.001)
    assert at(fit, points, 3.8e25)[1] == pytest.approx(16.0e12, abs=0.1e12)


def test_a_centred_grid_biases_the_plain_coefficient_by_what_is_known() -> None:
    """Hoffmann's surface is asymmetric: grids of 16 x either way put D* 5 % low without noise."""
    surface = ladders.HOFFMANN
    points = ladders.ladder(BUDGETS, sizes=15, spread=16.0, surface=surface)
    fit = fitted(points, corrected=False)
    assert fit.coef["tokens_exponent"] == pytest.approx(0.34 / (0.34 + 0.28), abs=1e-9)
    bias = at(fit, points, 1e24)[1] / ladders.optimum(1e24, surface)[1] - 1
    assert bias == pytest.approx(-0.05, abs=0.005)


@pytest.mark.parametrize("method", ["parabola", "local", "akima"])
@pytest.mark.parametrize(
    "surface", [ladders.HOFFMANN, ladders.CHINCHILLA, (1.8, 1e2, 3e4, 0.2, 0.6)]
)
def test_the_correction_takes_the_bias_off_whatever_the_method(
    method: str, surface: ladders.Surface
) -> None:
    points = ladders.ladder(BUDGETS, sizes=15, spread=16.0, surface=surface)
    fit = fitted(points, method=method)
    assert at(fit, points, 1e24) == pytest.approx(ladders.optimum(1e24, surface), rel=1e-4)


def test_a_drifting_grid_does_not_bias_the_corrected_exponent() -> None:
    parts = [
        ladders.ladder([budget], sizes=9, spread=8.0, drift=1.5 ** (i - 2), name=f"b{i}-")
        for i, budget in enumerate(BUDGETS)
    ]
    points = pl.concat(parts)
    true = ladders.BETA / (ladders.ALPHA + ladders.BETA)
    assert fitted(points).coef["params_exponent"] == pytest.approx(true, abs=1e-5)
    plain = fitted(points, corrected=False).coef["params_exponent"]
    assert plain != pytest.approx(true, abs=1e-3)


def test_runs_that_diverged_or_failed_are_kept_out_by_name() -> None:
    state = pl.col("run_id").replace_strict({"run1": "DIVERGED", "run7": "FAILED"}, default="DONE")
    fit = fitted(ladders.ladder(BUDGETS, sizes=7).with_columns(state.alias("state")))
    assert {(e.run_id, e.reason) for e in fit.excluded} == {
        ("run1", "state DIVERGED"),
        ("run7", "state FAILED"),
    }
    assert not {"run1", "run7"} & set(fit.run_ids)


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf"), 0.0, -2.0])
def test_a_loss_that_is_no_positive_number_is_kept_out_by_name(loss: float | None) -> None:
    bad = pl.when(pl.col("run_id") == "run3").then(pl.lit(loss)).otherwise("loss").alias("loss")
    fit = fitted(ladders.ladder(BUDGETS, sizes=7).with_columns(bad))
    assert [(e.run_id, e.reason) for e in fit.excluded] == [("run3", "no finite positive loss")]


def test_trials_of_an_ablation_do_not_bend_the_ladder() -> None:
    ladder = ladders.ladder(BUDGETS, noise=0.002)
    other = ladder.head(5).with_columns(
        pl.lit("one_at_a_time").alias("design"),
        pl.col("loss") * 3,
        (pl.lit("x") + pl.col("run_id")).alias("run_id"),
    )
    both = fitted(pl.concat([ladder, other]))
    assert both.coef == fitted(ladder).coef
    assert both.excluded == ()


def test_a_run_that_stands_in_two_trials_counts_once() -> None:
    ladder = ladders.ladder(BUDGETS, noise=0.002)
    assert fitted(pl.concat([ladder, ladder.head(3)])).coef == fitted(ladder).coef


def test_too_few_budgets_are_refused_with_the_reason_of_each() -> None:
    good = ladders.ladder(BUDGETS[:2])
    edge = ladders.ladder([1e19], drift=20.0, name="edge")
    with pytest.raises(NotEnough) as refused:
        fitted(pl.concat([good, edge]))
    sentence = str(refused.value)
    assert "2 usable budgets (1e18, 3e18), 3 are needed" in sentence
    assert "minimum_at_edge: budget 1e19" in sentence


def test_no_run_at_all_is_refused_with_a_sentence() -> None:
    with pytest.raises(NotEnough, match="0 usable budgets"):
        fitted(ladders.ladder(BUDGETS).clear())


def test_a_refused_budget_is_a_diagnostic_and_not_a_number() -> None:
    edge = ladders.ladder([1e21], drift=20.0, name="edge")
    fit = fitted(pl.concat([ladders.ladder(BUDGETS), edge]))
    assert fit.budgets == BUDGETS
    assert "minimum_at_edge" in {d.name for d in fit.diagnostics}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(BUDGETS),
            st.floats(1e3, 1e12),
            st.one_of(st.none(), st.floats(-1e50, 1e50), st.floats(0.1, 20)),
        ),
        max_size=40,
    )
)
def test_any_table_gives_a_fit_or_a_sentence(rows: list[tuple[float, float, float | None]]) -> None:
    points = pl.DataFrame(
        [
            {"run_id": str(i), "budget": c, "params": n, "tokens": c / 6 / n, "loss": loss}
            for i, (c, n, loss) in enumerate(rows)
        ],
        schema={"run_id": pl.String}
        | dict.fromkeys(("budget", "params", "tokens", "loss"), pl.Float64),
    )
    with suppress(NotEnough):
        fit = isoflop.fit(prepare(points), draws=20)
        assert len(fit.budgets) >= isoflop.BUDGETS_NEEDED
        assert np.isfinite(fit.theta).all()

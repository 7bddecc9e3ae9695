"""The runs of a mixing study: which are kept, and why others are not."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from analysis.mixture import runs as mixture_runs
from tests.analysis import mixtures

WEIGHTS = ["weight/web", "weight/code", "weight/books"]
LOSSES = ["loss/web", "loss/code", "loss/books"]


def usable(points: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    rows, excluded = mixture_runs.usable(points, WEIGHTS, LOSSES)
    return rows, {e.run_id: e.reason for e in excluded}


@given(st.floats(0.0, 4.0))
def test_runs_are_kept_where_their_weights_sum_to_one_within_five_percent(scale: float) -> None:
    one = mixtures.study(1).with_columns(pl.col(WEIGHTS) * scale)
    kept, why = usable(one)
    if abs(scale - 1) < 0.0499:
        assert (len(kept), why) == (1, {})
    elif abs(scale - 1) > 0.0501:
        assert why["row 1"].endswith("not to 1 within 5%")


@given(
    st.sampled_from(WEIGHTS + LOSSES),
    st.sampled_from([None, np.nan, np.inf, -np.inf, -0.01]),
    st.integers(0, 4),
)
def test_a_run_with_a_bad_number_is_kept_out_by_its_name(
    column: str, bad: float | None, row: int
) -> None:
    points = mixtures.study(5)
    values = points[column].to_list()
    values[row] = bad
    kept, why = usable(points.with_columns(pl.Series(column, values, dtype=pl.Float64)))
    assert len(kept) == 4
    assert list(why) == [f"row {row + 1}"]
    assert column in why[f"row {row + 1}"]


def test_diverged_runs_and_doubled_ones_are_kept_out() -> None:
    points = mixtures.study(3).with_columns(
        pl.Series("run_id", ["a", "b", "a"]), pl.Series("state", ["DONE", "DIVERGED", "DONE"])
    )
    kept, why = usable(points)
    assert kept["run_id"].to_list() == ["a"]
    assert why == {"b": "state DIVERGED"}

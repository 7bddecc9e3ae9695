"""Files of runs from outside: read alike in every form, completed, and refused in a sentence."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.points import NEED, Points, of_frame, read, read_sizes
from analysis.tables import READERS, BadPoints, parse_columns

# Two decades, for wider gaps are taken for another unit.
POSITIVE = st.floats(10, 1e3)
LOSSES = st.one_of(POSITIVE, st.just(math.nan), st.just(math.inf), st.none())
# Each example writes its file anew.
ON_DISK = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def ladder(rows: int = 12, **columns: Any) -> pl.DataFrame:
    """Runs of three budgets, 6 N D spent in each."""
    budget = np.repeat([1e18, 3e18, 1e19], -(-rows // 3))[:rows]
    params = 1e8 * 1.5 ** (np.arange(rows) % 4) * np.sqrt(budget / 1e18)
    frame = pl.DataFrame({"params": params, "tokens": budget / 6 / params, "flops": budget})
    return frame.with_columns(loss=pl.lit(3.0)).with_columns(**columns)


def write(frame: pl.DataFrame, path: Path) -> Path:
    writers = {
        ".csv": frame.write_csv,
        ".parquet": frame.write_parquet,
        ".jsonl": lambda to: to.write_text("".join(json.dumps(r) + "\n" for r in frame.to_dicts())),
    }
    writers[path.suffix](path)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[str | pl.DataFrame], Path]:
    """A .csv of this text or frame."""

    def build(content: str | pl.DataFrame) -> Path:
        path = tmp_path / "runs.csv"
        if isinstance(content, pl.DataFrame):
            return write(content, path)
        path.write_text(content, encoding="utf-8")
        return path

    return build


def names(points: Points) -> list[str]:
    return [note.name for note in points.notes]


@ON_DISK
@given(
    rows=st.lists(st.tuples(POSITIVE, POSITIVE, LOSSES), min_size=1, max_size=8),
    suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]),
)
def test_every_form_of_file_gives_the_numbers_that_were_written(
    tmp_path: Path, rows: list[tuple[float, float, float | None]], suffix: str
) -> None:
    schema = {"params": pl.Float64, "tokens": pl.Float64, "loss": pl.Float64}
    frame = pl.DataFrame(rows, schema, orient="row").with_columns(params=pl.lit(1e8))
    points = read(write(frame, tmp_path / f"runs{suffix}"))
    assert points.frame.select(frame.columns).equals(frame)
    assert points.frame["run_id"].to_list() == [f"row {n + 1}" for n in range(len(rows))]


@ON_DISK
@given(st.permutations(NEED), st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=4))
def test_other_names_read_as_ours(tmp_path: Path, order: list[str], letters: list[str]) -> None:
    theirs = {
        name: f"{letter}{n}" for n, (name, letter) in enumerate(zip(order, letters, strict=True))
    }
    frame = ladder()
    renamed = write(frame.rename(theirs), tmp_path / "theirs.csv")
    plain = read(write(frame, tmp_path / "ours.csv"))
    text = ",".join(f"{ours}={their}" for ours, their in theirs.items())
    points = read(renamed, parse_columns(text))
    assert points.frame.equals(plain.frame)


def test_a_column_displaced_by_a_name_is_kept(runs: Callable[..., Path]) -> None:
    path = runs(ladder(val_loss=pl.lit(2.5), run_id=pl.lit("x")))
    frame = read(path, {"loss": "val_loss"}).frame
    assert frame["loss"].to_list() == [2.5] * 12
    assert frame["loss_of_file"].to_list() == [3.0] * 12
    assert frame["run_id_of_file"].to_list() == ["x"] * 12


def test_columns_that_are_not_ours_stay_as_they_are(runs: Callable[..., Path]) -> None:
    frame = read(runs(ladder(host=pl.lit("n1"), layers=pl.lit(12)))).frame
    assert frame.select("host", "layers").row(0) == ("n1", 12)


@pytest.mark.parametrize(
    ("gone", "note"),
    [("params", "params_derived"), ("tokens", "tokens_derived"), ("flops", "flops_6nd")],
)
def test_two_of_params_tokens_and_flops_give_the_third(
    runs: Callable[..., Path], gone: str, note: str
) -> None:
    frame = ladder()
    points = read(runs(frame.drop(gone)))
    assert points.frame[gone].to_list() == pytest.approx(frame[gone].to_list())
    assert names(points) == [note, "budgets_grouped"]


def test_a_cell_that_is_missing_is_filled_by_the_ratio_of_the_other_rows(
    runs: Callable[..., Path],
) -> None:
    frame = ladder(flops=pl.when(pl.int_range(pl.len()) > 0).then(7 * pl.col("flops") / 6))
    points = read(runs(frame))
    assert points.flops_ratio == pytest.approx(7)
    assert points.frame["flops"][0] == pytest.approx(7e18 / 6)
    assert names(points) == ["flops_ratio", "flops_6nd", "budgets_grouped"]


def test_a_ratio_other_than_six_is_measured_and_said(runs: Callable[..., Path]) -> None:
    points = read(runs(ladder(flops=pl.col("flops") * 1.2)))
    assert points.flops_ratio == pytest.approx(7.2)
    assert "is 7.2 (7.2 to 7.2), not 6" in points.notes[0].detail


def test_a_ratio_of_six_is_not_spoken_of(runs: Callable[..., Path]) -> None:
    assert names(read(runs(ladder(flops=pl.col("flops") * 1.005)))) == ["budgets_grouped"]


def test_budgets_of_the_file_are_taken_as_they_are(runs: Callable[..., Path]) -> None:
    budget = pl.when(pl.int_range(pl.len()) < 4).then(5e17)
    points = read(runs(ladder(budget=budget)))
    assert points.frame["budget"].to_list() == [5e17] * 4 + [None] * 8
    assert names(points) == []


def test_a_file_of_budgets_and_tokens_has_spent_its_budgets(runs: Callable[..., Path]) -> None:
    points = read(runs(ladder().rename({"flops": "budget"}).drop("params")))
    assert points.frame["flops"].to_list() == points.frame["budget"].to_list()
    assert names(points) == ["flops_from_budget", "params_derived"]


def test_budgets_are_read_off_the_flops(runs: Callable[..., Path]) -> None:
    points = read(runs(ladder()))
    assert points.frame["budget"].to_list() == ladder()["flops"].to_list()
    assert "3 budgets from 1e18 to 1e19 read off the FLOPs; 0 of 12" in points.notes[0].detail


def test_losses_that_are_no_number_stay_for_the_laws_to_name(runs: Callable[..., Path]) -> None:
    text = "params,tokens,loss\n1e8,1e9,NaN\n1e8,1e9,inf\n1e8,1e9,\n1e8,1e9,n/a\n1e8,1e9,-inf\n"
    losses = read(runs(text)).frame["loss"].to_list()
    assert [None if x is None else str(x) for x in losses] == ["nan", "inf", None, None, "-inf"]


def test_states_are_words_of_ours_and_done_where_there_is_none(runs: Callable[..., Path]) -> None:
    text = "params,tokens,loss,state\n1e8,1e9,3,done\n1e8,1e9,0,Diverged\n1e8,1e9,3,\n"
    assert read(runs(text)).frame["state"].to_list() == ["DONE", "DIVERGED", "DONE"]


def test_seeds_are_whole_numbers(runs: Callable[..., Path]) -> None:
    text = "params,tokens,loss,seed\n1e8,1e9,3,7.0\n1e8,1e9,3,\n"
    assert read(runs(text)).frame["seed"].to_list() == [7, None]
    with pytest.raises(BadPoints, match="row 1: seed must be a whole number"):
        read(runs("params,tokens,loss,seed\n1e8,1e9,3,0.5\n"))


def test_another_law_needs_other_columns(runs: Callable[..., Path]) -> None:
    path = runs("flops,nll,accuracy,task\n1e18,1.5,0.3,arc\n")
    assert read(path, need=("flops", "nll", "accuracy")).frame["accuracy"].to_list() == [0.3]
    with pytest.raises(BadPoints, match="there is no column lr or loss"):
        read(path, need=("lr", "loss"))


# (the file, what is said)
MISTAKES = [
    ("", "has no rows; give a file with a row a run"),
    ("params,tokens,loss\n", "has no rows"),
    ("params,tokens,val_loss\n1e8,1e9,3\n", "no column loss.*--columns loss=val_loss"),
    ("params,tokens,LOSS\n1e8,1e9,3\n", "--columns loss=LOSS"),
    ("params,tokens, loss\n1e8,1e9,3\n", "--columns loss= loss"),
    ("params,tokens,los\n1e8,1e9,3\n", "--columns loss=los"),
    ("params,x,loss\n1e8,1e9,3\n", "tokens or flops.*any two of params, tokens and flops will do"),
    ("N,D,L\n1e8,1e9,3\n", "it has N, D, L; .*--columns params=THEIR_NAME"),
    ("compute_budget,training_tokens,loss\n1e8,1e9,3\n",
     "--columns tokens=training_tokens,flops=compute_budget"),
    ("params,tokens,loss\n1e8,1e9,3\n1e8,1e9,-3\n", "row 2: loss=-3 is not above zero; leave"),
    ("params,tokens,loss\n1e8,1e9,0\n1e8,1e9,0\n", "rows 1, 2: loss=0 is not above zero"),
    ("params,tokens,loss\n0,1e9,3\n", "row 1: params=0 is not above zero"),
    ("params,tokens,flops,loss\n1e8,1e9,-6e17,3\n", "row 1: flops=-6e[+]17 is not above zero"),
    ("params,tokens,loss\n1e8,1e9,3\n1.4B,1e9,3\n", "row 2: params='1.4B' is not a number"),
    ('params,tokens,loss\n"100,000,000",1e9,3\n', "row 1: params='100,000,000' is not a number"),
    ("params,tokens,loss\n1e8,1e9,3\n1e8,true,3\n", "row 2: tokens='true' is not a number"),
    ("params,tokens,loss\n1e8,1e9\n1e8,1e9,3,4,5\n", "cannot be read: "),
    ("params,tokens,flops,loss\n" + "1e8,1e9,6e17,3\n" * 5 + "100,1e9,6e17,3\n",
     "row 6: flops / .params x tokens. runs from 6 to 6e[+]06, .*bring all rows to one unit"),
    ("params,tokens,loss\n" + "1e8,1e9,3\n" * 5 + "100,1e9,3\n",
     "row 6: no params between 100 and 1e8, as if some were in another unit"),
    ("params,tokens,loss\n1e8,1e9,3\n" + "1e8,1,3\n" * 9,
     "row 1: no tokens between 1 and 1e9"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), MISTAKES)
def test_a_mistake_in_a_file_is_said_with_row_and_way_out(
    runs: Callable[..., Path], text: str, says: str
) -> None:
    with pytest.raises(BadPoints, match=rf"runs\.csv: .*{says}"):
        read(runs(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loss", "'loss' is not OURS=THEIRS; write loss=val_loss"),
        ("loss=", "is not OURS=THEIRS"),
        ("loss=a,", "'' is not OURS=THEIRS"),
        ("loss=a,loss=b", "names 'loss' twice"),
        ("loss=a,tokens=a", "names 'a' twice"),
    ],
)
def test_a_mistake_in_columns_is_said(text: str, says: str) -> None:
    with pytest.raises(BadPoints, match=says):
        parse_columns(text)


def test_a_column_that_is_asked_for_and_not_there_is_named(runs: Callable[..., Path]) -> None:
    path = runs("params,tokens,val_loss\n1e8,1e9,3\n")
    with pytest.raises(BadPoints, match=r"loss=vall_loss: .*did you mean 'val_loss'"):
        read(path, {"loss": "vall_loss"})


@pytest.mark.parametrize("suffix", [*READERS, ".txt", ""])
@given(st.binary(max_size=40))
@ON_DISK
def test_bytes_that_are_no_runs_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadPoints, match="noise"):
        read(path)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "absent.jsonl", "folder.csv"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadPoints, match=r"cannot be read"):
        read(tmp_path / name)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"params": 1e8, "tokens": 1e9, "loss": NaN}\n{"params": 1e8,\n')
    with pytest.raises(BadPoints, match="line 2 is not JSON"):
        read(path)


def test_sizes_to_predict_keep_their_order_and_either_name(runs: Callable[..., Path]) -> None:
    path = runs("tokens,size,what\n1e12,1e9,big\n1e9,1e6,small\n")
    sizes = read_sizes(path, {"params": "size", "loss": "val_loss"})
    assert sizes.select("params", "tokens", "what").rows() == [
        (1e9, 1e12, "big"),
        (1e6, 1e9, "small"),
    ]


@pytest.mark.parametrize("cell", ["0", "-1", "nan", "", "inf"])
def test_a_size_to_predict_is_a_number_above_zero(runs: Callable[..., Path], cell: str) -> None:
    with pytest.raises(BadPoints, match="row 2: tokens must be a number above zero"):
        read_sizes(runs(f"params,tokens\n1e8,1e9\n1e8,{cell}\n"))


def test_rows_of_a_store_carry_their_measured_ratio() -> None:
    points = of_frame(ladder(flops=pl.col("flops") * 1.5))
    assert (points.flops_ratio, names(points)) == (pytest.approx(9), ["flops_ratio"])


@pytest.mark.slow
def test_a_million_rows_are_read_in_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flops = rng.choice([1e18, 1e19, 1e20], 10**6) * np.exp(rng.normal(0, 0.01, 10**6))
    params = np.sqrt(flops / 120) * np.exp(rng.uniform(-1, 1, 10**6))
    frame = pl.DataFrame({"params": params, "tokens": flops / 6 / params, "flops": flops})
    path = write(frame.with_columns(loss=pl.lit(3.0)), tmp_path / "runs.csv")
    started = time.monotonic()
    points = read(path)
    assert time.monotonic() - started < 20
    assert points.frame["budget"].n_unique() == 3

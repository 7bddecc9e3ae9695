"""Runs from outside on the command line: fitted as a file, or brought into a study."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import CommandLine
from typer.testing import CliRunner, Result

from sweeper import cli, outside
from sweeper.errors import UserError
from sweeper.folders import StudyDir

SIZES = np.array([0.25, 0.5, 1.0, 2.0, 4.0])


def surface(params: pl.Expr, tokens: pl.Expr) -> pl.Expr:
    """Source: Besiroglu et al. 2024, arXiv:2404.10102, the refit of Chinchilla's law."""
    return 1.8172 + 482.01 / params**0.3478 + 2085.43 / tokens**0.3658


def ladder(budgets: tuple[float, ...] = (1e18, 3e18, 1e19, 3e19)) -> pl.DataFrame:
    """Five sizes at each budget about the optimum of the surface, with their losses."""
    flops = np.repeat(budgets, len(SIZES))
    params = np.tile(SIZES, len(budgets)) * np.sqrt(flops / 120)
    frame = pl.DataFrame({"params": params, "tokens": flops / 6 / params, "flops": flops})
    return frame.with_columns(val_loss=surface(pl.col("params"), pl.col("tokens")))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    ladder().write_csv(path)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return result.stdout


def refused(*arguments: object) -> str:
    error = call(*arguments).exception
    assert isinstance(error, UserError), repr(error)
    assert error.exit_code == 2
    return str(error)


def imported(runs: Path, name: str = "theirs") -> str:
    return said("import", runs, "--study", name, "--columns", "loss=val_loss")


def test_a_file_of_runs_is_fitted_without_a_study_or_a_store(home: Path, runs: Path) -> None:
    out = said("fit", runs, "--columns", "loss=val_loss", "--law", "isoflop", "--json")
    found = json.loads(out)
    assert out.count("\n") == 1
    assert (found["law"], found["rows"]) == ("isoflop", 20)
    assert not home.exists()


def test_without_json_the_same_is_said_in_words(home: Path, runs: Path) -> None:
    out = said("fit", runs, "--columns", "loss=val_loss", "--law", "isoflop", "--target", "1e21")
    assert "isoflop" in out
    with pytest.raises(json.JSONDecodeError):
        json.loads(out)


def test_predictions_come_in_the_order_of_their_file(
    home: Path, runs: Path, tmp_path: Path
) -> None:
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("tokens,params\n4e9,2e8\n1e9,1e8\n")
    columns = ("--columns", "loss=val_loss")
    out = said("fit", runs, *columns, "--law", "parametric", "--predict", sizes, "--json")
    predictions = json.loads(out)["predictions"]
    assert [row["params"] for row in predictions] == [2e8, 1e8]


def test_rows_brought_into_a_study_are_fitted_like_their_file(home: Path, runs: Path) -> None:
    imported(runs)
    rest = ("--law", "isoflop", "--target", "1e21", "--json")
    by_file = json.loads(said("fit", runs, "--columns", "loss=val_loss", *rest))
    by_name = json.loads(said("fit", "theirs", *rest))
    assert by_name["coef"] == pytest.approx(by_file["coef"])


def test_an_import_says_what_it_brought(home: Path, runs: Path) -> None:
    out = imported(runs)
    assert "study 'theirs': 20 rows imported" in out
    assert "20 imported runs: 20 DONE" in out
    assert "4 budgets, 1e18 to 3e19 FLOPs" in out


def test_the_same_rows_again_change_nothing(home: Path, runs: Path) -> None:
    imported(runs)
    kept = StudyDir(home, "theirs").imported
    before = (kept.stat().st_ino, kept.stat().st_mtime_ns)
    assert "has these 20 rows already; nothing changed" in imported(runs)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == before


def test_other_rows_take_the_place_of_those_before(home: Path, runs: Path) -> None:
    imported(runs)
    ladder((1e20, 3e20)).write_csv(runs)
    assert "10 rows imported in the place of 20 imported before" in imported(runs)
    assert said("sql", "theirs", "select count(*), min(budget) from imported").split()[-2:] == [
        "10",
        "1e+20",
    ]


def test_every_verb_that_reads_knows_an_imported_study(home: Path, runs: Path) -> None:
    imported(runs)
    assert "20 imported runs: 20 DONE" in said("status", "theirs")
    assert said("sql", "theirs", "select count(*) from imported").split()[-1] == "20"
    report = Path(said("report", "theirs").strip())
    assert report == StudyDir(home, "theirs").report
    assert "row 7" in report.read_text()


def test_columns_that_a_store_does_not_have_are_kept(home: Path, runs: Path) -> None:
    ladder().with_columns(host=pl.lit("n1"), number=pl.lit(7)).write_csv(runs)
    imported(runs)
    query = "select distinct others->>'host', others->>'number' from imported"
    assert said("sql", "theirs", query).split()[-2:] == ["n1", "7"]
    frame = outside.points(StudyDir(home, "theirs")).frame
    assert frame.select("host", "number").unique().rows() == [("n1", 7)]


def test_the_store_is_made_again_from_the_rows_kept(home: Path, runs: Path) -> None:
    imported(runs)
    place = StudyDir(home, "theirs")
    before = outside.points(place).frame
    place.store.write_bytes(b"this is no database")
    said("status", "theirs")
    said("report", "theirs")
    assert outside.points(place).frame.equals(before)


@pytest.mark.parametrize("verb", ["plan", "launch", "promote"])
def test_a_study_without_a_file_is_not_trained(home: Path, runs: Path, verb: str) -> None:
    imported(runs)
    assert "is known by its imported rows alone" in refused(verb, "theirs")


@pytest.mark.parametrize("name", ["../x", "A", "", "a b", "x\n", "x" * 64])
def test_a_name_that_no_study_could_have_is_refused(home: Path, runs: Path, name: str) -> None:
    message = refused("import", runs, "--study", name, "--columns", "loss=val_loss")
    assert "is no name of a study" in message
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("RUNS", "--law", "isoflp"), "--law 'isoflp' is not known; did you mean 'isoflop'?"),
        (("RUNS",), "there is no column loss; it has val_loss"),
        (("RUNS", "--columns", "loss"), "is not OURS=THEIRS"),
        (("RUNS", "base.lr.scale=2"), "values of a study, and"),
        (("RUNS", "--target", "-1"), "--target -1 is no number of FLOPs"),
        (("RUNS", "--target", "nan"), "--target nan is no number of FLOPs"),
        (("RUNS", "--columns", "loss=val_loss", "--predict", "no.csv"), "no.csv: cannot be read"),
        (("nobody",), "is no study below"),
        (("runs.xlsx",), ".xlsx is not read; use .csv"),
        (("absent.py", "--law", "isoflop"), "does not exist; give the path of a study file"),
        (("theirs", "--columns", "loss=a"), "theirs is a study"),
        (("theirs", "base.lr.scale=2"), "has no file whose values change"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_printed(
    home: Path, runs: Path, arguments: tuple[str, ...], says: str
) -> None:
    imported(runs)
    words = [str(runs) if word == "RUNS" else word for word in arguments]
    assert says in refused("fit", *words)
    assert call("fit", *words).stdout == ""


def test_an_import_that_fails_leaves_nothing(home: Path, runs: Path) -> None:
    assert "there is no column loss" in refused("import", runs, "--study", "theirs")
    assert not home.exists()


def test_an_import_that_fails_leaves_the_rows_before(home: Path, runs: Path) -> None:
    imported(runs)
    kept = StudyDir(home, "theirs").imported.read_bytes()
    runs.write_text("params,tokens,val_loss\n1e8,1e9,-3\n")
    assert "loss=-3 is not above zero" in refused(
        "import", runs, "--study", "theirs", "--columns", "loss=val_loss"
    )
    assert StudyDir(home, "theirs").imported.read_bytes() == kept


@pytest.mark.slow
def test_a_launched_study_has_its_imported_rows_beside_its_own(
    quick: CommandLine, runs: Path
) -> None:
    code, out = quick.launch("promotion.approve=hold")
    assert code == 0, out
    own = quick.rows("select count(*) from trials")
    code, out = quick.run("import", str(runs), "--study", "small", "--columns", "loss=val_loss")
    assert code == 0, out
    code, by_file = quick.run("status", str(quick.study), "promotion.approve=hold")
    assert code == 0, by_file
    assert "20 imported runs: 20 DONE" in by_file
    place = StudyDir(quick.home, "small")
    designs = outside.points(place).frame["design"].value_counts().sort("design").rows()
    assert ("imported", 20) in designs
    assert sum(count for _, count in designs) == int(own[0]) + 20
    for verb in ("status", "fit", "report"):
        code, out = quick.run(verb, "small")
        assert code == 0, out
    assert os.path.getsize(place.report) > 1_000_000

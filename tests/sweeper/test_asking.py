"""`sql` and `export` on the command line."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from sweeper import cli
from sweeper.errors import UserError


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with study "ours" of three rows from outside, one without a loss."""
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "home"))
    rows = "params,tokens,loss\n1e8,2e9,3.5\n2e8,4e9,3.25\n4e8,8e9,nan\n"
    (tmp_path / "runs.csv").write_text(rows)
    assert said("import", tmp_path / "runs.csv", "--study", "ours")
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.exception or result.output
    return result.stdout


def refused(*arguments: object) -> str:
    error = call(*arguments).exception
    assert isinstance(error, UserError), repr(error)
    return str(error)


def test_rows_are_printed_as_json_for_scripts(home: Path) -> None:
    lines = said("sql", "ours", "select tokens, loss from points", "--json").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"tokens": 2e9, "loss": 3.5},
        {"tokens": 4e9, "loss": 3.25},
        {"tokens": 8e9, "loss": None},
    ]


def test_sql_changes_the_store_only_when_asked(home: Path) -> None:
    change = "delete from imported where loss > 3.3"
    assert "read-only" in refused("sql", "ours", change)
    result = call("sql", "ours", change, "--write")
    assert (result.exit_code, "is derived" in result.stderr) == (0, True)


def test_sql_reads_no_other_file(home: Path) -> None:
    assert "disabled" in refused("sql", "ours", "select * from read_text('/etc/passwd')")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_table_is_written_to_a_file(home: Path, suffix: str) -> None:
    path = home / f"it's.{suffix}"
    path.write_text("old")
    said("export", "ours", "--table", "points", "--to", path)
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[suffix]
    rows = read(path)
    assert rows["tokens"].to_list() == [2e9, 4e9, 8e9]
    assert rows["loss"].cast(pl.Float64).to_list()[:2] == [3.5, 3.25]
    assert [file.name for file in home.glob(".*tmp")] == []


def test_json_columns_are_exported_as_text(home: Path) -> None:
    path = home / "studies.parquet"
    said("export", "ours", "--table", "studies", "--to", path)
    assert pl.read_parquet_schema(path)["resolved"] == pl.String


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--table", "run"), "--table 'run' is not in the store; did you mean 'runs'?"),
        (("--to", "runs.xlsx"), "--to runs.xlsx: .xlsx is not written; use .parquet, .csv, .jsonl"),
        (("--to", "no/such/runs.csv"), "there is no folder no/such; make it first"),
    ],
)
def test_what_cannot_be_exported_is_said(
    home: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused("export", "ours", *arguments)


def test_without_a_file_a_table_goes_to_stdout(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said("export", "ours", "--table", "points")
    header, *lines = capfd.readouterr().out.splitlines()
    assert (header.split(",")[:2], len(lines)) == (["study", "number"], 3)
    said("export", "ours", "--table", "points", "--json")
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["loss"] for row in rows] == [3.5, 3.25, None]


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "wandb is not installed" in refused("export", "ours", "--wandb", home / "w")
    assert not (home / "w").exists()

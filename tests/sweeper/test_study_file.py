"""Study files: where a mistake is said to lie, and what an override may change."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper import cli
from sweeper.errors import UserError
from sweeper.overrides import with_values
from sweeper.study import Study
from sweeper.study_file import load


def plan(path: Path, *overrides: str) -> tuple[int, str]:
    """The exit code and the message of `sweeper plan`, which reads all that `launch` reads."""
    result = CliRunner().invoke(cli.app, ["plan", str(path), *overrides])
    if isinstance(result.exception, UserError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None, repr(result.exception)
    return result.exit_code, result.output


def test_a_mistake_carries_the_line_of_the_file(study_path: Path) -> None:
    text = study_path.read_text().replace("spread=3.0", "spraed=3.0")
    study_path.write_text(text)
    line = 1 + text[: text.index("IsoFLOP(sizes")].count("\n")
    with pytest.raises(UserError, match=rf"small\.py:{line}: spraed: unknown field"):
        load(study_path)


def test_a_syntax_error_carries_its_line(study_path: Path) -> None:
    study_path.write_text(study_path.read_text() + "\ndef broken(:\n")
    line = study_path.read_text().count("\n")
    with pytest.raises(UserError, match=rf"small\.py:{line}: syntax error"):
        load(study_path)


@pytest.mark.parametrize("what", ["absent.py", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(UserError, match="give the path of a study file"):
        load(tmp_path / what)


def test_bytes_that_are_no_python_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.py"
    path.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(UserError, match=r"binary\.py"):
        load(path)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("base.lr.scale=-1", "base.lr.scale: -1 is not legal"),
        ("base.lr.skale=1", "did you mean 'scale'?"),
        ("promotion.target=1", "is not above the ladder"),
        ("target", "is not path=value"),
        ("base.data.corpus='nowhere'", "corpus='nowhere' does not exist"),
    ],
)
def test_a_mistake_in_an_override_is_said_in_one_message(
    study_path: Path, override: str, says: str
) -> None:
    code, message = plan(study_path, override)
    assert code == 2
    assert says in message


def test_a_study_survives_its_own_json(study: Study) -> None:
    assert Study.model_validate_json(study.model_dump_json()) == study


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "studies").glob("*.py")), ids=lambda path: path.name
)
def test_every_study_of_the_project_can_be_planned(path: Path) -> None:
    code, said = plan(path)
    assert code == 0, said
    assert "FLOPs to train" in said


@pytest.mark.parametrize("rung", [6.4e13, 2.56e14, 1e15])
def test_a_rung_lies_between_the_ladder_and_the_target(study: Study, rung: float) -> None:
    says = r"whose top budget is 6\.4e\+13, and the target 2\.56e\+14; use one such as 1\.3e\+14"
    with pytest.raises(ValueError, match=says):
        with_values(study, {"promotion.rung": rung})

"""Every mistake in a study file: exit code 2, and one message with field, rule and way out."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper import cli
from sweeper.errors import UserError
from sweeper.overrides import with_values
from sweeper.study import Study
from sweeper.study_file import load

# (what stands in the file, what stands there by mistake, what is said)
MUTATIONS = [
    ('name="small"', 'nmae="small"', "did you mean 'name'?"),
    ('name="small"', 'name="../../x"', "name: '../../x' is not legal"),
    ('name="small"', 'name="a b\\n"', "is not legal"),
    ('name="small"', 'name="<script>"', "is not legal"),
    ('name="small"', f'name="{"x" * 10_000}"', "is not legal"),
    ('name="small",', "", "name: is missing from Study(...)"),
    ("base=Recipe(", "base=Recipy(", "NameError: name 'Recipy' is not defined"),
    ("seq_len=64", "seqlen=64", "did you mean 'seq_len'?"),
    ("seq_len=64", "seq_len=-1", "seq_len: -1 is not legal"),
    ("seq_len=64", 'seq_len="long"', "seq_len: 'long' is not legal"),
    ("aspect=16", "aspekt=16", "did you mean 'aspect'?"),
    ("aspect=16", "aspect=0", "aspect: 0 is not legal"),
    ("d_head=4", "d_head=7", "d_head=7 is odd, but rope turns pairs of channels"),
    ("d_head=4", "d_head=4096", "no shape near it"),
    ("vocab_size=300", "vocab_size=3", "vocab_size: 3 is not legal"),
    ("global_batch_tokens=1024", "global_batch_tokens=1000", "not a multiple of seq_len x dp"),
    ("budgets=(1e12, 4e12, 1.6e13, 6.4e13)", "budgets=()", "budgets: () is not legal"),
    ("budgets=(1e12,", "budgets=(-1e12,", "budgets.0: -1000000000000.0 is not legal"),
    ("budgets=(1e12,", "budgets=(float('nan'),", "budgets.0: nan is not legal"),
    ("budgets=(1e12,", "budgets=(9e12,", "must ascend without repeats; write (4"),
    ("budgets=(1e12,", "budgets=(1e3,", "no shape near it"),
    ("target=2.56e14", "target=1e13", "is not above the ladder, whose top budget is 6.4e+13"),
    ("target=2.56e14,", "", "target: is missing from PromotionPlan(...)"),
    ('path="model.activation"', 'path="model.activatoin"', "did you mean 'activation'?"),
    ('path="model.activation"', 'path="modle.activation"', "did you mean 'model'?"),
    ('("swiglu", "gelu")', '("gelu", "relu2")', "is the baseline, but not among levels"),
    ('("swiglu", "gelu")', '("swiglu", "gelo")', "activation: 'gelo' is not legal"),
    ('("swiglu", "gelu")', '("swiglu", "swiglu")', "repeat a level"),
    ('("swiglu", "gelu")', '("swiglu",)', "levels: ('swiglu',) is not legal"),
    ('axes=(Axis(name="activation", path="model.activation", levels=("swiglu", "gelu")),),', "",
     "design 'one_at_a_time' has no axes to vary"),
    ("sizes_per_budget=5", "sizes_per_budget=2", "sizes_per_budget: 2 is not legal"),
    ("spread=3.0", "spread=1.001", "sizes round to only"),
    ("spread=3.0", "spraed=3.0", "did you mean 'spread'?"),
    ("seeds=(0, 1)", "seeds=()", "seeds: () is not legal"),
    ("seeds=(0, 1)", "seeds=(0.5,)", "seeds.0: 0.5 is not legal"),
    ("workers=2", "workers=0", "workers: 0 is not legal"),
    ("dp=2", "dp=0", "dp: 0 is not legal"),
    ('stage="sft"', 'stage="stf"', "stage: 'stf' is not legal"),
    ("STUDY = Study(", "STUDY = (", "syntax error"),
    ("STUDY = Study(", "STUDIE = Study(", "defines no STUDY"),
    ("STUDY = Study(", "STUDY = dict(", "STUDY is a dict, not a Study"),
    ("from sweeper.recipe import Recipe", "from sweeper.recipes import Recipe", "No module named"),
    ("from sweeper.study import", "1 / 0\nfrom sweeper.study import", "division by zero"),
    ("from sweeper.study import", "raise SystemExit(0)\nfrom sweeper.study import", "SystemExit"),
]  # fmt: skip


def plan(path: Path, *overrides: str) -> tuple[int, str]:
    """The exit code and the message of `sweeper plan`, which reads all that `launch` reads."""
    result = CliRunner().invoke(cli.app, ["plan", str(path), *overrides])
    if isinstance(result.exception, UserError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None, repr(result.exception)
    return result.exit_code, result.output


@pytest.mark.parametrize(("right", "wrong", "says"), MUTATIONS)
def test_a_mistake_in_a_study_file_is_said_in_one_message(
    study_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, says: str
) -> None:
    home = study_path.parent / "home"
    monkeypatch.setenv("SWEEPER_HOME", str(home))
    text = study_path.read_text()
    assert right in text
    study_path.write_text(text.replace(right, wrong, 1))
    code, message = plan(study_path)
    assert code == 2
    assert says in message
    assert "Traceback" not in message
    assert not home.exists()


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

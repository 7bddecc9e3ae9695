"""Mistakes in a study file: exit code 2, one message with the file, and nothing written.

The real command line runs on each, in this process; what is said is what a terminal would show.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper import cli

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
    ("d_head=4", "d_head=7", "turns 7 channels of a head, but rope turns pairs of them"),
    ("d_head=4", "d_head=4096", "no shape near it"),
    ("vocab_size=300", "vocab_size=3", "vocab_size: 3 is not legal"),
    ("global_batch_tokens=1024", "global_batch_tokens=1000", "not a multiple of seq_len x dp"),
    ("budgets=(1e12, 4e12, 1.6e13, 6.4e13)", "budgets=()", "budgets: () is not legal"),
    ("budgets=(1e12,", "budgets=(-1e12,", "budgets.0: -1000000000000.0 is not legal"),
    ("budgets=(1e12,", "budgets=(float('nan'),", "budgets.0: nan is not legal"),
    ("budgets=(1e12,", "budgets=(9e12,", "must ascend without repeats; write (4"),
    ("budgets=(1e12,", "budgets=(1e3,", "no shape near it"),
    ("target=2.56e14", "target=1e13", "is not above the ladder, whose top budget is 6.4e+13"),
    ("target=2.56e14", "target=1e300", "more than any shape of the recipe can spend"),
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
    ("dp=2", "dp=3", "is not a multiple of seq_len x dp = 192"),
    ("dp=2", "dp=16", "an odd number, and keeps the two answers of a pair together"),
    ("tokens=4096", "tokens=100", "sft has 100 tokens, less than one batch of 1024"),
    ('stage="sft"', 'stage="stf"', "stage: 'stf' is not legal"),
    ("STUDY = Study(", "STUDY = (", "syntax error"),
    ("STUDY = Study(", "STUDIE = Study(", "defines no STUDY"),
    ("STUDY = Study(", "STUDY = dict(", "STUDY is a dict, not a Study"),
    ("from sweeper.recipe import Recipe", "from sweeper.recipes import Recipe", "No module named"),
    ("from sweeper.study import", "1 / 0\nfrom sweeper.study import", "division by zero"),
    ("from sweeper.study import", "raise SystemExit(0)\nfrom sweeper.study import", "SystemExit"),
    ('name="small",', 'name="small"', "syntax error: invalid syntax. Perhaps you forgot a comma"),
    ('name="small"', 'name="sm\N{PILE OF POO}ll"', "is not legal"),
    ('name="small"', 'name="small\\n"', "name: 'small\\n' is not legal"),
    ('name="small"', 'name="a\\tb"', "is not legal"),
    ('name="small"', 'name="a b"', "name: 'a b' is not legal"),
    ('name="small"', 'name="/etc/passwd"', "is not legal"),
    ('name="small"', 'name="%u"', "name: '%u' is not legal"),
    ('name="small"', 'name=""', "name: '' is not legal"),
    ('name="small"', 'name=b"small\\xff"', "name: "),
    ('question="Does', 'question=3, answer="Does', "did you mean"),
    ("seq_len=64", "seq_len=10**400", "is not a multiple of seq_len x dp"),
    ("seq_len=64", "seq_len=10**30", "is not a multiple of seq_len x dp"),
    ("seq_len=64", "seq_len=float('inf')", "seq_len: inf is not legal"),
    ("seq_len=64", "seq_len=0x", "syntax error"),
    ("aspect=16", "aspect=1e-300", "cannot be expanded"),
    ("aspect=16", "aspect=float('inf')", "aspect: inf is not legal"),
    ("aspect=16", "ff_ratio=1e308", "cannot be expanded"),
    ("aspect=16", "min_layers=10**30", "no shape near it"),
    ("d_head=4", "d_head=10**400", "too large"),
    ("vocab_size=300", "vocab_size=10**400", "too large"),
    ("vocab_size=300", "vocab_size=300, mixture={'x': float('nan')}", "mixture"),
    ("vocab_size=300", "vocab_size=300, mixture={'nowhere': 1.0}", "nowhere"),
    ("corpus=", "corpus='no\\nsuch \N{PILE OF POO}' or ", "does not exist"),
    ("corpus=", "corpus='a\\0b' or ", "corpus"),
    ("corpus=", "corpus='" + "x" * 10_000 + "' or ", "cannot be read: File name too long"),
    ("budgets=(1e12, 4e12, 1.6e13, 6.4e13)", "budgets=(1e12, float('inf'))", "budgets.1: inf"),
    ("budgets=(1e12, 4e12, 1.6e13, 6.4e13)", "budgets=(10**400,)", "budgets.0: "),
    ("budgets=(1e12, 4e12, 1.6e13, 6.4e13)", "budgets='1e12'", "budgets: '1e12' is not legal"),
    ("target=2.56e14", "target=float('inf')", "target: inf is not legal"),
    ("target=2.56e14", "target=None", "target: None is not legal"),
    ("seeds=(0, 1)", "seeds=(-1,)", "seeds.0: -1 is not legal"),
    ("seeds=(0, 1)", "seeds=(10**30,)", "seeds.0: "),
    ("workers=2", "workers=True + 1.5", "workers: 2.5 is not legal"),
    ("workers=2", "workers=2, gpus=1", "gpus: unknown field"),
    ('path="model.activation"', 'path=""', "there is no ''"),
    ('path="model.activation"', 'path="model"', "is the baseline, but not among levels"),
    ('path="model.activation"', 'path="model.activation.x"', "nothing lies below 'swiglu'"),
    ('name="activation"', 'name="<b>"', "name: '<b>' is not legal"),
    ("axes=(", 'axes=(Axis(name="activation", path="lr.scale", levels=(1.0, 2.0)),',
     "axes repeat a name"),
    ("axes=(", 'axes=(Axis(name="again", path="model.activation", levels=("swiglu", "relu2")),',
     "axes repeat a path"),
    ("axes=(", 'axes=(Axis(name="lr", path="lr.scale", levels=(1.0, float("nan"))),', "levels.1"),
    ("designs=(", "designs=(OneAtATime(budget=-1),", "budget: -1 is not legal"),
    ("designs=(", "designs=(OneAtATime(budget=1e3),", "does not pay for one batch"),
    ("designs=(", "designs=('isoflop',", "designs.0: "),
    ("designs=(", "designs=({'kind': 'zigzag'},", "zigzag"),
    ("designs=(", "designs=() and (", "designs: () is not legal"),
    ("designs=(", "designs=(Adaptive(flops=1e14), Adaptive(flops=2e14),", "adaptive designs would"),
    ("STUDY = Study(", "def f(): f()\nf()\nSTUDY = Study(", "RecursionError"),
    ("STUDY = Study(", "import sys; sys.exit()\nSTUDY = Study(", "SystemExit"),
    ("STUDY = Study(", "raise ValueError('one\\ntwo')\nSTUDY = Study(", "one\ntwo"),
    ("STUDY = Study(", "import torch.nowhere\nSTUDY = Study(", "No module named"),
    ("STUDY = Study(", "x = open('/nowhere')\nSTUDY = Study(", "No such file"),
    ("STUDY = Study(", "assert False\nSTUDY = Study(", "AssertionError"),
    ("STUDY = Study(", "class E(Exception):\n    __str__ = 0\nraise E\nSTUDY = Study(",
     "E: an error without words"),
    ("STUDY = Study(", "x = " + "(" * 1000 + ")" * 1000 + "\nSTUDY = Study(", "syntax error"),
    ("STUDY = Study(", "x = " + "-" * 100_000 + "1\nSTUDY = Study(", ""),
    ("STUDY = Study(", "x = '" + "\\0" + "'\0\nSTUDY = Study(", "null bytes"),
    ("STUDY = Study(", "\tSTUDY = Study(", "syntax error"),
    ("    name=", "    *[] or name=", "syntax error"),
]  # fmt: skip

LAUNCHED = MUTATIONS[::6]


def answer(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command line with these arguments."""
    monkeypatch.setattr(sys, "argv", ["sweeper", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def refuses(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a verb that must refuse, and returns what it said."""

    def run(*arguments: str) -> str:
        assert answer(monkeypatch, *arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.strip()
        assert "Traceback" not in said.err
        assert not home.exists()
        return said.err

    return run


@pytest.mark.parametrize(("right", "wrong", "says"), MUTATIONS)
def test_a_mistake_in_a_study_file_is_said_in_one_message(
    study_path: Path, refuses: Callable[..., str], right: str, wrong: str, says: str
) -> None:
    text = study_path.read_text()
    assert right in text
    study_path.write_text(text.replace(right, wrong, 1))
    said = refuses("plan", str(study_path))
    assert says in said
    assert len(said) < 1200


@pytest.mark.parametrize(("right", "wrong", "says"), LAUNCHED)
def test_a_mistake_in_a_study_file_launches_nothing(
    study_path: Path, refuses: Callable[..., str], right: str, wrong: str, says: str
) -> None:
    study_path.write_text(study_path.read_text().replace(right, wrong, 1))
    assert says in refuses("launch", str(study_path))


def test_bytes_that_are_no_text_are_refused(study_path: Path, refuses: Callable[..., str]) -> None:
    study_path.write_bytes(study_path.read_bytes().replace(b"Does", b"D\xff\xfes"))
    assert f"{study_path}" in refuses("plan", str(study_path))


def test_a_byte_order_mark_is_no_mistake(
    study_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_path.write_bytes(b"\xef\xbb\xbf" + study_path.read_bytes())
    assert answer(monkeypatch, "plan", str(study_path)) == 0
    assert not home.exists()


def test_an_empty_file_is_refused(study_path: Path, refuses: Callable[..., str]) -> None:
    study_path.write_text("")
    assert "defines no STUDY" in refuses("plan", str(study_path))

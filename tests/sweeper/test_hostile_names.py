"""Names and paths from outside: none leaves the store, none reaches a terminal as it is."""

import sys
from pathlib import Path

import pytest

from sweeper import cli
from sweeper.errors import UserError, printable
from sweeper.folders import StudyDir, driver_lock, run_folder

NAMES = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a b",
    "<script>alert(1)</script>",
    "%u",
    "small\n",
    "small\0",
    "\N{PILE OF POO}",
    "\x1b[2J",
    "\udcff",
    "x" * 10_000,
    "Small",
    "-rf",
    "$(id)",
]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command line on something that it must refuse, and returns what it said."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sweeper", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        message = capsys.readouterr().err
        assert ended.value.code == 2, message
        assert "Traceback" not in message
        assert len(message) < 2000
        assert printable(message) == message
        return message

    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_no_study_and_no_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a study"):
        StudyDir(tmp_path, name)
    with pytest.raises(UserError, match="is no run; a run's id is 16 hex digits"):
        run_folder(tmp_path, name)


@pytest.mark.parametrize("verb", ["plan", "launch", "status", "report", "promote"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "-rf"])
def test_a_hostile_name_given_for_a_study_is_refused(home: Path, said, verb: str, name: str):
    said(verb, name)
    assert not home.exists()


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_outside_are_kept_under_no_hostile_name(
    home: Path, tmp_path: Path, said, name: str
) -> None:
    points = tmp_path / "runs.csv"
    points.write_text("params,tokens,loss\n1e6,1e8,3.0\n")
    said("import", str(points), f"--study={name}")
    assert not home.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_renamed_to_no_hostile_name(
    home: Path, study_path: Path, said, name: str
) -> None:
    assert "name: " in said("plan", str(study_path), f"name={name!r}")
    assert not home.exists()


@pytest.mark.parametrize(
    "name", ["a\nb", "a%ub", "a\x1bb", "a\udcffb", "x" * 10_000, "file", "file/below"]
)
@pytest.mark.parametrize("verb", ["plan", "launch"])
def test_a_home_that_cannot_be_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, study_path: Path, said, verb: str, name: str
) -> None:
    (study_path.parent / "file").write_text("")
    monkeypatch.setenv("SWEEPER_HOME", f"{study_path.parent}/{name}")
    said(verb, str(study_path))
    assert sorted(path.name for path in study_path.parent.iterdir()) == ["file", "small.py"]


def test_a_home_that_cannot_be_written_is_refused(
    monkeypatch: pytest.MonkeyPatch, study_path: Path, said
) -> None:
    # Nobody, not even root, makes a folder there.
    monkeypatch.setenv("SWEEPER_HOME", "/proc/self/home")
    assert "cannot be written" in said("launch", str(study_path))


@pytest.mark.parametrize("verb", ["plan", "launch", "status"])
def test_a_study_folder_that_is_a_link_is_refused(
    home: Path, tmp_path: Path, study_path: Path, said, verb: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (home / "studies").mkdir(parents=True)
    (home / "studies" / "small").symlink_to(outside)
    assert "is a link" in said(verb, str(study_path))
    assert list(outside.iterdir()) == []
    with pytest.raises(UserError, match="is a link"), driver_lock(StudyDir(home, "small")):
        pytest.fail("locked")


@pytest.mark.parametrize("corpus", ["no\nwhere", "\N{PILE OF POO}", "a\0b", "../nowhere", "%u"])
def test_a_corpus_that_is_not_there_is_refused(home: Path, study_path: Path, said, corpus: str):
    assert "corpus" in said("plan", str(study_path), f"base.data.corpus={corpus!r}")
    assert not home.exists()


@pytest.mark.parametrize("corpus", ["two\nlines", "\N{PILE OF POO}", "a b", "%u", "<b>"])
def test_a_corpus_of_an_odd_name_is_read(
    home: Path, tmp_path: Path, study_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str
) -> None:
    folder = tmp_path / corpus
    folder.mkdir()
    (folder / "page.py").write_text("def f(x):\n    return x\n" * 99)
    override = f"base.data.corpus={str(folder)!r}"
    monkeypatch.setattr(sys, "argv", ["sweeper", "plan", str(study_path), override])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def test_a_run_is_found_by_its_id(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / ("0123456789abcdef")
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="is not below"):
        run_folder(tmp_path, folder.name)
    (folder / "run.json").write_text("{}")
    assert run_folder(tmp_path, folder.name) == folder

"""The runs of a study as its folder keeps them: never another answer than planning anew."""

import pickle
from pathlib import Path

import pytest

from sweeper import expansion
from sweeper.designs import expand
from sweeper.expansion import expanded
from sweeper.folders import StudyDir
from sweeper.overrides import with_values
from sweeper.study import Study


@pytest.fixture
def place(study: Study, tmp_path: Path) -> StudyDir:
    found = StudyDir(tmp_path, study.name)
    found.path.mkdir(parents=True)
    return found


def planned_anew(monkeypatch: pytest.MonkeyPatch, study: Study, place: StudyDir) -> bool:
    """Whether what is kept does not answer."""
    called: list[Study] = []

    def watched(asked: Study, batches: object) -> list[object]:
        called.append(asked)
        return list(expand(asked))

    with monkeypatch.context() as patch:
        patch.setattr(expansion, "expand", watched)
        assert expanded(study, place) == expand(study)
    return bool(called)


def test_the_second_look_reads_what_the_first_one_kept(
    study: Study, place: StudyDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned_anew(monkeypatch, study, place)
    assert not planned_anew(monkeypatch, study, place)


def test_another_study_text_or_program_is_planned_anew(
    study: Study, place: StudyDir, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanded(study, place)
    assert planned_anew(monkeypatch, with_values(study, {"budgets": study.budgets[1:]}), place)
    expanded(study, place)
    monkeypatch.setattr(expansion, "fingerprint", lambda: "edited")
    assert planned_anew(monkeypatch, study, place)
    expanded(study, place)
    assert planned_anew(monkeypatch, with_values(study, {"base.data.digest": "edited"}), place)


def test_a_torn_file_is_planned_anew(
    study: Study, place: StudyDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanded(study, place)
    whole = place.expansion.read_bytes()
    for torn in (b"", whole[:16], whole[:200]):
        place.expansion.write_bytes(torn)
        assert planned_anew(monkeypatch, study, place)


class Planted:
    """What runs a command of its author's when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('planted')",)


def test_a_file_that_others_may_write_is_not_unpickled(study: Study, place: StudyDir) -> None:
    expanded(study, place)
    assert place.expansion.stat().st_mode & 0o777 == 0o600
    key = place.expansion.read_bytes()[:32]
    place.expansion.write_bytes(key + pickle.dumps(Planted()))
    place.expansion.chmod(0o666)
    assert expanded(study, place) == expand(study)


def test_a_study_that_was_not_launched_keeps_nothing(study: Study, tmp_path: Path) -> None:
    assert expanded(study, StudyDir(tmp_path, study.name)) == expand(study)
    assert list(tmp_path.glob("studies")) == []

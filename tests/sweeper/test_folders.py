from pathlib import Path

import pytest

from sweeper.errors import DriverBusy, UserError
from sweeper.folders import StudyDir, driver_lock, home


def test_one_driver_at_a_time_holds_a_study(tmp_path: Path) -> None:
    study = StudyDir(tmp_path, "small")
    with driver_lock(study), pytest.raises(DriverBusy, match=r"has a driver already.*pid"):
        with driver_lock(study):
            pytest.fail("two drivers")
    with driver_lock(study):
        assert '"host"' in study.lock.read_text()


def test_two_studies_have_a_driver_each(tmp_path: Path) -> None:
    with driver_lock(StudyDir(tmp_path, "one")), driver_lock(StudyDir(tmp_path, "two")):
        assert StudyDir(tmp_path, "two").lock.exists()


def test_home_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "here"))
    assert home() == tmp_path / "here"
    monkeypatch.delenv("SWEEPER_HOME")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".sweeper"


@pytest.mark.parametrize("name", ["100%u", "a\nb", "a\x1bb"])
def test_a_home_that_schedulers_would_misread_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SWEEPER_HOME", name)
    with pytest.raises(UserError, match="holds % or a control character"):
        home()


def test_a_job_without_logs_is_named_by_its_folder(tmp_path: Path) -> None:
    study = StudyDir(tmp_path, "small")
    assert study.logs("swp-0-0001") == str(study.jobs / "swp-0-0001")

"""`doctor`: each check on a machine, a disk and a Slurm where it passes, and where it does not."""

import fcntl
import json
import os
from pathlib import Path

import duckdb
import pytest
from command_line import CommandLine

from sweeper import checks, disk_checks, doctor, slurm_checks
from sweeper.checks import Check, Subject
from sweeper.folders import StudyDir
from sweeper.study import Study


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Commands of these names, in the place of all others on the path."""
    folder.mkdir(exist_ok=True)
    for name in slurm_checks.COMMANDS:
        scripts.setdefault(name, "exit 0")
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.slow
def test_a_sound_machine_passes_and_json_is_all_that_is_said(command: CommandLine) -> None:
    command.home.mkdir(mode=0o700)
    code, said = command.run("doctor", str(command.study), "--json")
    found = json.loads(said)["checks"]
    assert [check for check in found if check["verdict"] == "FAIL"] == []
    assert code == 0
    assert len(found) == len(doctor.CHECKS)
    torch = next(check for check in found if check["name"] == "torch")
    assert torch["seen"][0].isdigit()


@pytest.mark.slow
def test_what_failed_is_shown_with_its_way_out_and_exit_code_one(command: CommandLine) -> None:
    (command.home / "studies" / "small" / "jobs").mkdir(parents=True)
    (command.home / "studies").chmod(0o777)
    code, said = command.run("doctor", PATH="/nowhere")
    assert code == 1
    assert "FAIL  permissions" in said
    assert "permissions: chmod -R go-w" in said


def test_a_check_that_cannot_be_made_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(subject: Subject) -> Check:
        raise PermissionError("not yours")

    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    (found,) = doctor.examine(Subject(tmp_path))
    assert (found.name, found.verdict) == ("broken", "FAIL")
    assert "not yours" in found.seen


def test_a_package_that_cannot_be_imported_fails_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deepspeed.py").write_text("raise ImportError('libcudart.so.13 is not there')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = checks.deepspeed(Subject(tmp_path))
    assert found.verdict == "FAIL"
    assert "libcudart.so.13 is not there" in found.seen


def test_a_compiler_is_wanted_where_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.compiler(Subject(tmp_path)).verdict == "ok"
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 580.1'\n")
    script.chmod(0o755)
    assert checks.compiler(Subject(tmp_path)).verdict == "warn"
    assert "H100" in checks.gpu(Subject(tmp_path)).seen


def test_space_is_held_against_what_the_study_will_leave(study: Study, tmp_path: Path) -> None:
    found = disk_checks.space(Subject(tmp_path, study))
    assert "for what is left of the study" in found.seen
    huge = study.model_copy(update={"budgets": (1e22, 4e22, 1.6e23, 6.4e23)})
    assert disk_checks.space(Subject(tmp_path, huge)).verdict == "FAIL"


def test_the_clock_of_this_disk_is_in_step_and_a_home_need_not_be_there(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "not" / "there")
    assert disk_checks.clock(subject).verdict == "ok"
    assert disk_checks.shared(subject).verdict == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_whose_locks_hold_nobody_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    found = disk_checks.shared(Subject(tmp_path))
    assert found.verdict == "FAIL"
    assert "broken: flock" in found.seen


@pytest.mark.parametrize(("mode", "verdict"), [(0o700, "ok"), (0o755, "warn"), (0o777, "FAIL")])
def test_jobs_are_for_their_owner_alone(tmp_path: Path, mode: int, verdict: str) -> None:
    jobs = tmp_path / "studies" / "small" / "jobs"
    jobs.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "studies", jobs.parent):
        folder.chmod(0o755)
    jobs.chmod(mode)
    assert disk_checks.permissions(Subject(tmp_path)).verdict == verdict


def test_a_store_that_is_held_or_damaged_is_named(study: Study, tmp_path: Path) -> None:
    subject, place = Subject(tmp_path, study), StudyDir(tmp_path, study.name)
    place.path.mkdir(parents=True)
    with duckdb.connect(place.store):
        held = disk_checks.stores(subject)
    assert held.verdict == "warn"
    assert f"{place.store} is open in" in held.seen
    place.store.write_bytes(b"no database" * 1000)
    damaged = disk_checks.stores(subject)
    assert damaged.verdict == "warn"
    assert damaged.way_out.startswith(f"rm {place.store}")


def test_a_machine_without_slurm_is_sound_for_a_local_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = [
        check(Subject(tmp_path))
        for check in (slurm_checks.slurm, slurm_checks.accounting, slurm_checks.settings)
    ]
    assert [check.verdict for check in found] == ["ok", "ok", "ok"]


CONTROL = """
case "$1" in
  ping) echo 'Slurmctld(primary) at head is UP' ;;
  show) echo 'JobRequeue              = 0'
        echo 'MaxArraySize            = 1001'
        echo 'PreemptMode             = REQUEUE' ;;
esac
"""


def test_the_settings_of_a_slurm_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path / "bin", monkeypatch, scontrol=CONTROL, sacct="echo no dbd >&2; exit 1")
    subject = Subject(tmp_path)
    assert slurm_checks.slurm(subject).seen == "Slurmctld(primary) at head is UP"
    found = slurm_checks.settings(subject)
    assert "MaxArraySize=1001" in found.seen
    assert "SIGTERM" in found.seen
    assert found.verdict == "warn"
    accounting = slurm_checks.accounting(subject)
    assert (accounting.verdict, accounting.seen) == ("warn", "no dbd")


def test_a_probe_compares_what_a_node_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # srun that runs here what follows its own options.
    here = 'while [ "$1" != sh ]; do shift; done; exec "$@"'
    commands(tmp_path / "bin", monkeypatch, scontrol=CONTROL, srun=here)
    found = slurm_checks.probe(Subject(tmp_path, probe=True))
    assert found.verdict == "ok"
    assert os.uname().nodename in found.seen
    for said, verdict in (("cat: no such file", "FAIL"), ("Unable to allocate resources", "warn")):
        srun = f"echo '{said}' >&2; exit 1"
        commands(tmp_path / "bin", monkeypatch, scontrol=CONTROL, srun=srun)
        assert slurm_checks.probe(Subject(tmp_path, probe=True)).verdict == verdict
    assert slurm_checks.probe(Subject(tmp_path)).seen.startswith("not looked at")

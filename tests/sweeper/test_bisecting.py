"""`bisect-nodes` over processes that compute, and over the nodes of a real Slurm."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from observing import until
from slurm_cluster import SlurmCluster
from typer.testing import CliRunner, Result

from sweeper import replays
from sweeper.cli import app
from sweeper.cluster import Slurm
from sweeper.designs import expand
from sweeper.errors import UserError
from sweeper.replays import command, nodes_of_job
from sweeper.snapshot import ROOT
from sweeper.study import Study
from train.config import RunSpec
from train.runlog import Attempt, RunDir, create_run

FLIPPING = Path(__file__).with_name("flipping_replay.py")
NAMED = Path(__file__).with_name("named_replay.py")

Bisect = Callable[..., Result]


@pytest.fixture
def run(study: Study, tmp_path: Path) -> RunDir:
    """A run that was never trained, of a study that was launched."""
    spec = next(iter(expand(study))).spec
    return create_run(tmp_path / "home", RunSpec.model_validate(spec.model_dump()))


@pytest.fixture
def bisect(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Bisect:
    """The verb on that run, with a program in the place of the replay."""
    monkeypatch.setenv("SWEEPER_HOME", str(run.home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(*arguments: str, program: tuple[str, ...] = replays.PROGRAM) -> Result:
        monkeypatch.setattr(replays, "PROGRAM", program)
        words = ["bisect-nodes", run.path.name[:8], *arguments]
        return CliRunner().invoke(app, words)

    return call


@pytest.fixture
def flipping(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A program that replays, and flips a bit on host c."""
    path = tmp_path / "socket"
    server = subprocess.Popen(
        [sys.executable, str(FLIPPING), "serve", str(path), "c"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    until(path.exists, 60)
    yield str(FLIPPING), str(path)
    server.kill()
    server.wait()


@pytest.mark.slow
def test_the_process_that_flips_a_bit_is_found_and_the_run_is_left_alone(
    bisect: Bisect, run: RunDir, flipping: tuple[str, str]
) -> None:
    before = sorted(run.path.rglob("*"))
    hosts = ("--hosts", "a,b,c,d", "--step", "2", "--json")
    ended = bisect(*hosts, program=flipping)
    assert ended.exit_code == 1, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    assert (found["bad"], found["together"], found["undecided"]) == (["c"], [], [])
    assert (found["step"], found["weights"]) == (2, "")
    pairs, alone = found["rounds"]
    assert [len(pairs["groups"]), len(alone["groups"])] == [2, 4]
    assert len({said for (said,) in pairs["said"]}) == 2
    assert len({said for (said,) in alone["said"]}) == 2
    assert sorted(run.path.rglob("*")) == before


@pytest.mark.slurm
@pytest.mark.slow
def test_on_slurm_every_group_is_a_job_on_its_nodes_and_the_bad_node_is_found(
    bisect: Bisect, run: RunDir, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    ended = bisect("--hosts", "n[1-4]", "--cluster", "slurm", program=(str(NAMED), "n3"))
    assert ended.exit_code == 1, ended.output
    assert "n3 computes something else than all others: it is bad" in ended.output
    assert "cluster.exclude=('n3',)" in ended.output
    said = (path.read_text() for path in run.home.rglob("log.txt"))
    assert sorted(line for text in said for line in text.splitlines()) == [
        *(f"task 0 of 1 on ['n{number}']" for number in (1, 2, 3, 4)),
        "task 0 of 2 on ['n1', 'n2']",
        "task 0 of 2 on ['n3', 'n4']",
        "task 1 of 2 on ['n1', 'n2']",
        "task 1 of 2 on ['n3', 'n4']",
    ]
    ended = bisect("--hosts", "n[1-4]", "--cluster", "slurm", program=(str(NAMED), "none"))
    assert (ended.exit_code, "every host computes the same" in ended.output) == (0, True)


@pytest.mark.slurm
@pytest.mark.slow
def test_the_hosts_are_those_of_the_runs_latest_job_where_none_are_named(
    bisect: Bisect, run: RunDir, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    refused(bisect("--cluster", "slurm"), "hosts (none are known)")
    slurm.submit("true", "--job-name=swp-5dc-0001", "--nodelist=n2,n3", "--nodes=2")
    until(lambda: nodes_of_job("swp-5dc-0001") == ("n2", "n3"))
    run.claim(Attempt(number=1, job="swp-5dc-0001", host="n2"))
    ended = bisect("--cluster", "slurm", program=(str(NAMED), "n3"))
    assert ended.exit_code == 1, ended.output
    assert "n2,n3: they differ, and no two agree on what is right; name more" in ended.output


def test_a_group_asks_for_what_the_studys_jobs_ask_for(tmp_path: Path) -> None:
    cluster = Slurm(
        partition="gpu",
        account="lab",
        gres="gpu:8",
        tasks_per_node=8,
        mem_gb=2,
        setup=("module load cuda",),
        container="apptainer exec image.sif",
    )
    words = command(cluster, ("n1", "n7"), 5, tmp_path)
    assert {"--nodelist=n1,n7", "--nodes=2", "--ntasks=16", "--ntasks-per-node=8"} <= {*words}
    assert {"--partition=gpu", "--account=lab", "--gres=gpu:8", "--mem=2048M", "--time=5"} <= {
        *words
    }
    script = words.index("-c")
    assert words[script - 1] == "bash"
    assert words[script + 1] == 'module load cuda\nexec "$@"'
    assert words[script + 3 : script + 6] == ["apptainer", "exec", "image.sif"]
    assert words[-1] == str(tmp_path)


def refused(ended: Result, words: str) -> None:
    assert isinstance(ended.exception, UserError)
    assert words in str(ended.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--hosts", "a"), "name two or more"),
        (("--hosts", "a,b,a"), "each once"),
        (("--step", "1000000"), "--step 1000000 with --steps 1: run"),
        (("--step", "0"), "use --step 1 to"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    bisect: Bisect, run: RunDir, arguments: tuple[str, ...], words: str
) -> None:
    refused(bisect(*arguments), words)
    assert not (run.home / "replays").exists()


def test_where_no_replay_ends_the_log_is_named(bisect: Bisect, tmp_path: Path) -> None:
    ends = tmp_path / "ends.py"
    ends.write_text("raise SystemExit('no disk here')")
    ended = bisect("--hosts", "a,b", program=(str(ends),))
    assert "no group came to the end" in str(ended.exception)
    log = Path(str(ended.exception).rpartition(" ")[2])
    assert log.read_text() == "no disk here\n"

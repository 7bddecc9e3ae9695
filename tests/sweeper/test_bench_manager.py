"""What the manager must reach at scale: `python -m pytest tests/sweeper -m bench` prints the rows.

Every measured command is a process of its own, as a person's is.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fake_trainer
import pytest
from command_line import CommandLine
from observing import HOLD, until
from slurm_cluster import SlurmCluster

from sweeper.designs import expand
from sweeper.study_file import load
from tests.benchmarks import Bench
from train.runlog import create_run

pytestmark = pytest.mark.bench

# The command line as installed, with what it imported said at its end.
REAL = """
import atexit, sys
from sweeper.cli import main
atexit.register(lambda: print("torch" in sys.modules))
main()
"""
LADDER = "{'kind': 'isoflop', 'sizes_per_budget': 5, 'spread': 3.0, 'tokens_per_param': 80}"
RATE = "axes=({'name': 'rate', 'path': 'lr.scale', 'levels': (0.25, 4.0, 1.0), 'scale': 'log'},)"
COUNTED = ("sbatch", "squeue", "sacct")
COUNTER = '#!/bin/sh\necho "$(date +%s.%N) {name}" >> {log}\nexec {real} "$@"\n'
WINDOW_SECONDS = 120.0


def drawn(trials: int) -> str:
    return f"{{'kind': 'random', 'trials': {trials}, 'budget': 1e12, 'tokens_per_param': 80}}"


def repeated(seeds: int, budget: float) -> str:
    return f"designs=({{'kind': 'grid', 'budgets': ({budget},), 'seeds': {tuple(range(seeds))}}},)"


def really(command: CommandLine, *arguments: str) -> tuple[str, float]:
    """What the command line says with its real trainer, and the seconds that it took."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", REAL, *arguments],
        env=command.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout, time.perf_counter() - started


def test_plan(bench: Bench, command: CommandLine) -> None:
    arguments = ("plan", str(command.study), RATE, f"designs=({LADDER}, {drawn(980)})")
    really(command, *arguments)
    said, seconds = really(command, *arguments)
    bench("plan of 1,000 trials, s", seconds, high=1.0)
    bench("plan of 1,000 trials: torch was imported", said.endswith("True\n"), high=0)


def test_overhead(bench: Bench, command: CommandLine) -> None:
    overrides = (repeated(20, 1e11), "budgets=(1e11,)", HOLD)
    _, seconds = really(command, "launch", str(command.study), *overrides)
    (row,) = command.rows("select count(*), sum(seconds) from runs where state = 'DONE'")
    count, trained = row.split()
    bench("local, 2 workers: trials", float(count), 40, 40)
    bench("local, 2 workers: mean training of a trial, s", float(trained) / 40)
    bench("local, 2 workers: wall time over training / 2", seconds / (float(trained) / 2), high=1.1)


def test_ten_thousand(bench: Bench, command: CommandLine) -> None:
    overrides = (RATE, f"designs=({LADDER}, {drawn(9_980)})", HOLD)
    train_all(command, overrides)
    _, first = really(command, "launch", str(command.study), *overrides)
    bench("10,000 finished runs, first launch that sees them, s", first)
    said, seconds = really(command, "status", str(command.study), *overrides)
    bench("10,000 trials: status, s", seconds, high=2.0)
    bench("10,000 trials: DONE", float(re.findall(r"(\d+) DONE", said)[0]), 10_000, 10_000)
    _, seconds = really(command, "launch", str(command.study), *overrides)
    bench("10,000 trials: launch that finds nothing to do, s", seconds, high=10.0)


def train_all(command: CommandLine, overrides: tuple[str, ...]) -> None:
    """Leave the run directories of a study as if all its runs had ended well."""
    study = load(command.study, overrides)
    grants = [(create_run(command.home, p.spec).path, 1) for p in expand(study)]
    fake_trainer.work(grants, "job", 1, 0, 1, 0, command.home)


@pytest.fixture
def calls(slurm: SlurmCluster, command: CommandLine, tmp_path: Path) -> Iterator[Path]:
    """The log of what is asked of Slurm: a line `time name` a call."""
    log, folder = tmp_path / "calls.log", tmp_path / "bin"
    folder.mkdir()
    for name in COUNTED:
        real = slurm.run("sh", "-c", f"command -v {name}")
        (folder / name).write_text(COUNTER.format(name=name, log=log, real=real))
        (folder / name).chmod(0o755)
    own = {name: command.environment[name] for name in ("SWEEPER_HOME", "PYTHONPATH")}
    path = f"{folder}:{slurm.environment['PATH']}"
    command.environment = slurm.environment | own | {"PATH": path, "FAKE_SECONDS": "20"}
    yield log
    slurm.cancel_all()


def called(log: Path) -> list[tuple[float, str]]:
    """When each command was called, and its name."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(float(at), name) for at, name in map(str.split, lines)]


def test_a_thousand_jobs(
    bench: Bench, calls: Path, command: CommandLine, slurm: SlurmCluster
) -> None:
    cluster = (
        "cluster={'kind': 'slurm', 'partition': 'low', 'workers': 1000, 'minutes': 5, "
        "'environment': ('FAKE_SECONDS',)}"
    )
    arguments = (cluster, RATE, f"designs=({LADDER}, {drawn(980)})", HOLD)
    driver = command.start("launch", str(command.study), *arguments)
    until(lambda: len(slurm.squeue()) > 900, 300)
    begun = time.time()
    time.sleep(WINDOW_SECONDS)  # the time that is measured
    driver.terminate()
    driver.communicate()
    asked = called(calls)
    window = [at for at, name in asked if 0 < at - begun <= WINDOW_SECONDS and name != "sbatch"]
    polls = len(window) * 60 / WINDOW_SECONDS
    bench("1,000 jobs in flight: polls of Slurm a minute", polls, high=4)
    bench("1,000 trials: calls of sbatch", sum(name == "sbatch" for _, name in asked), high=5)

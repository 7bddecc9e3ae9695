"""An ingest that is killed at any instant leaves the store as it was before or as it is after."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from analysis import store
from tests.analysis.ladders import write_run

pytestmark = pytest.mark.slow

INGEST = """
import sys
from pathlib import Path
from analysis import store
runs = Path(sys.argv[2])
with store.connect(Path(sys.argv[1])) as con:
    print("open", flush=True)
    store.ingest(con, runs, {run.name: ("RUNNING", "") for run in runs.iterdir()})
print("done", flush=True)
"""
RUNS, STEPS, KILLS = 60, 400, 10


def write(runs: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        folder = write_run(runs, f"run{number:05d}", result={})
        (folder / "attempt.1.json").write_text('{"number": 1, "job": "j", "host": "n1"}')
        lines = (f'{{"step": {n}, "tokens": {n}, "loss": {number + n}}}\n' for n in range(STEPS))
        (folder / "metrics.1.jsonl").write_text("".join(lines))


def start(path: Path, runs: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", INGEST, str(path), str(runs)]
    root = Path(store.__file__).parent.parent
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def held(path: Path) -> tuple[int, int, int]:
    """Runs, steps and the sum of their losses, as a reader finds them after a death."""
    sql = "select count(distinct run_id), count(*), coalesce(sum(loss), 0)::bigint from steps"
    with store.connect(path) as con:
        (row,) = store.query(con, sql).rows()
    return row


def expected(runs: int) -> tuple[int, int, int]:
    return runs, runs * STEPS, sum(r + n for r in range(runs) for n in range(STEPS))


def test_a_killed_ingest_is_whole_or_not_there_and_the_next_one_completes_it(
    tmp_path: Path,
) -> None:
    path, runs = tmp_path / "study.duckdb", tmp_path / "runs"
    write(runs, 0, RUNS)
    with start(path, runs) as process:
        began = time.monotonic()
        assert process.wait(timeout=60) == 0
        took = time.monotonic() - began
    assert held(path) == expected(RUNS)
    instants = np.random.default_rng(5).uniform(0, 1.1 * took, KILLS)
    for number, instant in enumerate(instants, start=1):
        # Nothing but time tells where in its work a process is.
        before, after = held(path), expected(RUNS + 6 * number)
        write(runs, RUNS + 6 * (number - 1), 6)
        with start(path, runs) as process:
            time.sleep(instant)
            process.kill()
        assert held(path) in (before, after)
    with start(path, runs) as process:
        assert process.wait(timeout=60) == 0
    assert held(path) == expected(RUNS + 6 * KILLS)

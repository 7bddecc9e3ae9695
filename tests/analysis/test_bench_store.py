"""What the store must reach at scale: `python -m pytest tests/analysis -m bench` prints the rows.

Each ingest is a process of its own, so that its memory is its own.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis import store
from tests.analysis.ladders import write_run
from tests.benchmarks import Bench

pytestmark = pytest.mark.bench

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from analysis import store
runs = Path(sys.argv[2])
states = {run.name: ("RUNNING", "") for run in runs.iterdir()}
started = time.perf_counter()
with store.connect(Path(sys.argv[1])) as con:
    store.ingest(con, runs, states)
took = time.perf_counter() - started
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def ingest(path: Path, runs: Path) -> tuple[float, float]:
    """Seconds and peak memory (GiB) of bringing a store up to date in a new process."""
    root = Path(store.__file__).parent.parent
    command = [sys.executable, "-c", MEASURE, str(path), str(runs)]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


def steps(count: int) -> list[str]:
    """Lines of metrics with all the digits that a trainer writes."""
    rng = np.random.default_rng(0)
    names = ("loss", "grad_norm", "lr", "tokens_per_second", "seconds")
    numbers = {name: rng.random(count).tolist() for name in names}
    return [
        json.dumps(
            {"step": n + 1, "tokens": 4096 * (n + 1)} | {k: v[n] for k, v in numbers.items()}
        )
        for n in range(count)
    ]


def write_runs(runs: Path, count: int, lines: Sequence[str]) -> None:
    for number in range(count):
        folder = write_run(runs, f"run{number:05d}", result={}, events=[{"event": "start"}])
        (folder / "attempt.1.json").write_text('{"number": 1, "job": "j", "host": "n1"}')
        # No two files are alike.
        turned = [*lines[number:], *lines[:number]]
        (folder / "metrics.1.jsonl").write_text("\n".join(turned) + "\n")


@pytest.mark.parametrize(("count", "length"), [(1_000, 10_000), (10_000, 10)])
def test_ingest(bench: Bench, tmp_path: Path, count: int, length: int) -> None:
    runs, path = tmp_path / "runs", tmp_path / "study.duckdb"
    write_runs(runs, count, steps(length))
    seconds, memory = ingest(path, runs)
    rows = f"ingest of {count * length:,} rows from {count:,} runs"
    bench(f"{rows}, s", seconds, high=60.0)
    bench(f"{rows}: peak memory, GiB", memory, high=2.0)
    bench(f"{rows}: again, s", ingest(path, runs)[0], high=3.0)
    bench(f"{rows}: once more, finished runs at rest, s", ingest(path, runs)[0], high=1.0)
    with store.connect(path, read_only=True) as con:
        bench(
            f"{rows}: steps", store.query(con, "select count(*) from steps").item(), count * length
        )

"""A process that keeps a DuckDB file open, as a notebook does."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

HOLD = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading")
con.execute("from runs").fetchall()
print("open", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held(path: Path, how: str = "writing") -> Generator[int]:
    """Another process that keeps a store open; gives its id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process.pid
        finally:
            process.communicate("go\n")

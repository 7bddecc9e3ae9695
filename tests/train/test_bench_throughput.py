"""What our loop must reach beside a plain one, and beside Hugging Face's model: `make bench`.

Both count the processor's seconds of one thread, block by block in turn (tests.train.throughput):
what others do on the machine moves such seconds less than those of a clock.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import Bench

pytestmark = pytest.mark.bench
PAIRS = 8
# By size of the model: tokens per second over those of the same module in a plain loop.
LEAST = {"100k": 0.90, "1M": 0.97, "4M": 0.97}
LEAST_OVER_TRANSFORMERS = 1.2


def test_tokens_per_second(bench: Bench) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.throughput", str(PAIRS), *LEAST],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    for size, found in json.loads(done.stdout.splitlines()[-1]).items():
        bench(f"{size}: parameters", found["params"])
        bench(f"{size}: our loop, tokens a second", found["tokens_per_second"])
        bench(f"{size}: our loop over a plain one", found["over_plain"], low=LEAST[size])
        bench(
            f"{size}: our loop over transformers' Llama in a plain one",
            found["over_transformers"],
            low=LEAST_OVER_TRANSFORMERS,
        )

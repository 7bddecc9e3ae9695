"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
# Forty steps of a small model: page faults of the last twenty.
PROGRAM = """
import resource, sys
import torch
from model.config import ModelConfig
from model.transformer import Transformer
from train.allocator import keep_freed_memory

if "kept" in sys.argv:
    assert keep_freed_memory()
model = Transformer(ModelConfig(
    vocab_size=512, seq_len=128,
    n_layers=3, d_model=48, d_ff=128, n_heads=3, n_kv_heads=3, d_head=16,
))
ids = torch.zeros(16, 128, dtype=torch.long)
for step in range(40):
    if step == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.zero_grad()
    model(ids).logsumexp(-1).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way")
def test_memory_that_a_step_frees_is_not_faulted_in_again_by_the_next() -> None:
    assert 4 * faults("kept") < faults()

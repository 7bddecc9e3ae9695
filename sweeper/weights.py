"""Weights of runs for other programs. torch is loaded in a process of its own, never here."""

import subprocess
import sys
from pathlib import Path

from sweeper.errors import UserError
from sweeper.folders import home
from sweeper.references import find_run


def to_huggingface(word: str, folder: Path) -> str:
    """Write a finished run as a folder that transformers loads; answers what to type there.

    Raises UserError where there is no such run, it has no weights, or its model no equal.
    """
    run = find_run(word, home())
    command = [sys.executable, "-m", "train.export", str(run.path), str(folder.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise UserError(f"run {run.path.name} cannot be exported: {said[-1]}")
    return f'{folder}: AutoModelForCausalLM.from_pretrained("{folder}")'

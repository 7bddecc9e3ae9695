"""Provenance of an attempt: the code, the packages, the machine."""

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from train.parallel import Ranks

PACKAGES = ("torch", "deepspeed", "numpy", "tokenizers", "sweeper")


def _git(*arguments: str) -> str:
    """Output of git in the folder of this code; empty where it is not a repository."""
    try:
        done = subprocess.run(
            ("git", *arguments),
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def describe(ranks: Ranks) -> str:
    """What a reader needs to run the same again, as JSON text."""
    cuda = ranks.device.type == "cuda"
    return json.dumps(
        {
            "commit": _git("rev-parse", "HEAD"),
            "diff": _git("diff", "HEAD", "--", "."),
            "python": sys.version.split()[0],
            "packages": {name: version(name) for name in PACKAGES},
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(ranks.device) if cuda else platform.processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "world_size": ranks.world_size,
        },
        indent=1,
    )

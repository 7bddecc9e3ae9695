"""Provenance of an attempt: the code, the packages, the machine, the data."""

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from train.config import data_id
from train.data.prepare import PreparedData
from train.origin import origin
from train.parallel import Ranks

# Read once, before the children of a job: it takes as long as a small run's start.
PACKAGES = dict(sorted((item.name, item.version) for item in distributions() if item.name))


def _output(*command: str) -> str:
    """What a command prints; empty where it cannot."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def describe(data: PreparedData, ranks: Ranks) -> str:
    """What a reader needs to run the same again, as JSON text.

    Of the environment the names alone: values may be secrets.
    """
    return json.dumps(
        _code()
        | {"data": _data(data)}
        | _machine(ranks)
        | {
            "world_size": ranks.world_size,
            "threads": torch.get_num_threads(),
            "arguments": sys.argv,
            "environment": sorted(os.environ),
        },
        indent=1,
    )


def _code() -> dict[str, Any]:
    """Commit, what differs from it, the snapshot that the job runs, and every package."""
    return {
        **origin(Path(__file__).parent.parent),
        "snapshot": os.environ.get("SWEEPER_CODE", ""),
        "python": sys.version.split()[0],
        "torch_cuda": torch.version.cuda or "",
        "packages": PACKAGES,
    }


def _data(data: PreparedData) -> dict[str, str]:
    config = data.manifest.data
    return {
        "id": data_id(config),
        "digest": config.digest,
        "tokenizer_sha256": data.manifest.tokenizer_sha256,
    }


def _machine(ranks: Ranks) -> dict[str, Any]:
    cuda = ranks.device.type == "cuda"
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if cuda else []
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "gpu_driver": _output(*driver) if cuda else "",
    }


def _cpu() -> str:
    """The processor's model, where the system names it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    lines = (line.partition(":") for line in text.splitlines())
    return next((model.strip() for name, _, model in lines if "model name" in name), "")

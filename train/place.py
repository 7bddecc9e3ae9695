"""Where a process stands. No torch here."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path


def node_name() -> str:
    """This machine, by the name that its scheduler has for it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job."""

    job: str
    threads: int
    rank: int
    world_size: int
    local_rank: int
    rendezvous: Path

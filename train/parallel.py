"""The process group of a job, and the few collectives that the loop needs.

A job of one process has a group too: the code has one path.
"""

import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import HashStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from train.runlog import write_atomic

RENDEZVOUS_SECONDS = 600.0
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one run together, and the device that it uses."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0


def device_of(local_rank: int) -> torch.device:
    """The accelerator of this process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def connect(rank: int, world_size: int, local_rank: int, rendezvous: Path) -> Ranks:
    """Join the processes of a job through a TCP store whose address rank 0 leaves in a file.

    The store picks a free port itself, so two jobs on one host never fight for one.
    `rendezvous` must be a new path for every start of the job, on a disk that all ranks see.
    """
    device = device_of(local_rank)
    if world_size == 1:
        store: Store = HashStore()
    elif rank == 0:
        # One host: loopback needs no name service. Several: they find this host by its name.
        host = "127.0.0.1" if os.environ.get("LOCAL_WORLD_SIZE") == str(world_size) else None
        host = host or socket.gethostname()
        store = TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False)
        write_atomic(rendezvous, f"{host}:{store.port}")
    else:
        host, port = _wait_for_address(rendezvous).rsplit(":", 1)
        store = TCPStore(host, int(port), world_size, is_master=False)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(minutes=30),
    )
    return Ranks(rank, world_size, device)


def _wait_for_address(path: Path) -> str:
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"no rank 0 at {path} after {RENDEZVOUS_SECONDS:.0f} s; its log says why it is late"
            )
        time.sleep(0.05)  # a file on a shared disk sends no event
    return path.read_text(encoding="utf-8")


def total(values: list[float], ranks: Ranks) -> list[float]:
    """Each value summed over all ranks; every rank gets the same answer."""
    if ranks.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=ranks.device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def agree(value: T, ranks: Ranks) -> T:
    """The value of rank 0, in every rank."""
    if ranks.world_size == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=ranks.device)
    return box[0]

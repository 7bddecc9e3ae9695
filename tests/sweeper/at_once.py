"""A scheduler that stands for one whose jobs are over as soon as they are submitted."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from sweeper.jobs import Order, Scan
from sweeper.record import Job

Work = Callable[[list[tuple[Path, int]], str], None]


class AtOnce:
    """Does each job in this process by `work(grants, job)`; remembers what was started."""

    chains = False
    scan_seconds = 0.0
    array_size = 0

    def __init__(self, work: Work) -> None:
        self.work = work
        self.started: list[Order] = []

    def submit(self, order: Order) -> str:
        self.started.append(order)
        runs, grants, _ = order.arguments[0]
        self.work([(Path(runs) / run, attempt) for run, attempt in grants], order.job.name)
        return str(len(self.started))

    def scan(self, jobs: Sequence[Job]) -> Scan:
        return Scan(time=time.monotonic())

    def hasten(self, held: frozenset[str]) -> None:
        pass

    def cancel(self, jobs: Sequence[Job], names: Collection[str]) -> None:
        pass

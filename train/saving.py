"""Writing states while training goes on: bytes are made between two steps, disks come later.

No collective of its own: a thread must not send among those of the steps. Each rank says with its
votes in a step that its part is written; then the first seals the whole.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from train import checkpoint
from train.engine import Snapshot
from train.parallel import Ranks, agree
from train.runlog import RunDir


class Saver:
    """At most one state of a run on its way to the disk."""

    def __init__(self, run: RunDir, attempt: int, ranks: Ranks) -> None:
        self.run, self.attempt, self.ranks = run, attempt, ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._writing: Future[None] | None = None
        self._sealing: Future[None] | None = None
        self._step = 0

    @property
    def folder(self) -> Path:
        return self.run.attempt_checkpoints(self.attempt) / f"step-{self._step}"

    @property
    def idle(self) -> bool:
        return self._writing is None and self._sealing is None

    def start(self, snapshot: Callable[[Path], Snapshot], step: int) -> None:
        """Begin to write the state after `step` steps; what came before is finished first.

        Raises EndedEarly where a later attempt exists.
        """
        self.finish()
        self._step = step
        if agree(self.ranks.first and self.run.superseded(self.attempt), self.ranks):
            checkpoint.refuse_superseded(self.run, self.attempt)
        files = self._or_nothing(lambda: snapshot(self.folder))
        self._writing = self._thread.submit(files.write)

    def vote(self) -> float:
        """1 where this rank's part of a state is written, or could not be."""
        return float(self._writing is not None and self._writing.done())

    def look(self, votes: float) -> None:
        """Go on with what is done. `votes` are those of all ranks, summed.

        Raises OSError where a file could not be written; what there is of the state is removed.
        """
        if self._writing is not None and votes == self.ranks.world_size:
            self._written()
        if self._sealing is not None and self._sealing.done():
            self._sealed()

    def finish(self) -> None:
        """Wait for a state that is on its way. All ranks must."""
        if self._writing is not None:
            self._or_nothing(self._writing.result)
            dist.barrier()
            self._written()
        if self._sealing is not None:
            self._sealed()

    def close(self) -> None:
        """Give up a state that is on its way: without its manifest it does not count."""
        self._thread.shutdown(wait=True)
        if not self.idle:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _written(self) -> None:
        assert self._writing is not None
        self._or_nothing(self._writing.result)
        self._writing = None
        if self.ranks.first:
            self._sealing = self._thread.submit(checkpoint.seal, self.folder)

    def _sealed(self) -> None:
        assert self._sealing is not None
        self._or_nothing(self._sealing.result)
        self._sealing = None
        self.run.event("checkpoint", attempt=self.attempt, step=self._step)
        checkpoint.drop_old(self.run, self.attempt)

    def _or_nothing(self, result: Callable[[], Any]) -> Any:
        try:
            return result()
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

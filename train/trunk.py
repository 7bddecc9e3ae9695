"""What a trunk leaves behind: engine states that its branches, and longer trunks, go on from."""

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist

from train import checkpoint, lineage
from train.config import RunSpec
from train.engine import snapshot
from train.parallel import Ranks, agree
from train.runlog import CHECKPOINT_MANIFEST, RunDir, step_of


def leave(
    engine: deepspeed.DeepSpeedEngine,
    run: RunDir,
    attempt: int,
    step: int,
    history: Iterable[dict[str, Any]],
    ranks: Ranks,
) -> None:
    """Keep the engine's state after `step` steps, with what was logged up to there.

    It is written aside and moved to its place whole. Raises EndedEarly where a later attempt
    exists.
    """
    spec = run.spec()
    place = lineage.folder(run.home, spec) / f"step-{step}"
    if agree(ranks.first and (place / CHECKPOINT_MANIFEST).exists(), ranks):
        return
    if agree(ranks.first and run.superseded(attempt), ranks):
        checkpoint.refuse_superseded(run, attempt)
    aside = place.parent / f".{run.path.name}-{attempt}"
    if ranks.first:
        drop_torn(place.parent, run, attempt)
    try:
        snapshot(engine, aside / place.name).write()
        dist.barrier()
        if ranks.first:
            _complete(aside / place.name, place, history)
            run.event("leaf", step=step, path=str(place.relative_to(run.home)))
    finally:
        if ranks.first:
            shutil.rmtree(aside, ignore_errors=True)


def drop_torn(folder: Path, run: RunDir, attempt: int) -> None:
    """Remove what earlier attempts at a run left half written."""
    for old in folder.glob(f".{run.path.name}-*"):
        if int(old.name.rpartition("-")[2]) < attempt:
            shutil.rmtree(old, ignore_errors=True)


def _complete(written: Path, place: Path, history: Iterable[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(line) + "\n" for line in history)
    (written / lineage.HISTORY).write_text(lines, encoding="utf-8")
    checkpoint.seal(written)
    try:
        written.rename(place)
    except OSError:
        # Another run of the lineage may have been first: its state is the same.
        if not (place / CHECKPOINT_MANIFEST).exists():
            raise


def newest_whole(run: RunDir, spec: RunSpec, after: int) -> Path | None:
    """The newest shared state beyond step `after` whose bytes verify; others are put aside."""
    for found in lineage.states(run.home, spec):
        if step_of(found) <= after:
            return None
        if checkpoint.is_whole(found):
            return found
        run.event("trunk_damaged", path=str(found.relative_to(run.home)))
        with suppress(FileNotFoundError):  # by another branch
            found.rename(found.with_name(f"damaged-{run.path.name}-{found.name}"))
    return None

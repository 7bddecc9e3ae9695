"""Designs that grow: they ask for more trials as results arrive.

What one asks for stands in the ledger with the runs that it saw, so a driver that starts again goes
on with the same trials, and a reader can follow why each was made.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from sweeper import adaptive, search
from sweeper.designs import plan_batch
from sweeper.ledger import Ledger
from sweeper.planner import Planned
from sweeper.record import Batch
from sweeper.runs import RunView
from sweeper.study import Design, Study

# Planned runs, how they stand, and the batches so far: what is asked for next.
NextBatch = Callable[
    [Study, Design, Sequence[Planned], Mapping[str, RunView], Sequence[Batch]], Batch
]

GROWING: dict[str, NextBatch] = {
    "adaptive": adaptive.next_batch,
    "search": search.next_batch,
}


def grow(
    study: Study,
    planned: Sequence[Planned],
    views: Mapping[str, RunView],
    ledger: Ledger,
    say: Callable[[str], None],
) -> list[Planned]:
    """The trials that the study's growing designs ask for now, written to the ledger first."""
    known = list(planned)
    for design in study.designs:
        waiting = {p.run_id for p in known if not _finished(p, views)}
        # Whoever has work for every worker can see more results before asking.
        if design.kind not in GROWING or len(waiting) >= study.cluster.workers:
            continue
        batches = ledger.record.batches
        batch = GROWING[design.kind](study, design, known, views, batches)
        if batch.points or not waiting:
            say(f"{design.kind}: {batch.why}")
        if batch.points:
            ledger.append({"event": "batch", **dataclasses.asdict(batch)})
            known += plan_batch(study, batch, len(batches) + 1, known)
    return known[len(planned) :]


def _finished(planned: Planned, views: Mapping[str, RunView]) -> bool:
    view = views.get(planned.run_id)
    return view is not None and view.finished

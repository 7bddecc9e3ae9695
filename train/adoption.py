"""A run that is another with later phases goes on from that one's state: a change in flight.

Whoever sees a run go wrong cancels it, adds a phase to its recipe, and launches again: until the
phase begins both are the same run, so nothing of it is trained twice.
"""

import json
import os
import shutil
from pathlib import Path

from train import checkpoint
from train.config import RunSpec, run_id
from train.loop import lines_before
from train.phases import begins
from train.runlog import RunDir, append_line, read_lines, step_of, write_atomic

# An attempt of nobody: what was taken over stands under its number.
TAKEN_OVER = 0


def adopt(run: RunDir, spec: RunSpec) -> None:
    """Take over the newest state that a run with fewer phases has of what they share.

    Links, no copies: the other run may go on and drop its own. Nothing where this run has begun.
    """
    if run.resume_states() or run.metrics(TAKEN_OVER).exists():
        return
    for count in reversed(range(len(spec.phases))):
        fewer = spec.model_copy(update={"phases": spec.phases[:count]})
        other = RunDir(run.home / "runs" / run_id(fewer))
        last = begins(spec, spec.phases[count])
        for state in other.resume_states():
            if step_of(state) <= last and checkpoint.is_whole(state) and _take(run, other, state):
                run.event("adopted", run=other.path.name, step=step_of(state))
                return


def _take(run: RunDir, other: RunDir, state: Path) -> bool:
    """Link a state, with what was logged up to it; False where it was dropped meanwhile."""
    step = step_of(state)
    staging = run.checkpoints / ".taken-over"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shutil.copytree(state, staging, copy_function=os.link)
    except (shutil.Error, FileNotFoundError):
        return False
    lines = "".join(json.dumps(line) + "\n" for line in lines_before(other, step))
    for event in read_lines(other.events):
        if event.get("event") == "spike":
            append_line(run.events, event)
    write_atomic(run.metrics(TAKEN_OVER), lines)
    place = run.attempt_checkpoints(TAKEN_OVER) / state.name
    place.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(place)
    return True

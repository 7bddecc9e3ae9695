"""Trunks and branches: runs that are one run until their rates part. No torch here.

Under a schedule that holds its peak, runs of several lengths are the same run until each begins to
decay. A trunk trains that once and keeps its state where a branch leaves; a branch goes on from it
as from a checkpoint of its own, and becomes the run that it would have been alone. States belong to
what they are, not to who made them: a longer trunk goes on where a shorter one ended.

    HOME/trunks/LINEAGE/step-S/     an engine's state after S steps; history.jsonl, what was logged
                                    up to there; manifest.json, as of a checkpoint

Source: Hagele et al. 2024, arXiv:2405.18392, sec. 4.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from train.config import RunSpec, ScheduleConfig, lineage_id, steps, steps_by, tokens_after
from train.runlog import CHECKPOINT_MANIFEST, RunDir, read_lines, step_of

HISTORY = "history.jsonl"


def leaf(spec: RunSpec) -> int:
    """Tokens that a run with a plateau has seen, in whole steps, when its rate begins to decay."""
    start = spec.tokens - spec.schedule.decay_fraction * spec.tokens
    return tokens_after(spec, steps_by(spec, int(start)))


def to_train(spec: RunSpec) -> int:
    """Tokens that are left to a run when its trunk has done its part."""
    return spec.tokens - (leaf(spec) if spec.trunk else 0)


def trunk_of(branches: Sequence[RunSpec], trial: int) -> RunSpec:
    """The run that trains what these runs of one lineage share; labelled as the largest of them."""
    largest = max(branches, key=lambda spec: spec.tokens)
    leaves = tuple(sorted({leaf(spec) for spec in branches}))
    schedule = ScheduleConfig(kind="constant", warmup_tokens=largest.schedule.warmup_tokens)
    own = {"trial": trial, "trunk": None, "leaves": leaves, "tokens": leaves[-1]}
    return RunSpec.model_validate(largest.model_dump() | own | {"schedule": schedule})


def folder(home: Path, spec: RunSpec) -> Path:
    """Where the states lie that runs of this lineage share."""
    return home / "trunks" / lineage_id(spec)


def state(home: Path, spec: RunSpec, tokens: int) -> Path:
    """The folder of the state after so many tokens."""
    return folder(home, spec) / f"step-{steps_by(spec, tokens)}"


def is_kept(home: Path, spec: RunSpec, tokens: int) -> bool:
    """Whether that state was written to its end; its bytes are looked at by who resumes from it."""
    return (state(home, spec, tokens) / CHECKPOINT_MANIFEST).exists()


def missing(home: Path, spec: RunSpec) -> list[int]:
    """The leaves of a trunk, in tokens, whose states are not there."""
    return [tokens for tokens in spec.leaves if not is_kept(home, spec, tokens)]


def leaf_steps(spec: RunSpec) -> frozenset[int]:
    """The steps of a trunk after which a branch leaves."""
    return frozenset(steps_by(spec, tokens) for tokens in spec.leaves)


def states(home: Path, spec: RunSpec) -> list[Path]:
    """Shared states that a run may go on from, newest first.

    A branch passes through all that its trunk keeps up to its own leaf; a trunk goes over the first
    leaf that is missing once more.
    """
    if spec.trunk is None and not spec.leaves:
        return []
    last = min(missing(home, spec), default=spec.tokens) if spec.leaves else leaf(spec)
    found = (p for p in folder(home, spec).glob("step-*") if (p / CHECKPOINT_MANIFEST).exists())
    passed = [path for path in found if step_of(path) <= steps_by(spec, last)]
    return sorted(passed, key=step_of, reverse=True)


def history(home: Path, spec: RunSpec, last: int) -> list[dict[str, Any]]:
    """What was logged of the shared steps up to `last`, by whoever made them."""
    found = next((path for path in states(home, spec) if step_of(path) <= last), None)
    return list(read_lines(found / HISTORY)) if found else []


def inherited_tokens(run: RunDir, spec: RunSpec) -> int:
    """Tokens before the first step that any attempt at a run made itself."""
    logs = (read_lines(run.metrics(attempt.number)) for attempt in run.attempts())
    made = [int(line["step"]) for log in logs for line in islice(log, 1)]
    return tokens_after(spec, min(made, default=steps(spec) + 1) - 1)

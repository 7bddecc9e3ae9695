"""What a changed study means for its trials: which are new, which stay, which it no longer has.

The last launch is remembered by the resolved study and by the runs of its trials: with the text or
this program changed the same study has other runs, and that is said as well.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sweeper.folders import StudyDir
from sweeper.planner import Planned
from sweeper.record import Record
from sweeper.study import Study
from train.runlog import write_atomic

CHANGES_SAID = 12


@dataclass(frozen=True)
class Launched:
    """The last launch of a study: its fields as they were, and the run of every trial."""

    fields: Mapping[str, Any]
    runs: frozenset[str]


@dataclass(frozen=True)
class Change:
    """A field of the study that differs; None on a side where there is none."""

    path: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Difference:
    """Runs by id: asked for now alone, then and now, then alone; and what changed in the study.

    `reused` are new ones with a result, and the study that trained each. `unread` are orphaned ones
    with a result: they are kept on disk and no longer count.
    """

    changes: tuple[Change, ...]
    new: tuple[str, ...]
    kept: tuple[str, ...]
    orphaned: tuple[str, ...]
    reused: Mapping[str, str]
    unread: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not (self.changes or self.new or self.orphaned)


def remember(place: StudyDir, study: Study, planned: Sequence[Planned]) -> None:
    """Write down what is launched, for the next launch to be compared with."""
    write_atomic(place.resolved, study.model_dump_json(indent=1))
    runs = dict.fromkeys(p.run_id for p in planned)
    write_atomic(place.planned, json.dumps(list(runs)))


def launched(place: StudyDir, record: Record) -> Launched | None:
    """What was launched last, with the trials that were submitted since; None before any launch."""
    try:
        fields: Any = json.loads(place.resolved.read_bytes())
        runs: Any = json.loads(place.planned.read_bytes())
    except (OSError, ValueError):
        return None
    granted = {run for job in record.jobs if job.stage == "trials" for run, _ in job.grants}
    return Launched(fields, frozenset(cast("list[str]", runs)) | granted)


def compare(
    before: Launched,
    study: Study,
    planned: Sequence[Planned],
    trained_by: Callable[[str], str],
) -> Difference:
    """The difference of a study and its trials to the last launch; pure but for `trained_by`.

    `trained_by` names the study that trained a run, "" where it has no result.
    """
    now = dict.fromkeys(p.run_id for p in planned)
    new = tuple(run for run in now if run not in before.runs)
    orphaned = tuple(sorted(before.runs - now.keys()))
    return Difference(
        changes=tuple(_changes(before.fields, study.model_dump(mode="json"))),
        new=new,
        kept=tuple(run for run in now if run in before.runs),
        orphaned=orphaned,
        reused={run: name for run in new if (name := trained_by(run))},
        unread=tuple(run for run in orphaned if trained_by(run)),
    )


def _changes(before: Any, now: Any, path: str = "") -> Iterator[Change]:
    """The leaves that differ, by dotted path; elements of a list by position."""
    left, right = _parts(before), _parts(now)
    if left is None or right is None:
        if before != now:
            yield Change(path, before, now)
        return
    for key in {**left, **right}:
        below = f"{path}.{key}" if path else key
        if key in left and key in right:
            yield from _changes(left[key], right[key], below)
        else:
            yield Change(below, left.get(key), right.get(key))


def _parts(value: Any) -> dict[str, Any] | None:
    """What lies below a value by key, or None for a leaf. A list of plain values is a leaf."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        if any(isinstance(element, dict) for element in elements):
            return {str(i): element for i, element in enumerate(elements)}
    return None


def lines(difference: Difference) -> Iterator[str]:
    """The difference in words; nothing where there is none."""
    if difference.empty:
        return
    new, kept, orphaned = difference.new, difference.kept, difference.orphaned
    yield (
        f"against the last launch: {len(new)} new runs, {len(kept)} kept, {len(orphaned)} orphaned"
    )
    for change in difference.changes[:CHANGES_SAID]:
        yield f"  {change.path}: {_said(change.before)} -> {_said(change.now)}"
    if (more := len(difference.changes) - CHANGES_SAID) > 0:
        yield f"  and {more} more changes"
    if not difference.changes:
        yield "  the study is the same: its text, or the program that plans it, has changed"
    if difference.reused:
        by = Counter(difference.reused.values())
        names = ", ".join(f"{count} by {name!r}" for name, count in sorted(by.items()))
        yield f"  {len(difference.reused)} of the new runs are trained already ({names})"
    if difference.unread:
        yield (
            f"  {len(difference.unread)} of the orphaned runs have results: they stay on disk, and "
            "no longer count in this study"
        )


def _said(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

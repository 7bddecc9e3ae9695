"""What people and rules decide of runs: that they end, or are tried anew.

A decision stands in the study's ledger, which its driver alone writes. Verbs leave a request in the
study's folder; the driver takes it up, or the verb itself where no driver is at work.
"""

import getpass
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sweeper.folders import StudyDir
from sweeper.ledger import Ledger
from sweeper.record import Record
from sweeper.runs import RunView
from sweeper.verdict import INTERRUPTIONS
from train.runlog import RunDir, Stop, write_atomic

Verb = Literal["cancel", "retry", "uncordon"]


def stop(
    ledger: Ledger, place: StudyDir, runs: Iterable[RunView], state: Any, cause: str
) -> list[str]:
    """Decide that these runs end as `state`; those that are at work are told to save and end."""
    chosen = [run for run in runs if not run.finished]
    ledger.append(
        *(
            {"event": "stop", "run": r.run_id, "state": state, "cause": cause, "after": r.attempts}
            for r in chosen
        )
    )
    for run in chosen:
        _tell(place, ledger.record.uid, run, Stop(state=state, cause=cause, study=place.name))
    return [run.run_id for run in chosen]


def _tell(place: StudyDir, uid: str, run: RunView, order: Stop) -> None:
    """Leave word for the attempt at work, if a job of this study makes it, and for the next."""
    folder = RunDir(place.runs / run.run_id)
    ours = run.job.startswith(f"swp-{uid}-")
    if run.state == "RUNNING" and ours:
        folder.write_stop(run.attempts, order)
    folder.write_stop(run.attempts + 1, order)


def retry(ledger: Ledger, place: StudyDir, runs: Iterable[RunView], cause: str) -> list[str]:
    """Decide that these runs are tried anew, whatever became of them: earlier failures are past."""
    chosen = [run for run in runs if run.state in ("FAILED", "CANCELLED", "PRUNED")]
    ledger.append(
        *({"event": "retry", "run": r.run_id, "cause": cause, "after": r.attempts} for r in chosen)
    )
    # What those nodes did is past as well.
    nodes = {node for run in chosen for node in run.avoid} & ledger.record.cordoned.keys()
    uncordon(ledger, sorted(nodes), trusted=False)
    for run in chosen:
        allow(place, run.run_id, run.attempts + 1)
    return [run.run_id for run in chosen]


def uncordon(ledger: Ledger, nodes: Iterable[str], *, trusted: bool) -> None:
    """Send jobs to these nodes again; for good, whatever dies there, where they are trusted."""
    events = ({"event": "uncordon", "node": node, "trusted": trusted} for node in nodes)
    ledger.append(*events)


def allow(place: StudyDir, run_id: str, attempt: int) -> None:
    """Take back the word that an attempt must not begin: another study's is not ours."""
    (place.runs / run_id / f"stop.{attempt}.json").unlink(missing_ok=True)


def idle(record: Record, views: Mapping[str, RunView], living: Iterable[str]) -> set[str]:
    """Living elements with nothing left to do, because of what was decided.

    Also those that would start again for a run that gets nowhere.
    """
    busy = {run.job for run in views.values() if run.state == "RUNNING"}
    wanted = set(living) - busy
    return {
        name
        for job in record.jobs
        if job.grants
        for index, name in enumerate(job.names)
        if name in wanted
        and all(run in views and views[run].finished for run, _ in job.share(index))
        and any(run in record.decisions or _stuck(views[run]) for run, _ in job.share(index))
    }


def _stuck(run: RunView) -> bool:
    return run.state == "FAILED" and run.cause in INTERRUPTIONS


def leave(place: StudyDir, verb: Verb, names: Sequence[str]) -> None:
    """Leave a request for the driver of a study: what to do with these runs, or nodes."""
    place.requests.mkdir(exist_ok=True)
    content = {"verb": verb, "names": list(names), "by": getpass.getuser()}
    write_atomic(place.requests / f"{uuid.uuid4().hex}.json", json.dumps(content))


def take(ledger: Ledger, place: StudyDir, views: Mapping[str, RunView]) -> list[str]:
    """Carry out the requests that lie there; says what was done, a line each."""
    said: list[str] = []
    for path in sorted(place.requests.glob("*.json")):
        try:
            asked = json.loads(path.read_text(encoding="utf-8"))
            verb, names, by = asked["verb"], asked["names"], asked["by"]
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            continue
        runs = [views[name] for name in names if name in views]
        if verb == "cancel":
            done = stop(ledger, place, runs, "CANCELLED", f"cancelled by {by}")
            said.append(f"{len(done)} runs cancelled by {by}")
        elif verb == "uncordon":
            uncordon(ledger, names, trusted=True)
            said.append(f"{', '.join(names)} may get jobs again, by {by}")
        else:
            done = retry(ledger, place, runs, f"asked for by {by}")
            said.append(f"{len(done)} runs to be tried anew, by {by}")
        path.unlink(missing_ok=True)
    return said

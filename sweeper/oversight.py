"""What a driver concludes from how runs and jobs fare: pure rules, and the words for them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from sweeper.jobs import Ended, Scan
from sweeper.record import UNDECIDED, Event, Record
from sweeper.runs import Files, RunView
from train.runlog import Failure, RunDir, read_lines

# Runs that died on one node before no more is sent there.
CORDON_AFTER = 2
# The first runs that end alike, or this part of more of them: more would do the same.
FIRST_ALIKE = 3
ENOUGH_ENDED, PART_ALIKE = 10, 0.3
# Steps after which the first run of a program has shown that it trains.
PROVING_STEPS = 3


def changes(record: Record, views: Mapping[str, RunView]) -> list[Event]:
    """The changes of state since the ledger last heard of each run."""
    return [
        {
            "event": "state",
            "run": name,
            "state": run.state,
            "cause": run.message,
            "attempt": run.attempts,
            "job": run.job,
        }
        for name, run in views.items()
        if record.states.get(name) != (run.state, run.message)
    ]


def bury(runs: Path, run: RunView, ended: Ended | None) -> None:
    """Write down how an attempt ended that is over and left no word."""
    folder = RunDir(runs / run.run_id)
    cause, message = "killed", "it ended without a word"
    if ended is not None:
        cause = "stopped" if ended.cause == "cancelled" else ended.cause
        message = ended.message
    folder.write_failure(
        Failure(attempt=run.attempts, cause=cause, message=message, step=folder.resume_step())
    )


def cancelled(record: Record, views: Mapping[str, RunView], scan: Scan) -> list[RunView]:
    """Runs whose job a person cancelled in the scheduler, by another tool than this one."""
    found: dict[str, RunView] = {}
    for job in record.jobs:
        for index, name in enumerate(job.names):
            if job.refused or name not in scan.ended or scan.ended[name].cause != "cancelled":
                continue
            for run_id, attempt in job.share(index):
                run = views.get(run_id)
                if run is None or run.finished or run.state == "QUEUED":
                    continue
                if run.job == name or run.attempts < attempt:
                    found[run_id] = run
    return list(found.values())


def bad_nodes(
    record: Record, deaths: Mapping[str, Collection[str]], accused: Mapping[str, str] | None = None
) -> list[Event]:
    """The nodes to send nothing to from now on, by the runs that died on each.

    One run that dies wherever it goes says nothing of the nodes; all its other replicas do.
    """
    found = {
        node: f"{len(runs)} runs died there"
        for node, runs in deaths.items()
        if len(runs) >= CORDON_AFTER
    }
    for node, run in (accused or {}).items():
        found[node] = f"its replica of run {run} differed from all others"
    return [
        {"event": "cordon", "node": node, "why": why}
        for node, why in found.items()
        if node not in {*record.cordoned, *record.trusted}
    ]


def accused(seen: Mapping[str, Files], record: Record) -> dict[str, str]:
    """The nodes that computed wrongly beyond doubt, each with a run: it alone was named.

    Where several were, because no majority said who is wrong, each counts as a death (`deaths`).
    What a person had tried anew does not count any more.
    """
    return {
        failure.hosts[0]: run
        for run, files in seen.items()
        for failure in files.failures
        if failure.cause == "corrupted"
        and len(failure.hosts) == 1
        and failure.attempt > record.decisions.get(run, UNDECIDED).after
    }


def alike(views: Iterable[RunView]) -> str:
    """Why no more should be submitted: runs fail one like the other; empty where they do not."""
    ended = [run for run in views if run.finished]
    failed = Counter(_kind(run) for run in ended if run.state == "FAILED")
    if not failed:
        return ""
    kind, count = failed.most_common(1)[0]
    if len(ended) == count >= FIRST_ALIKE:
        return f"the first {count} runs failed alike: {kind}"
    if len(ended) >= ENOUGH_ENDED and count > PART_ALIKE * len(ended):
        return f"{count} of {len(ended)} runs failed alike: {kind}"
    return ""


def _kind(run: RunView) -> str:
    return run.message.splitlines()[0][:200] if run.message else "without a word"


def proven(runs: Path, run: RunView) -> bool:
    """Whether a run has shown that the program trains: some steps, or an end that is a result."""
    if run.result is not None:
        return True
    if run.state != "RUNNING":
        return False
    return sum(1 for _ in read_lines(RunDir(runs / run.run_id).metrics(run.attempts))) >= (
        PROVING_STEPS
    )

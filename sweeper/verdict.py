"""Whether a run is tried again: a budget of attempts for every cause, and no loop without progress.

An exception of the code comes again. Memory is asked for less of, by halves. A kill or a full disk
may be bad luck. What a scheduler does to a job costs nothing, as long as the run gets on; nor does
what a node does to it that computes wrongly.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from train.config import RunSpec, reduced_micro_batch
from train.runlog import Attempt, Cause, Failure

# How often a run may be tried.
ATTEMPTS: dict[Cause, int] = {"exception": 1, "disk_full": 3, "killed": 3, "node_failure": 10}
# Interruptions in a row that end where an earlier attempt had got to already.
STUCK = 3
INTERRUPTIONS: frozenset[Cause] = frozenset({"preempted", "timeout", "corrupted"})
# Somebody decided that this attempt must end: nothing is wrong with the run.
NEUTRAL: frozenset[Cause] = frozenset({"stopped", "superseded"})

# Ends that may be the node's fault: the next attempt is made on another.
NODE_CAUSES: frozenset[Cause] = frozenset({"killed", "node_failure", "corrupted"})


@dataclass(frozen=True)
class End:
    """How an attempt ended; `step` is where a later one can go on from.

    `hosts` are those that are known to have their part in it.
    """

    attempt: int
    cause: Cause
    message: str
    step: int
    hosts: tuple[str, ...] = ()


def ends(attempts: Sequence[Attempt], failures: Sequence[Failure], after: int) -> list[End]:
    """How every attempt beyond `after` ended, all of them being over.

    Without a word it was killed; followed by an attempt of the same job, its scheduler started the
    job again.
    """
    said = {failure.attempt: failure for failure in failures}
    found: list[End] = []
    for attempt, next_one in zip(attempts, [*attempts[1:], None], strict=False):
        if attempt.number <= after:
            continue
        failure = said.get(attempt.number)
        if failure is not None:
            said_of = (failure.cause, failure.message, failure.step, failure.hosts)
            found.append(End(attempt.number, *said_of))
        elif next_one is not None and attempt.job and next_one.job == attempt.job:
            message = f"its job was started again after {attempt.host or 'its node'} was lost"
            found.append(End(attempt.number, "node_failure", message, 0))
        else:
            found.append(End(attempt.number, "killed", "it ended without a word", 0))
    return found


def deadly_nodes(attempts: Sequence[Attempt], found: Sequence[End]) -> tuple[str, ...]:
    """The nodes on which attempts ended so that it may be the node's fault, each once."""
    hosts = {attempt.number: attempt.host for attempt in attempts}
    died = (
        host
        for end in found
        if end.cause in NODE_CAUSES
        for host in end.hosts or (hosts.get(end.attempt, ""),)
    )
    return tuple(dict.fromkeys(filter(None, died)))


def given_up(spec: RunSpec, found: Sequence[End]) -> str:
    """Why a run is not tried again after these ends; empty where it is. Pure."""
    if not found or found[-1].cause in NEUTRAL:
        return ""
    last = found[-1]
    count = Counter(end.cause for end in found)[last.cause]
    if last.cause == "out_of_memory":
        if reduced_micro_batch(spec, count) is None:
            return f"out of memory with the smallest micro-batch: {last.message}"
        return ""
    if last.cause in ATTEMPTS and count >= ATTEMPTS[last.cause]:
        if last.cause == "exception":
            return last.message
        word = last.cause.replace("_", " ")
        return f"{word}: {count} attempts, the last: {last.message}"
    if last.cause in INTERRUPTIONS and _stuck(found):
        way_out = "give the job more time, or the checkpoint less"
        if last.cause == "corrupted":
            way_out = f"find the node with `sweeper bisect-nodes`; the last: {last.message}"
        return (
            f"{last.cause}: {STUCK} attempts in a row got no further than step {last.step}; "
            + way_out
        )
    return ""


def _stuck(found: Sequence[End]) -> bool:
    """Whether the last attempts were all interrupted before they got beyond those before them."""
    if len(found) < STUCK or any(end.cause not in INTERRUPTIONS for end in found[-STUCK:]):
        return False
    best = max((end.step for end in found[:-STUCK]), default=0)
    return max(end.step for end in found[-STUCK:]) <= best

"""What the commands of Slurm say of jobs, read."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ANSWER_SECONDS = 60.0
REST = "rest"
# Reasons for which a job waits until somebody does something.
STUCK = re.compile(
    r"held|JobHeld|BadConstraints|NeverSatisfied|ReqNodeNotAvail|InvalidAccount|InvalidQOS|"
    r"PartitionNodeLimit|PartitionTimeLimit|PartitionDown|AssocGrp",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Row:
    """What Slurm says of an element of a job."""

    number: str
    state: str
    reason: str
    node: str


def ask(*command: str) -> str:
    """What a command of Slurm prints; OSError or SubprocessError where it does not answer."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )
    if done.returncode:
        raise subprocess.SubprocessError((done.stderr or done.stdout).strip() or str(command))
    return done.stdout


def parse_queue(text: str) -> dict[str, Row]:
    """The elements by name, from `squeue -h -r -o '%i|%j|%T|%r|%N'` or sacct's like."""
    rows: dict[str, Row] = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) < 5:
            continue
        number, name, state, reason, node = parts[:5]
        _, array, index = number.partition("_")
        # Elements that never started are cancelled as one row, their numbers in brackets or N/A.
        element = f"{name}_{index if index.isdigit() else REST}" if array else name
        # "CANCELLED by 0" in sacct.
        rows[element] = Row(number, state.split()[0].rstrip("+"), reason, node)
    return rows


def stuck(rows: Mapping[str, Row]) -> Iterable[str]:
    """What waits for somebody to do something, once for every reason."""
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row.state == "PENDING" and STUCK.search(row.reason):
            reasons.setdefault(row.reason, []).append(name)
    for reason, names in reasons.items():
        yield f"{len(names)} jobs wait in Slurm for: {reason} (such as {names[0]})"


def held_back(rows: Mapping[str, Row]) -> frozenset[str]:
    """The numbers of jobs that wait for nothing but their earliest time."""
    return frozenset(
        row.number
        for row in rows.values()
        if row.state == "PENDING" and row.reason == "BeginTime" and row.number
    )

"""The verb `logs`: what a run's job said, the reason of its failure first."""

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.dossier import Dossier, is_gone, read
from sweeper.errors import UserError
from sweeper.folders import home
from sweeper.references import find_run
from sweeper.showing import ended, event_line
from sweeper.tailing import POLL_SECONDS, Part, Tail
from train.runlog import Attempt, RunDir

JOB = re.compile(r"(swp-[0-9a-f]{8}-\d{4,})(?:_(\d+))?")
RunOrJob = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id or the start of it, STUDY:NUMBER for a trial, or a job's name.",
        show_default=False,
    ),
]


def logs(
    run: RunOrJob,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(help="Which attempt; the latest where none is named.", min=1)
    ] = None,
    lines: Annotated[int, typer.Option(help="How many lines of each file.", min=0)] = 200,
) -> None:
    """Show what the job of a run wrote, and the run's events; of a failed one first why.

    Of a job that trains several runs in turn the run's own part; `sweeper logs JOB` has all.
    """
    try:
        with closing(Reader(lines)) as reader:
            if JOB.fullmatch(run):
                _job(run, reader, follow)
            else:
                _run(find_run(run, home()), attempt, reader, follow)
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(130) from interrupt


class Reader:
    """Prints files as they grow, each under its name; of logs the part of a run, if one is set."""

    def __init__(self, lines: int) -> None:
        self.lines = lines
        self.run = ""
        self.attempts = range(0)
        self._tails: dict[Path, Tail] = {}
        self._named: Path | None = None

    def only(self, run: str, attempts: range) -> None:
        """Of logs show what these attempts of a run wrote."""
        self.run, self.attempts = run, attempts

    def begin(self, files: list[Path]) -> None:
        """The last lines of each file; what comes later is new."""
        for path in files:
            if path in self._tails:
                continue
            tail = self._tail(path)
            shown = deque(tail.new(), self.lines) if tail.part else tail.last(self.lines)
            self._print(path, list(shown))

    def go_on(self, files: list[Path]) -> None:
        """What was written since; a file that appeared meanwhile is shown from its start."""
        for path in files:
            self._print(path, list(self._tail(path).new()))

    def _tail(self, path: Path) -> Tail:
        if path not in self._tails:
            part = Part(self.run, self.attempts) if self.run and path.suffix != ".jsonl" else None
            self._tails[path] = Tail(path, part)
        return self._tails[path]

    def end(self) -> None:
        """Last lines that lack their end."""
        for path, tail in self._tails.items():
            self._print(path, list(tail.end()))

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()

    def _print(self, path: Path, lines: list[str]) -> None:
        if lines and path != self._named:
            # Said again where another file spoke in between.
            typer.echo(f"== {path}")
            self._named = path
        for line in lines:
            typer.echo(_event(line) if path.name == "events.jsonl" else line)


def _job(name: str, reader: Reader, follow: bool) -> None:
    """The log of a job, whatever it ran; followed until somebody interrupts."""
    place = home()
    if not job_folders(place, name):
        raise UserError(f"no study below {place} has a job {name!r}; see the runs: sweeper status")
    reader.begin(log_files(place, name))
    while follow:
        reader.go_on(log_files(place, name))
        time.sleep(POLL_SECONDS)


def _run(run: RunDir, number: int | None, reader: Reader, follow: bool) -> None:
    found = read(run)
    attempt = _attempt(found, number)
    reader.only(found.run_id, range(attempt.number, (number or sys.maxsize - 1) + 1))
    typer.echo("\n".join(_why(found, attempt)))
    while True:
        reader.begin(_files(found, attempt))
        if not follow:
            return
        found = _until_ended(run, attempt, reader)
        typer.echo("\n".join(_why(found, attempt)))
        if number is not None or not _goes_on(found):
            return
        following = _next(run, attempt, reader)
        if following is None:
            return
        attempt = following


def _attempt(found: Dossier, number: int | None) -> Attempt:
    """The attempt of a number, or the latest. Raises UserError where there is none."""
    numbers = [attempt.number for attempt in found.attempts]
    if not numbers:
        raise UserError(
            f"run {found.run_id} was never tried, so nothing was said; see its study's "
            f"jobs: sweeper status {found.spec.study}"
        )
    if number is None:
        return found.attempts[-1]
    if number not in numbers:
        said = ", ".join(map(str, numbers))
        raise UserError(f"--attempt {number}: run {found.run_id} has the attempts {said}")
    return found.attempts[numbers.index(number)]


def _why(found: Dossier, attempt: Attempt) -> Iterator[str]:
    """How the attempt stands; where it failed its trace, and what to type next."""
    how = ended(found, attempt)
    yield f"== run {found.run_id}, attempt {attempt.number} of {len(found.attempts)}: {how}"
    if found.standing.finished and found.result is None:
        yield f"== {found.state}: {found.standing.message}"
    failure = found.failures.get(attempt.number)
    if failure and failure.trace:
        yield failure.trace.rstrip()
    if found.result is None and attempt.number == found.attempts[-1].number and how != "running":
        yield f"== {_next_step(found)}"


def _next_step(found: Dossier) -> str:
    """What to type after an attempt that gave no result."""
    study = found.spec.study
    if found.state == "FAILED":
        return f"mend the cause, then: sweeper retry {study} {found.run_id}"
    if found.state in ("PRUNED", "CANCELLED"):
        return (
            f"that was decided, not an error; to train it on: sweeper retry {study} {found.run_id}"
        )
    return f"a running driver tries again; to start one: sweeper launch {study}"


def _files(found: Dossier, attempt: Attempt) -> list[Path]:
    return [*log_files(found.run.home, attempt.job), found.run.events]


def job_folders(place: Path, name: str) -> list[Path]:
    """The submitit folders of a job or of the array that a job is an element of."""
    match = JOB.fullmatch(name)
    names = [name, match[1]] if match and match[2] else [name]
    found = (path for each in names for path in (place / "studies").glob(f"*/jobs/{each}"))
    return [path for path in found if path.is_dir()]


def log_files(place: Path, name: str) -> list[Path]:
    """The logs of a job, errors last; of an element of an array its own alone."""
    match = JOB.fullmatch(name)
    element = match[2] if match else None
    pattern = rf"\d+_{element}_\d+_log\.(out|err)" if element else r".*_log\.(out|err)"
    found = [
        path
        for folder in job_folders(place, name)
        for path in folder.iterdir()
        if re.fullmatch(pattern if folder.name != name else r".*_log\.(out|err)", path.name)
    ]
    return sorted(found, key=lambda path: (path.suffix == ".err", path.name))


def _until_ended(run: RunDir, attempt: Attempt, reader: Reader) -> Dossier:
    """Print what is written until the attempt has ended; returns the run as it is then."""
    while True:
        found = read(run)
        over = has_ended(found, attempt)
        # Looked at before the files: what was written before the end is printed.
        reader.go_on(_files(found, attempt))
        if over:
            reader.end()
            return read(run)
        time.sleep(POLL_SECONDS)


def has_ended(found: Dossier, attempt: Attempt) -> bool:
    """Whether an attempt writes no more: it said so, another follows it, or its process is gone."""
    later = found.attempts[-1].number > attempt.number
    said = found.result is not None or attempt.number in found.failures
    return said or later or is_gone(attempt)


def _goes_on(found: Dossier) -> bool:
    """Whether another attempt may follow."""
    return found.state in ("PLANNED", "RUNNING")


def _next(run: RunDir, attempt: Attempt, reader: Reader) -> Attempt | None:
    """The attempt after this one, waited for; None once it is decided that none follows."""
    typer.echo("== waiting for the next attempt; Ctrl-C leaves")
    while True:
        found = read(run)
        if found.attempts[-1].number > attempt.number:
            return found.attempts[-1]
        if not _goes_on(found):
            typer.echo("\n".join(_why(found, found.attempts[-1])))
            return None
        reader.go_on([run.events])
        time.sleep(POLL_SECONDS)


def _event(line: str) -> str:
    try:
        found: dict[str, Any] = json.loads(line)
        return event_line(found)
    except (ValueError, AttributeError):
        return line

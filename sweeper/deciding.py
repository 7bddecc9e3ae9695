"""The verbs `cancel` and `retry`: what a person decides of runs, a driver at work or none."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper.arguments import StudyOrName, console_here, launched, load_study, say
from sweeper.errors import DriverBusy, UserError
from sweeper.folders import StudyDir, driver_lock, home
from sweeper.runs import RunView
from sweeper.study import Study

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Runs by id, by the start of it, or STUDY:NUMBER; all that it may mean without any.",
        show_default=False,
    ),
]


def cancel(study: StudyOrName, runs: RunsArgument = None) -> None:
    """End runs, or all of a study: those at work save and stop, those that wait never start.

    `sweeper retry` takes it back.
    """
    _decide("cancel", study, runs, "")


def retry(
    study: StudyOrName,
    runs: RunsArgument = None,
    cause: Annotated[
        str, typer.Option(help="Only runs whose last failure has this in it, such as killed.")
    ] = "",
    node: Annotated[
        list[str] | None, typer.Option(help="Send jobs to this node again; runs stay as they are.")
    ] = None,
) -> None:
    """Have failed, cancelled or pruned runs tried anew; earlier failures count no more.

    The next `sweeper launch`, or the driver at work, trains them from their last checkpoint.
    """
    if node:
        _trust(study, node)
    else:
        _decide("retry", study, runs, cause)


def _trust(study: Path, nodes: list[str]) -> None:
    from sweeper import decisions
    from sweeper.ledger import read

    asked = load_study(study, None)
    place = launched(asked)
    known = read(place.ledger).cordoned
    if strangers := [node for node in nodes if node not in known]:
        there = ", ".join(known) or "none"
        raise UserError(f"--node {', '.join(strangers)}: left out are {there}; name one of those")
    decisions.leave(place, "uncordon", nodes)
    say(console_here(), _carry_out(asked, place, str(study)))


def _decide(verb: str, study: Path, runs: list[str] | None, cause: str) -> None:
    from sweeper import decisions
    from sweeper.sight import look

    asked = load_study(study, None)
    place = launched(asked)
    console = console_here()
    views = look(asked, place.home).views
    names = [_named(word) for word in runs] if runs else list(views)
    chosen = [name for name in names if name in views and _open_to(verb, views[name], cause)]
    strangers = [name for name in names if name not in views]
    say(console, (f"run {name} is not of study {asked.name!r}" for name in strangers))
    if not chosen:
        say(console, [f"nothing to {verb}: {len(names)} runs were looked at"])
        raise typer.Exit(2 if strangers else 0)
    decisions.leave(place, "cancel" if verb == "cancel" else "retry", chosen)
    say(console, _carry_out(asked, place, str(study)))


def _open_to(verb: str, run: RunView, cause: str) -> bool:
    if verb == "cancel":
        return not run.finished
    said = f"{run.cause} {run.message}"
    return run.state in ("FAILED", "CANCELLED", "PRUNED") and cause in said


def _named(word: str) -> str:
    from sweeper.references import find_run

    return find_run(word, home()).path.name


def _carry_out(study: Study, place: StudyDir, file: str) -> list[str]:
    """Have the requests carried out: by the driver at work, or here."""
    from sweeper import decisions
    from sweeper.backends import backend_of
    from sweeper.jobs import Refused
    from sweeper.ledger import Ledger
    from sweeper.sight import look

    try:
        with driver_lock(place):
            ledger = Ledger(place.ledger)
            said = decisions.take(ledger, place, look(study, place.home).views)
            backend = backend_of(study.cluster, place.home)
            now = look(study, place.home)
            try:
                idle = decisions.idle(ledger.record, now.views, now.living)
                backend.cancel(ledger.record.jobs, idle)
            except Refused as refused:
                said.append(f"jobs that have nothing to do are not ended yet: {refused}")
            return [*said, f"no driver is at work; to go on: sweeper launch {file}"]
    except DriverBusy:
        return ["the driver at work was asked; see: sweeper status " + file]

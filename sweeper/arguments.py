"""What the verbs of the command line share: their arguments, their words, what they refuse."""

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sweeper.cluster import CLUSTERS
from sweeper.errors import UserError
from sweeper.folders import NAME, StudyDir, home
from sweeper.overrides import nearest, parse_override, with_values
from sweeper.study import Study
from sweeper.study_file import explain, load

StudyArgument = Annotated[
    Path, typer.Argument(help="A study file, such as studies/tiny.py.", show_default=False)
]
StudyOrName = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY",
        help="A study file, such as studies/tiny.py, or the name of a study that is there.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH=VALUE",
        help="Values of the study to change, such as base.lr.scale=2 or cluster.workers=4.",
        show_default=False,
    ),
]


ClusterOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Where jobs run: debug, local or slurm; the study's own settings where it says so.",
        show_default=False,
    ),
]


def on_cluster(kind: str | None, overrides: list[str] | None) -> list[str]:
    """The overrides with a cluster of this kind before them. Raises UserError for no such kind."""
    if kind is None:
        return overrides or []
    if kind not in CLUSTERS:
        raise UserError(f"--cluster {kind!r} is not known; {nearest(kind, list(CLUSTERS))}")
    return [f"cluster={{'kind': {kind!r}}}", *(overrides or [])]


def load_study(study: Path, overrides: list[str] | None) -> Study:
    """The study of a file, or the launched one of a name. Raises UserError where there is none."""
    place = named(study)
    if place is None:
        return load(study, overrides or ())
    if not place.resolved.exists():
        raise UserError(
            f"study {place.name!r} is known by its imported rows alone, and has no trials to plan, "
            f"train or promote; write a study file with name={place.name!r} and give its path"
        )
    try:
        found = Study.model_validate_json(place.resolved.read_bytes())
        return with_values(found, dict(parse_override(text) for text in overrides or ()))
    except ValueError as error:
        raise UserError(f"{place.resolved}: {explain(error)}; give the study file") from error


def named(study: Path) -> StudyDir | None:
    """The place of a study that is there and was given by its name."""
    if not re.fullmatch(NAME, str(study)):
        return None
    place = StudyDir(home(), str(study))
    return place if place.resolved.exists() or place.imported.exists() else None


def imported_alone(study: Path, overrides: list[str] | None) -> StudyDir | None:
    """The place of a study given by its name and known by its imported rows alone."""
    place = named(study)
    if place is None or place.resolved.exists():
        return None
    if overrides:
        raise UserError(
            f"{' '.join(overrides)}: study {place.name!r} has no file whose values change"
        )
    return place


def launched(study: Study) -> StudyDir:
    """The place of a study that was launched. Raises UserError where it was not."""
    place = StudyDir(home(), study.name)
    if not place.ledger.exists():
        raise UserError(
            f"study {study.name!r} was not launched below {place.home}; start it with `sweeper "
            "launch`, or point SWEEPER_HOME at the folder where it was"
        )
    return place


def console_here() -> Console:
    # Piped, a line is as long as it is: nothing is cut or folded.
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False)


@contextmanager
def interruptible(console: Console, study: str) -> Generator[None]:
    """Ctrl-C inside says that the jobs go on, and how to see them."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        lines = [
            "interrupted: jobs that run are left running",
            "the same command goes on with them",
        ]
        say(console, [*lines, f"what they do: sweeper status {study}"])
        raise typer.Exit(130) from interrupt

"""The verb `doctor`: what is as it must be before a study is left alone, and what is not."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from sweeper.arguments import Overrides, console_here, load_study, say
from sweeper.folders import home
from sweeper.showing import AsJson

if TYPE_CHECKING:
    from sweeper.checks import Check

STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


def doctor(
    study: Annotated[
        Path | None,
        typer.Argument(
            metavar="STUDY", help="The study that is to run here, by file or name: more is checked."
        ),
    ] = None,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run a job of seconds on a compute node.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the machine, the disk and Slurm, each with the way out.

    Exit code 1 where a check failed. Nothing is changed; without --probe nothing is submitted.
    """
    from sweeper.checks import Subject
    from sweeper.doctor import examine

    asked = load_study(study, overrides) if study else None
    subject = Subject(home(), asked, probe)
    console = console_here()
    with console.status("examining"):
        found = examine(subject)
    if as_json:
        typer.echo(json.dumps({"checks": [asdict(check) for check in found]}, indent=1))
    else:
        console.print(_table(found))
        bad = [check for check in found if check.verdict != "ok"]
        say(console, (f"{check.name}: {check.way_out}" for check in bad))
    raise typer.Exit(1 if any(check.verdict == "FAIL" for check in found) else 0)


def _table(found: list["Check"]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found:
        # As text: what a command said is no markup.
        table.add_row(Text(check.verdict, STYLES[check.verdict]), check.name, Text(check.seen))
    return table

"""The command line: `sweeper VERB STUDY [path=value ...]`."""

import getpass
import os
import sys
import time
from typing import Annotated

# Before numpy loads: its matrices here are small, and threads only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer
from rich.console import Console
from rich.table import Table

from sweeper import fitting, rehearsing
from sweeper.arguments import (
    Overrides,
    StudyArgument,
    StudyOrName,
    console_here,
    imported_alone,
    interruptible,
    launched,
    load_study,
    say,
)
from sweeper.errors import UserError
from sweeper.folders import StudyDir, home

app = typer.Typer(
    help=(
        "Decide what large model to train: many small runs from one study file, scaling laws, "
        "a forecast with error bars, the promoted run, and how it compared."
    ),
    epilog=(
        "Everything is kept below $SWEEPER_HOME (default: .sweeper here). Exit codes: 0 complete, "
        "1 some runs failed or a promotion was held, 2 a mistake in what was asked, 4 another "
        "driver holds the study, 130 interrupted (jobs go on; the same command takes them up)."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def plan(study: StudyArgument, overrides: Overrides = None) -> None:
    """Show every trial: shape, tokens, FLOPs, learning rate, expected time. Writes nothing."""
    from sweeper.designs import expand
    from sweeper.ledger import read
    from sweeper.plan import plan_rows, plan_summary, plan_table
    from sweeper.speed import measured_speed

    asked = load_study(study, overrides)
    place = StudyDir(home(), asked.name)
    speed = measured_speed(place.runs)
    rows = plan_rows(expand(asked, read(place.ledger).batches), place, speed)
    console = console_here()
    console.print(plan_table(rows))
    say(console, ["", plan_summary(asked, rows, speed)])


@app.command()
def launch(study: StudyArgument, overrides: Overrides = None) -> None:
    """Run the whole study: trials, fit, gates, the promoted run, the report.

    Whatever is done already is not done again: interrupted or killed at any point, the same command
    goes on where it stopped. Ctrl-C leaves the jobs running.
    """
    asked, started = load_study(study, overrides), time.monotonic()
    from sweeper.launch import launch as launch_study

    console = console_here()
    place = StudyDir(home(), asked.name)
    trained = _results(place)
    with interruptible(console, str(study)):
        standing = launch_study(asked, place.home, console)
    from sweeper import summary
    from sweeper.watch import duration

    new = _results(place) - trained
    now = f"{new} trained now" if new else "nothing was left to train"
    say(console, [f"{summary.state_line(standing)}; {now}"])
    say(console, summary.forecast_lines(standing, asked))
    say(console, summary.effect_lines(standing))
    say(console, summary.gate_lines(standing))
    say(console, summary.promotion_lines(standing, str(study)))
    say(console, summary.failure_lines(standing, place))
    say(console, [f"report: {place.report}", f"took {duration(time.monotonic() - started)}"])
    raise typer.Exit(1 if standing.failed else 0)


def _results(place: StudyDir) -> int:
    return sum(1 for _ in place.runs.glob("*/result.json"))


@app.command()
def status(study: StudyOrName, overrides: Overrides = None) -> None:
    """Show where a study stands, also while it runs: runs by state, what failed and why."""
    from sweeper import outside, summary

    if place := imported_alone(study, overrides):
        say(console_here(), outside.lines(place))
        return
    asked = load_study(study, overrides)
    place = launched(asked)
    from sweeper.launch import stand
    from sweeper.watch import progress_of, runs_table

    console = console_here()
    standing = stand(asked, place.home)
    say(console, [summary.state_line(standing)])
    running = [run for run in standing.views.values() if run.state == "RUNNING"]
    if running:
        console.print(runs_table(running, progress_of(running, place.runs)))
    say(console, outside.lines(place))
    say(console, summary.promotion_lines(standing, str(study)))
    say(console, summary.failure_lines(standing, place))


app.command("fit")(fitting.fit)
app.command("import")(fitting.import_points)
app.command("rehearse")(rehearsing.rehearse)


@app.command()
def promote(
    study: StudyArgument,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show forecast, gates, shape and cost; start nothing.")
    ] = False,
    force: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Promote past gates that hold; the reason is kept."),
    ] = None,
) -> None:
    """Start the large run that the laws ask for, if the gates pass; go on with one that started.

    The decision is written down once and never changed: forecast, gates, cost, who decided.
    """
    asked = load_study(study, overrides)
    place = launched(asked)
    from sweeper import summary
    from sweeper.launch import promote_by_hand, stand

    console = console_here()
    if dry_run:
        standing = stand(asked, place.home)
    else:
        person = getpass.getuser()
        with interruptible(console, str(study)):
            standing = promote_by_hand(asked, place.home, console, person, force)
    say(console, summary.forecast_lines(standing, asked))
    say(console, summary.gate_lines(standing))
    say(console, summary.cost_lines(standing) if dry_run else ())
    say(console, summary.promotion_lines(standing, str(study)))
    say(console, summary.failure_lines(standing, place))
    held = standing.promotion is None and not dry_run
    raise typer.Exit(1 if held or standing.failed else 0)


@app.command()
def report(study: StudyOrName, overrides: Overrides = None) -> None:
    """Write the report: one HTML file that opens without network."""
    from sweeper import outside
    from sweeper.launch import stand

    if place := imported_alone(study, overrides):
        outside.write_report(place)
    else:
        asked = load_study(study, overrides)
        place = launched(asked)
        stand(asked, place.home, write_report=True)
    say(console_here(), [str(place.report)])


@app.command()
def sql(
    study: StudyOrName,
    query: Annotated[
        str, typer.Argument(help="For instance: select state, count(*) from runs ...")
    ],
    overrides: Overrides = None,
) -> None:
    """Ask the study's DuckDB a question; read-only.

    Tables: studies, trials, runs, jobs, steps, evals, events, fits, promotions, imported.
    """
    from sweeper import outside
    from sweeper.launch import stand
    from sweeper.results import ask

    if place := imported_alone(study, overrides):
        outside.refresh(place)
    else:
        asked = load_study(study, overrides)
        place = launched(asked)
        stand(asked, place.home)
    rows = ask(place, query)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows.columns:
        table.add_column(name, no_wrap=True)
    for row in rows.iter_rows():
        table.add_row(*("" if value is None else str(value) for value in row))
    console_here().print(table)


def main() -> None:
    """Run the command line; a user's mistake is one message and an exit code."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"{error}", markup=False)
        sys.exit(error.exit_code)

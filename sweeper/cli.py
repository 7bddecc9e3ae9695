"""The command line: `sweeper VERB STUDY [path=value ...]`."""

import getpass
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sweeper.errors import UserError
from sweeper.folders import StudyDir, home
from sweeper.study import Study
from sweeper.study_file import load

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

StudyArgument = Annotated[
    Path, typer.Argument(help="A study file, such as studies/tiny.py.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH=VALUE",
        help="Values of the study to change, such as base.lr.scale=2 or cluster.workers=4.",
        show_default=False,
    ),
]


def _load(study: Path, overrides: list[str] | None) -> Study:
    return load(study, overrides or ())


def _launched(study: Study) -> StudyDir:
    place = StudyDir(home(), study.name)
    if not place.ledger.exists():
        raise UserError(
            f"study {study.name!r} was not launched below {place.home}; start it with `sweeper "
            "launch`, or point SWEEPER_HOME at the folder where it was"
        )
    return place


def _console() -> Console:
    # Piped, a line is as long as it is: nothing is cut or folded.
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False)


@contextmanager
def _interruptible(console: Console, study: str) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        lines = [
            "interrupted: jobs that run are left running",
            "the same command goes on with them",
        ]
        _say(console, [*lines, f"what they do: sweeper status {study}"])
        raise typer.Exit(130) from interrupt


@app.command()
def plan(study: StudyArgument, overrides: Overrides = None) -> None:
    """Show every trial: shape, tokens, FLOPs, learning rate, expected time. Writes nothing."""
    from sweeper.designs import expand
    from sweeper.plan import plan_rows, plan_summary, plan_table
    from sweeper.speed import measured_speed

    asked = _load(study, overrides)
    place = StudyDir(home(), asked.name)
    speed = measured_speed(place.runs)
    rows = plan_rows(expand(asked), place, speed)
    console = _console()
    console.print(plan_table(rows))
    _say(console, ["", plan_summary(asked, rows, speed)])


@app.command()
def launch(study: StudyArgument, overrides: Overrides = None) -> None:
    """Run the whole study: trials, fit, gates, the promoted run, the report.

    Whatever is done already is not done again: interrupted or killed at any point, the same command
    goes on where it stopped. Ctrl-C leaves the jobs running.
    """
    asked, started = _load(study, overrides), time.monotonic()
    from sweeper.launch import launch as launch_study

    console = _console()
    place = StudyDir(home(), asked.name)
    trained = _results(place)
    with _interruptible(console, str(study)):
        standing = launch_study(asked, place.home, console)
    from sweeper import summary
    from sweeper.watch import duration

    new = _results(place) - trained
    now = f"{new} trained now" if new else "nothing was left to train"
    _say(console, [f"{summary.state_line(standing)}; {now}"])
    _say(console, summary.forecast_lines(standing, asked))
    _say(console, summary.effect_lines(standing))
    _say(console, summary.gate_lines(standing))
    _say(console, summary.promotion_lines(standing, str(study)))
    _say(console, summary.failure_lines(standing, place))
    _say(console, [f"report: {place.report}", f"took {duration(time.monotonic() - started)}"])
    raise typer.Exit(1 if standing.failed else 0)


def _results(place: StudyDir) -> int:
    return sum(1 for _ in place.runs.glob("*/result.json"))


@app.command()
def status(study: StudyArgument, overrides: Overrides = None) -> None:
    """Show where a study stands, also while it runs: runs by state, what failed and why."""
    asked = _load(study, overrides)
    place = _launched(asked)
    from sweeper import summary
    from sweeper.launch import stand
    from sweeper.watch import progress_of, runs_table

    console = _console()
    standing = stand(asked, place.home)
    _say(console, [summary.state_line(standing)])
    running = [run for run in standing.views.values() if run.state == "RUNNING"]
    if running:
        console.print(runs_table(running, progress_of(running, place.runs)))
    _say(console, summary.promotion_lines(standing, str(study)))
    _say(console, summary.failure_lines(standing, place))


@app.command()
def fit(study: StudyArgument, overrides: Overrides = None) -> None:
    """Fit the laws to the results so far, and state the forecast for the target."""
    asked = _load(study, overrides)
    place = _launched(asked)
    from sweeper import summary
    from sweeper.launch import stand

    standing = stand(asked, place.home)
    console = _console()
    _say(console, summary.forecast_lines(standing, asked))
    _say(console, summary.effect_lines(standing))
    _say(console, summary.gate_lines(standing))


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
    asked = _load(study, overrides)
    place = _launched(asked)
    from sweeper import summary
    from sweeper.launch import promote_by_hand, stand

    console = _console()
    if dry_run:
        standing = stand(asked, place.home)
    else:
        person = getpass.getuser()
        with _interruptible(console, str(study)):
            standing = promote_by_hand(asked, place.home, console, person, force)
    _say(console, summary.forecast_lines(standing, asked))
    _say(console, summary.gate_lines(standing))
    _say(console, summary.cost_lines(standing) if dry_run else ())
    _say(console, summary.promotion_lines(standing, str(study)))
    _say(console, summary.failure_lines(standing, place))
    held = standing.promotion is None and not dry_run
    raise typer.Exit(1 if held or standing.failed else 0)


@app.command()
def report(study: StudyArgument, overrides: Overrides = None) -> None:
    """Write the report: one HTML file that opens without network."""
    asked = _load(study, overrides)
    place = _launched(asked)
    from sweeper.launch import stand

    stand(asked, place.home, write_report=True)
    _say(_console(), [str(place.report)])


@app.command()
def sql(
    study: StudyArgument,
    query: Annotated[
        str, typer.Argument(help="For instance: select state, count(*) from runs ...")
    ],
    overrides: Overrides = None,
) -> None:
    """Ask the study's DuckDB a question; read-only.

    Tables: studies, trials, runs, jobs, steps, evals, events, fits, promotions.
    """
    asked = _load(study, overrides)
    place = _launched(asked)
    from sweeper.launch import stand
    from sweeper.results import ask

    stand(asked, place.home)
    rows = ask(place, query)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows.columns:
        table.add_column(name, no_wrap=True)
    for row in rows.iter_rows():
        table.add_row(*("" if value is None else str(value) for value in row))
    _console().print(table)


def main() -> None:
    """Run the command line; a user's mistake is one message and an exit code."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"{error}", markup=False)
        sys.exit(error.exit_code)

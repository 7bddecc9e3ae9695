"""The command line: `sweeper VERB STUDY [path=value ...]`."""

import dataclasses
import getpass
import json
import os
import sys
import time
from typing import Annotated

# Before numpy loads: its matrices here are small, and threads only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer
from rich.console import Console

from sweeper import (
    asking,
    bisecting,
    comparing,
    deciding,
    detaching,
    examining,
    fitting,
    listing,
    reading,
    rehearsing,
    showing,
    standing,
)
from sweeper.arguments import (
    ClusterOption,
    Overrides,
    StudyArgument,
    StudyOrName,
    console_here,
    imported_alone,
    interruptible,
    launched,
    load_study,
    on_cluster,
    say,
)
from sweeper.errors import UserError, printable
from sweeper.folders import StudyDir, home
from sweeper.full_disk import full_disk

app = typer.Typer(
    help=(
        "Decide what large model to train: many small runs from one study file, scaling laws, "
        "a forecast with error bars, the promoted run, and how it compared."
    ),
    epilog=(
        "Everything is kept below $SWEEPER_HOME (default: .sweeper here). Exit codes: 0 complete, "
        "1 some runs failed, jobs cannot run, a disk is full or a promotion was held, 2 a mistake "
        "in what was asked or a store that others hold, 4 another driver holds the study, 130 "
        "interrupted (jobs go on; the same command takes them up)."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def plan(
    study: StudyArgument,
    overrides: Overrides = None,
    every: Annotated[
        bool, typer.Option("--all", help="A line a trial, also where there are many.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Trials and totals as JSON.")] = False,
) -> None:
    """Show every trial: shape, tokens, FLOPs, memory, time; and what all cost. Writes nothing.

    A study that was launched before is compared with that launch.
    """
    from sweeper import difference
    from sweeper.designs import survey
    from sweeper.ledger import read
    from sweeper.plan import plan_json, plan_rows, trained_by
    from sweeper.plan_words import plan_table, summary_lines
    from sweeper.speed import measured_speed
    from sweeper.trunks import with_trunks

    asked = load_study(study, overrides)
    place = StudyDir(home(), asked.name)
    record, speed = read(place.ledger), measured_speed(place.runs)
    found = survey(asked, record.batches)
    planned = with_trunks(found.planned, place)
    rows = plan_rows(planned, place, speed)
    before, changed = difference.launched(place, record), None
    if before is not None:
        changed = difference.compare(
            before, asked, planned, lambda run_id: trained_by(place, run_id)
        )
    if as_json:
        content = plan_json(asked, rows, speed)
        said = dataclasses.asdict(changed) if changed else None
        print(json.dumps(content | {"difference": said}))
        return
    console = console_here()
    console.print(plan_table(rows, every=every))
    say(console, ["", *summary_lines(asked, rows, speed, found.left_out)])
    say(console, difference.lines(changed) if changed else ())


@app.command()
def launch(
    study: StudyArgument,
    overrides: Overrides = None,
    cluster: ClusterOption = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Drive in the background; close the terminal if you like."),
    ] = False,
) -> None:
    """Run the whole study: trials, fit, gates, the promoted run, the report.

    Whatever is done already is not done again: interrupted or killed at any point, the same command
    goes on where it stopped. Ctrl-C leaves the jobs running.
    """
    overrides = on_cluster(cluster, overrides)
    asked, started = load_study(study, overrides), time.monotonic()
    if detach:
        say(console_here(), detaching.start(StudyDir(home(), asked.name), study, overrides))
        return
    from sweeper.launch import launch as launch_study
    from sweeper.ledger import read

    console = console_here()
    place = StudyDir(home(), asked.name)
    before = len(read(place.ledger).changes)
    with interruptible(console, str(study)):
        standing = launch_study(asked, place.home, console)
    from sweeper import summary
    from sweeper.watch import duration

    new = read(place.ledger).trained_since(before)
    now = f"{new} trained now" if new else "nothing was left to train"
    say(console, [f"{summary.states(len(standing.planned), standing.views)}; {now}"])
    say(console, summary.forecast_lines(standing, asked))
    say(console, summary.effect_lines(standing))
    say(console, summary.gate_lines(standing))
    say(console, summary.promotion_lines(standing, str(study)))
    failed = summary.failed(standing.views, standing.promotion)
    say(console, summary.failure_lines(failed, place))
    say(console, [f"report: {place.report}", f"took {duration(time.monotonic() - started)}"])
    raise typer.Exit(1 if failed else 0)


app.command("status")(standing.status)
app.command("cancel")(deciding.cancel)
app.command("retry")(deciding.retry)
app.command("fit")(fitting.fit)
app.command("import")(fitting.import_points)
app.command("rehearse")(rehearsing.rehearse)
app.command("show")(showing.show)
app.command("compare")(comparing.compare)
app.command("logs")(reading.logs)
app.command("doctor")(examining.doctor)
app.command("bisect-nodes")(bisecting.bisect_nodes)
app.command("presets")(listing.presets)


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
    failed = summary.failed(standing.views, standing.promotion)
    say(console, summary.failure_lines(failed, place))
    held = standing.promotion is None and not dry_run
    raise typer.Exit(1 if held or failed else 0)


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


app.command("sql")(asking.sql)
app.command("export")(asking.export)


def _say_error(error: UserError) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(printable(str(error)), markup=False)


def main() -> None:
    """Run the command line; a user's mistake is one message and an exit code."""
    try:
        app()
    except UserError as error:
        _say_error(error)
        sys.exit(error.exit_code)
    except Exception as error:
        full = full_disk(error, home())
        if full is None:
            raise
        _say_error(full)
        sys.exit(full.exit_code)

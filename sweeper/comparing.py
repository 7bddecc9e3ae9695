"""The verb `compare`: two runs or two studies, what differs and by how much."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from sweeper.arguments import console_here, say
from sweeper.differences import Comparison, Row
from sweeper.folders import home
from sweeper.showing import AsJson

Reference = Annotated[
    str,
    typer.Argument(
        help="A run's id or the start of it, STUDY:NUMBER for a trial, or a study's name.",
        show_default=False,
    ),
]


def compare(a: Reference, b: Reference, as_json: AsJson = False) -> None:
    """Compare two runs or two studies: spec, code and machine, results against seed noise."""
    from sweeper.comparison import compared

    found = compared(a, b, home())
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    console = console_here()
    say(console, _head(found))
    if found.results:
        console.print(_table(found.results))


def _head(found: Comparison) -> Iterator[str]:
    yield f"A: {found.kind} {found.a}"
    yield f"B: {found.kind} {found.b}"
    for title, pairs in (("spec", found.spec), ("provenance", found.provenance)):
        yield title if pairs else f"{title}: the same"
        yield from (f"  {path}: {a!r} | {b!r}" for path, (a, b) in pairs.items())
    for note in found.notes:
        yield f"note: {note}"
    if found.noise:
        yield (
            f"seed noise: {100 * found.noise.log_loss:.2g}% of the loss from run to run "
            f"({found.noise.dof} degrees of freedom)"
        )


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "A", "B", "B - A", "B / A - 1", ""):
        left = not name
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for each in rows:
        relative = "-" if each.relative is None else f"{each.relative:+.2%}"
        numbers = (_text(each.a), _text(each.b), _text(each.difference, "+"))
        table.add_row(each.name, *numbers, relative, each.verdict)
    return table


def _text(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.6g}"

"""The verb `rehearse`: what a design would buy, said before it is spent."""

import json
import math
import statistics
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sweeper.arguments import Overrides, StudyOrName, console_here, load_study, say
from sweeper.errors import UserError
from sweeper.folders import StudyDir, home

if TYPE_CHECKING:
    from sweeper.rehearse import Rehearsal, Replicate

LawOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAW",
        help="The truth: E,A,B,alpha,beta, or measured, scaled, chinchilla, hoffmann. Default: "
        "measured where the study's results carry a law, else scaled.",
        show_default=False,
    ),
]


def rehearse(
    study: StudyOrName,
    overrides: Overrides = None,
    law: LawOption = None,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of the log loss from run to run.")
    ] = 0.004,
    diverge: Annotated[float, typer.Option(help="Probability that a run diverges.")] = 0.0,
    fail: Annotated[float, typer.Option(help="Probability that an attempt dies.")] = 0.0,
    replicates: Annotated[int, typer.Option(help="How often the study is run.")] = 20,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run a study against a law that is known, without training: what interval would it buy?

    Trials, retries, fits and gates are the real ones, in a folder that is gone afterwards. Levels
    of axes make no difference here.
    """
    _check(noise, diverge, fail, replicates)
    asked = load_study(study, overrides)
    from sweeper import rehearse as rehearsal
    from sweeper.designs import expand
    from sweeper.speed import measured_speed
    from sweeper.truth import stated

    # An impossible design is refused before a law is sought for it.
    expand(asked)
    place = StudyDir(home(), asked.name)
    chance = rehearsal.Chance(noise, diverge, fail, seed)
    console = console_here()
    with console.status("rehearsing") as status:

        def seen(replicate: "Replicate") -> None:
            status.update(f"rehearsing: {replicate.number} of {replicates}")

        truth = stated(law, asked, place)
        speed = measured_speed(place.runs)
        done = rehearsal.rehearse(asked, truth, chance, replicates, speed, seen)
    if as_json:
        sys.stdout.write(json.dumps(rehearsal.as_json(done), allow_nan=False) + "\n")
        return
    say(console, _head(done))
    console.print(_table(done))
    say(console, _foot(done))


def _check(noise: float, diverge: float, fail: float, replicates: int) -> None:
    """Raises UserError for what cannot be a standard deviation, a probability or a number."""
    if not (noise >= 0 and math.isfinite(noise)):
        raise UserError(f"--noise {noise:g} is no standard deviation; give one such as 0.004")
    for name, rate in (("--diverge", diverge), ("--fail", fail)):
        if not 0 <= rate <= 1:
            raise UserError(f"{name} {rate:g} is no probability; give one from 0 to 1")
    if replicates < 1:
        raise UserError(f"--replicates {replicates} rehearses nothing; give 1 or more")


def _head(done: "Rehearsal") -> Iterator[str]:
    law, truth, chance = done.law, done.truth, done.chance
    trials = sorted(replicate.trials for replicate in done.replicates)
    # An adaptive design asks for more or fewer by what it sees.
    number = f"{trials[0]}" if trials[0] == trials[-1] else f"{trials[0]} to {trials[-1]}"
    yield (
        f"{done.study}: {number} trials, {len(done.replicates)} times, against "
        f"L = {law.E:.4g} + {law.A:.4g}/N^{law.alpha:.4g} + {law.B:.4g}/D^{law.beta:.4g}"
    )
    yield f"  law: {law.name} ({law.source})"
    yield (
        f"  noise {chance.noise:g} of the log loss; a run diverges with {chance.diverge:g}, an "
        f"attempt dies with {chance.fail:g}; seed {chance.seed}"
    )
    yield (
        f"  truth at {truth.budget:.3g} FLOPs: loss {truth.loss:.4f}, N* {truth.params:,.0f}, "
        f"D* {truth.tokens:,.0f}"
    )


def _table(done: "Rehearsal") -> Table:
    """A row a replicate: the three forecasts with a mark where the interval misses the truth."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "loss", "interval", "error", "N*", "error", "D*", "error", "FLOPs", "gates"):
        table.add_column(name, justify="left" if name == "gates" else "right", no_wrap=True)
    for replicate in done.replicates:
        held = ", ".join(replicate.held_by)
        end = (f"{replicate.flops:.3g}", f"held by {held}" if held else "pass")
        table.add_row(str(replicate.number), *_cells(replicate), *end)
    return table


def _cells(replicate: "Replicate") -> list[str]:
    if not replicate.estimates:
        return ["-"] * 7
    loss = replicate.estimates["loss"]
    cells = [f"{loss.value:.4f}", f"{loss.low:.4f} to {loss.high:.4f}"]
    for name, one in replicate.estimates.items():
        cells += [] if name == "loss" else [f"{one.value:,.0f}"]
        cells.append(f"{math.expm1(one.error):+.2%}{' ' if one.covered else '!'}")
    return cells


def _foot(done: "Rehearsal") -> Iterator[str]:
    from sweeper.rehearse import held_by, states, summarise

    replicates = done.replicates
    said = summarise(replicates)
    for name, one in said.items():
        yield (
            f"{name}: interval {_times(one.width)} wide (median), error {one.rms_error:.2%} rms, "
            f"{one.bias:+.2%} mean of the log; {one.covered} of {one.forecasts} intervals of 95% "
            f"hold the truth ({one.coverage_low:.0%} to {one.coverage_high:.0%})"
        )
    refused = sorted({replicate.refusal for replicate in replicates if replicate.refusal})
    for why in refused[:3]:
        yield f"no forecast: {why}"
    counts = ", ".join(f"{count} {state}" for state, count in states(replicates).items())
    flops = statistics.fmean(replicate.flops for replicate in replicates)
    yield f"trials of all replicates: {counts}; {flops:.3g} FLOPs a replicate"
    passed = sum(replicate.promoted for replicate in replicates)
    held = ", ".join(f"{gate} {count}" for gate, count in held_by(replicates).items())
    yield f"gates: pass in {passed} of {len(replicates)}" + (f"; held by {held}" if held else "")


def _times(width: float) -> str:
    """ln(high / low) as people say it: in per cent where small, else as a factor."""
    return f"{math.expm1(width):.1%}" if width < math.log(2) else f"{math.exp(width):.3g} times"

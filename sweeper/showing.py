"""The verb `show`: one run, whole."""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sweeper.arguments import console_here, say
from sweeper.differences import flat
from sweeper.dossier import Dossier, changed_lines, is_gone, read
from sweeper.dossier import as_json as dossier_json
from sweeper.folders import home
from sweeper.references import Asker, asked_by, find_run
from sweeper.watch import duration, label, size
from train.runlog import Attempt, read_lines

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id or the start of it, or STUDY:NUMBER for a trial.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
EVENTS_SHOWN = 20


def show(run: RunArgument, as_json: AsJson = False) -> None:
    """Show a run: its spec, its attempts and how each ended, its result, where it comes from."""
    place = home()
    found = read(find_run(run, place))
    askers = asked_by(place, found.run_id)
    if as_json:
        # Not through the console: it would fold and colour.
        typer.echo(json.dumps(dossier_json(found, askers), indent=1))
        return
    say(console_here(), lines(found, askers))


def lines(found: Dossier, askers: list[Asker]) -> Iterator[str]:
    """A run in words."""
    spec = found.spec
    why = found.standing.message
    yield f"run {found.run_id}: {found.state}" + (f" ({why})" if why else "")
    yield f"  {spec.stage}, {size(spec)}, {spec.tokens:,} tokens, seed {spec.seed}"
    yield f"  {found.run.path}"
    yield from _asked(found, askers)
    yield from _result(found)
    yield from _attempts(found)
    yield from _provenance(found.provenance)
    yield from _listed("checkpoints", [f"checkpoints/{name}" for name in found.checkpoints])
    events = [event_line(event) for event in read_lines(found.run.events)]
    more = len(events) - EVENTS_SHOWN
    title = f"events (the last {EVENTS_SHOWN} of {len(events)})" if more > 0 else "events"
    yield from _listed(title, events[-EVENTS_SHOWN:])
    content = flat(spec.model_dump(mode="json"))
    yield from _listed("spec", [f"{path} = {value!r}" for path, value in content.items()])


def _asked(found: Dossier, askers: list[Asker]) -> Iterator[str]:
    for asker in askers:
        what = "promoted" if asker.trial is None else f"trial {asker.trial}, {asker.design}"
        yield f"  asked for by {asker.study} ({what})"
    if not askers:
        yield f"  started for {found.spec.study} ({label(found.spec)})"


def _result(found: Dossier) -> Iterator[str]:
    result = found.result
    if result is None:
        return
    yield "result"
    loss = "no loss" if result.nats_per_token is None else f"{result.nats_per_token:.4f} nats/token"
    byte = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} bits/byte"
    yield f"  {loss}{byte}" + (f" ({result.cause})" if result.cause else "")
    yield (
        f"  {result.tokens:,} tokens, {result.flops:.3g} FLOPs, {duration(result.seconds)}, "
        f"{result.gpu_hours:.3g} GPU-hours, {result.tokens_per_second:,.0f} tokens/s"
    )
    if result.inherited_tokens:
        yield (
            f"  the first {result.inherited_tokens:,} tokens by its trunk, the other "
            f"{result.trained_flops:.3g} FLOPs by itself"
        )
    for name, value in result.metrics.items():
        yield f"  {name} {value:.6g}"


def _attempts(found: Dossier) -> Iterator[str]:
    yield "attempts" if found.attempts else "no attempt was made yet"
    for attempt in found.attempts:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
        where = f"job {attempt.job or '?'} on {attempt.host or '?'}, process {attempt.pid}"
        yield f"  {attempt.number}  {began}  {where}: {ended(found, attempt)}"


def ended(found: Dossier, attempt: Attempt) -> str:
    """How an attempt ended, in words."""
    if stop := found.stops.get(attempt.number):
        return f"{stop.state} by {stop.study}: {stop.cause}"
    if failure := found.failures.get(attempt.number):
        after = f"; resumes after step {failure.step}" if failure.step else ""
        return f"{failure.cause}: {failure.message}{after}"
    if attempt.number != found.attempts[-1].number:
        return "ended without a word"
    if found.result:
        return found.result.state
    return "ended without a word" if is_gone(attempt) else "running"


def _provenance(env: dict[str, Any]) -> Iterator[str]:
    yield "provenance" if "commit" in env else "provenance: no attempt has written one"
    yield f"  commit {_or_none(env.get('commit'))}{_diff(env.get('diff'))}"
    for name, value in env.items():
        if name not in ("commit", "diff", "packages"):
            yield f"  {name} {_or_none(value)}"
    packages: dict[str, str] = env.get("packages") or {}
    if packages:
        yield f"  packages {', '.join(f'{name} {v}' for name, v in packages.items())}"


def _or_none(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return "not known" if value in (None, "") else str(value)


def _diff(diff: str | None) -> str:
    if diff is None:
        return ""
    added, removed = changed_lines(diff)
    return f", changed by {added} lines added and {removed} removed" if diff else ", unchanged"


def _listed(title: str, found: list[str]) -> Iterator[str]:
    if found:
        yield title
        yield from (f"  {line}" for line in found)


def event_line(event: dict[str, Any]) -> str:
    """An event in one line: time, name, what else it says."""
    at = event.get("time")
    when = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, int | float) else "?"
    rest = {name: value for name, value in event.items() if name not in ("time", "event")}
    said = " ".join(f"{name}={value}" for name, value in rest.items())
    return f"{when} {event.get('event', '?')} {said}".rstrip()

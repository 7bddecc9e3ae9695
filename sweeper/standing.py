"""The verb `status`: where a study stands, quickly, also while it runs."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.arguments import (
    Overrides,
    StudyOrName,
    console_here,
    imported_alone,
    launched,
    load_study,
    say,
)
from sweeper.folders import StudyDir
from sweeper.study import Study

if TYPE_CHECKING:
    from sweeper.runs import Progress
    from sweeper.sight import Sight


def status(
    study: StudyOrName,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show where a study stands, also while it runs: states, speed, time left, cost, failures."""
    if place := imported_alone(study, overrides):
        from sweeper import outside

        say(console_here(), outside.lines(place))
        return
    asked = load_study(study, overrides)
    place = launched(asked)
    from sweeper.sight import look
    from sweeper.watch import progress_of, runs_table

    seen = look(asked, place.home)
    running = [run for run in seen.views.values() if run.state == "RUNNING"]
    progress = progress_of(running, place.runs)
    if as_json:
        print(json.dumps(_content(asked, place, seen, progress)))
        return
    console = console_here()
    say(console, _head(asked, place, seen, progress))
    if running:
        console.print(runs_table(running, progress))
    if place.imported.exists():
        from sweeper import outside

        say(console, outside.lines(place))
    say(console, _promoted(seen, study))
    say(console, _failures(seen, place, study))


def _content(
    study: Study, place: StudyDir, seen: "Sight", progress: "Mapping[str, Progress]"
) -> dict[str, Any]:
    """The standing as scripts read it."""
    totals = _totals(study, place, seen, progress)
    return {
        "study": study.name,
        "trials": len(seen.planned),
        "states": dict(Counter(run.state for run in seen.views.values())),
        "causes": dict(Counter(run.cause for run in seen.views.values() if run.state == "FAILED")),
        "promoted": list(seen.promotion.run_ids) if seen.promotion else [],
        **totals,
        "cordoned": dict(seen.record.cordoned),
        "runs": [
            {
                "run_id": run.run_id,
                "state": run.state,
                "attempts": run.attempts,
                "job": run.job,
                "host": run.host,
                "message": run.message,
                "tokens": progress[run.run_id].tokens if run.run_id in progress else None,
            }
            for run in seen.views.values()
        ],
    }


def _totals(
    study: Study, place: StudyDir, seen: "Sight", progress: "Mapping[str, Progress]"
) -> dict[str, float]:
    """Seconds left, and GPU-hours spent and to come; a process without a GPU counts as one."""
    from sweeper.speed import calibrate, measured_speed
    from sweeper.watch import summarise

    results = [run.result for run in seen.views.values() if run.result is not None]
    speed = calibrate(results)
    speed = speed if speed.runs else measured_speed(place.runs)
    left = [run for run in seen.views.values() if not run.finished]
    summary = summarise(seen.views.values(), progress, speed, study.cluster.workers)
    return {
        "seconds_left": summary.seconds_left,
        "flops_done": summary.flops,
        "flops_total": summary.total_flops,
        "gpu_hours_spent": sum(result.gpu_hours for result in results),
        "gpu_hours_left": sum(speed.gpu_hours(run.spec) for run in left),
        "tokens_per_second": sum(at.tokens_per_second for at in progress.values()),
    }


def _head(
    study: Study, place: StudyDir, seen: "Sight", progress: "Mapping[str, Progress]"
) -> Iterator[str]:
    """Runs by state; what is spent and left."""
    from sweeper.summary import states
    from sweeper.watch import duration

    total = _totals(study, place, seen, progress)
    yield states(len(seen.planned), seen.views)
    hours = f"{total['gpu_hours_spent']:.3g} GPU-hours spent, {total['gpu_hours_left']:.3g} to come"
    price = study.gpu_hour_price
    if price is not None:
        spent, left = total["gpu_hours_spent"] * price, total["gpu_hours_left"] * price
        hours += f" (cost {spent:,.2f} and {left:,.2f})"
    if any(not run.finished for run in seen.views.values()):
        rate = total["tokens_per_second"]
        yield f"{hours}; about {duration(total['seconds_left'])} left at {rate:,.0f} tokens/s"
    else:
        yield hours
    for node, why in seen.record.cordoned.items():
        yield f"node {node} gets no more jobs: {why}"


def _promoted(seen: "Sight", study: Path) -> Iterator[str]:
    """The promoted runs, or how to see what holds them."""
    from sweeper.promote import headline

    if seen.promotion is None:
        yield f"not promoted; what the laws and gates say: sweeper fit {study}"
        return
    yield f"promoted by {seen.promotion.decided_by}: {headline(seen.promotion)}"
    for name in seen.promotion.run_ids:
        run = seen.views[name]
        loss = run.result.nats_per_token if run.result else None
        measured = "" if loss is None else f", {loss:.4f} nats/token"
        yield f"  {run.spec.stage}: {run.state}{measured}  (run {name})"


def _failures(seen: "Sight", place: StudyDir, study: Path) -> Iterator[str]:
    """Failures by cause, then each with what to type next."""
    from sweeper.summary import failed, failure_lines

    ended = failed(seen.views, seen.promotion)
    causes = Counter(run.cause for run in ended)
    if causes:
        said = ", ".join(f"{count} {cause or 'diverged'}" for cause, count in causes.most_common())
        yield f"{len(ended)} failed: {said}"
    yield from failure_lines(ended, place)

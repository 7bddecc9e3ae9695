"""The adaptive ladder: which runs a study asks for next, and when it has enough.

What it asks for stands in the ledger with the runs that it saw, so a driver that starts again goes
on with the same trials, and a reader can follow why each was made.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from analysis import forecast, next_runs
from analysis.law import NotEnough, scientific
from analysis.next_runs import Aim, Point
from analysis.runs import Runs, prepare
from model.config import params_active
from sweeper.designs import Planned, adaptive_trial, plan_batch, plan_trial
from sweeper.ledger import Batch, Ledger
from sweeper.recipe import shape
from sweeper.runs import RunView
from sweeper.study import Adaptive, Study

# Trials of these designs stand on the ladder of sizes.
LADDERS = ("isoflop", "adaptive")


def grow(
    study: Study,
    planned: Sequence[Planned],
    views: Mapping[str, RunView],
    ledger: Ledger,
    say: Callable[[str], None],
) -> list[Planned]:
    """The trials that the study's adaptive design asks for now, written to the ledger first."""
    design = next((d for d in study.designs if isinstance(d, Adaptive)), None)
    waiting = {p.run_id for p in planned if not _finished(p, views)}
    # Whoever has work for every worker can see more results before asking.
    if design is None or len(waiting) >= study.cluster.workers:
        return []
    batch = next_batch(study, design, planned, views)
    if batch.points or not waiting:
        say(f"adaptive: {batch.why}")
    if not batch.points:
        return []
    ledger.append({"event": "batch", **dataclasses.asdict(batch)})
    return plan_batch(study, batch, len(ledger.record.batches), len(planned))


def next_batch(
    study: Study, design: Adaptive, planned: Sequence[Planned], views: Mapping[str, RunView]
) -> Batch:
    """The next trials by the runs that ended, those in flight counted as if done; pure.

    Without points the design has enough, or can do no more: `why` says which.
    """
    ladder = [p for p in _distinct(planned) if p.trial.design in LADDERS]
    saw = tuple(sorted(p.run_id for p in ladder if _finished(p, views)))
    left = design.flops - sum(p.trial.budget for p in ladder if p.trial.design == "adaptive")
    runs = prepare(_rows(ladder, views))
    if runs.frame.is_empty():
        return Batch(saw, (), f"ends: none of {len(saw)} runs gave a loss; see `sweeper status`")
    aim = Aim(study.promotion.target, design.loss_within, design.params_within, _drift(runs))
    in_flight = [_point(p) for p in ladder if not _finished(p, views)]
    measured = runs.frame.select("budget", "params").rows()
    local = next_runs.locate(runs)
    choice = next_runs.choose(
        local,
        [*(Point(*row) for row in measured), *in_flight],
        _shapes(study, next_runs.around(local, study.budgets, design.start.spread)),
        aim,
        batch=design.batch,
        flops=left,
    )
    if enough := _enough(runs, aim, choice.before):
        return Batch(saw, (), f"ends: {enough}")
    if not choice.points:
        return Batch(saw, (), f"ends: {scientific(left)} of flops={design.flops:g} are left")
    why = (
        f"{len(choice.points)} runs more; expected error at the target {choice.before[0]:.2%} of "
        f"the loss and {choice.before[1]:.1%} of N* now, {choice.after[0]:.2%} and "
        f"{choice.after[1]:.1%} after them"
    )
    return Batch(saw, _seeded(study, planned, choice.points), why)


def _finished(planned: Planned, views: Mapping[str, RunView]) -> bool:
    view = views.get(planned.run_id)
    return view is not None and view.finished


def _distinct(planned: Sequence[Planned]) -> list[Planned]:
    return list({p.run_id: p for p in planned}.values())


def _point(planned: Planned) -> Point:
    return Point(planned.trial.budget, float(params_active(planned.spec.model)))


def _rows(ladder: Sequence[Planned], views: Mapping[str, RunView]) -> pl.DataFrame:
    """The runs that ended, as rows for a law."""
    rows: list[tuple[str, float, str, int, int, float, float | None]] = []
    for p in ladder:
        result = views[p.run_id].result if p.run_id in views else None
        if result is not None:
            sizes = (result.params_active, result.tokens, result.flops, result.nats_per_token)
            rows.append((p.run_id, p.trial.budget, result.state, *sizes))
    names = ("run_id", "budget", "state", "params", "tokens", "flops", "loss")
    kinds = (pl.String, pl.Float64, pl.String, *[pl.Float64] * 4)
    return pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")


def _drift(runs: Runs) -> next_runs.Drift:
    try:
        return next_runs.drift(forecast.panel(runs, "parametric", draws=200))
    except NotEnough:
        return next_runs.PRIOR_DRIFT


def _enough(runs: Runs, aim: Aim, expected: tuple[float, float]) -> str:
    """How tight the calibrated interval is, where it is as tight as was asked for; else nothing.

    It is looked at only where the expected errors could give such an interval: they are quick.
    """
    asked = (aim.loss_within, aim.params_within)
    if any(error > within for error, within in zip(expected, asked, strict=True)):
        return ""
    try:
        found = next_runs.half_widths(forecast.panel(runs).at(aim.target))
    except NotEnough:
        return ""
    if not all(half <= within for half, within in zip(found, asked, strict=True)):
        return ""
    loss, params = found
    return (
        f"the interval at the target is within {loss:.3g} of ln L ({asked[0]:g} asked) and "
        f"{params:.3g} of ln N* ({asked[1]:g} asked)"
    )


def _shapes(study: Study, points: Sequence[Point]) -> list[Point]:
    """The points as the recipe can build them, each shape of a budget once."""
    found: dict[Point, None] = {}
    for point in points:
        try:
            params = params_active(shape(study.base, point.params))
        except ValueError:
            # So far from every shape that a run of it would stand elsewhere.
            continue
        found[Point(point.budget, float(params))] = None
    return list(found)


def _seeded(
    study: Study, planned: Sequence[Planned], points: Sequence[Point]
) -> tuple[tuple[float, float, int], ...]:
    """Each point with the first seed whose run is not there yet: the study's, then new ones."""
    taken = {p.run_id for p in planned}
    out: list[tuple[float, float, int]] = []
    for point in points:
        for seed in itertools.chain(study.seeds, itertools.count(max(study.seeds) + 1)):
            trial = adaptive_trial(point.budget, point.params, seed, batch=0)
            run = plan_trial(study, trial).run_id
            if run not in taken:
                taken.add(run)
                out.append((point.budget, point.params, seed))
                break
    return tuple(out)

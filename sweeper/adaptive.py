"""The adaptive ladder: which runs a study asks for next, and when it has enough."""

import itertools
from collections.abc import Mapping, Sequence

import polars as pl

from analysis import forecast, next_runs
from analysis.law import NotEnough, scientific
from analysis.next_runs import Aim, Point
from analysis.runs import Runs, prepare
from model.counts import params_active
from sweeper.designs import tried
from sweeper.ladders import adaptive_trial
from sweeper.layouts import Adaptive
from sweeper.planner import Planned, Planner, plan_trial
from sweeper.recipe import shape
from sweeper.record import Asked, Batch
from sweeper.runs import RunView
from sweeper.study import Design, Study

# Trials of these designs stand on the ladder of sizes.
LADDERS = ("isoflop", "adaptive")


def next_batch(
    study: Study,
    design: Design,
    planned: Sequence[Planned],
    views: Mapping[str, RunView],
    batches: Sequence[Batch] = (),
) -> Batch:
    """The next trials by the runs that ended, those in flight counted as if done; pure.

    Without points the design has enough, or can do no more: `why` says which. What it asked for
    before, it reads off the runs.
    """
    assert isinstance(design, Adaptive)
    ladder = [p for p in _distinct(planned) if p.trial.design in LADDERS]
    saw = tuple(sorted(p.run_id for p in ladder if _finished(p, views)))
    left = design.flops - sum(p.trial.budget for p in ladder if p.trial.design == "adaptive")
    runs = prepare(_rows(ladder, views))
    if runs.frame.is_empty():
        return Batch(
            "adaptive", saw, (), f"ends: none of {len(saw)} runs gave a loss; see `sweeper status`"
        )
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
        return Batch("adaptive", saw, (), f"ends: {enough}")
    if not choice.points:
        return Batch(
            "adaptive", saw, (), f"ends: {scientific(left)} of flops={design.flops:g} are left"
        )
    why = (
        f"{len(choice.points)} runs more; expected error at the target {choice.before[0]:.2%} of "
        f"the loss and {choice.before[1]:.1%} of N* now, {choice.after[0]:.2%} and "
        f"{choice.after[1]:.1%} after them"
    )
    return Batch("adaptive", saw, _seeded(study, planned, choice.points), why)


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
    return [point for point in found if not study.constraints or _keeps(study, point)]


def _keeps(study: Study, point: Point) -> bool:
    trial = adaptive_trial(Asked(point.budget, point.params, study.seeds[0], {}), batch=0)
    return isinstance(tried(Planner(study), trial), Planned)


def _seeded(study: Study, planned: Sequence[Planned], points: Sequence[Point]) -> tuple[Asked, ...]:
    """Each point with the first seed whose run is not there yet: the study's, then new ones."""
    taken = {p.run_id for p in planned}
    out: list[Asked] = []
    for point in points:
        for seed in itertools.chain(study.seeds, itertools.count(max(study.seeds) + 1)):
            asked = Asked(point.budget, point.params, seed, {})
            run = plan_trial(study, adaptive_trial(asked, batch=0)).run_id
            if run not in taken:
                taken.add(run)
                out.append(asked)
                break
    return tuple(out)

"""What a study says at its end, in words: forecast, gates, promotion, forecast against measured."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from model.counts import params_active
from sweeper import promote
from sweeper.folders import StudyDir
from sweeper.promote import Promotion
from sweeper.runs import RunView
from sweeper.study import Study
from sweeper.watch import duration, label, size

if TYPE_CHECKING:
    # Laws and statistics take a second to import.
    from sweeper.launch import Standing


def forecast_lines(standing: "Standing", study: Study) -> Iterator[str]:
    """N*, D* and the loss at the target with their intervals, and every doubt about them."""
    said = standing.findings.forecast
    if said is None:
        yield f"no forecast for {study.promotion.target:.3g} FLOPs: {standing.findings.refusal}"
        return
    far = f"{said.extrapolation:.2f} decades above the ladder"
    yield f"forecast for {said.budget:.3g} FLOPs ({far}; intervals of {said.level:.0%})"
    yield f"  N*    {said.params:,.0f}  ({said.params_low:,.0f} to {said.params_high:,.0f})"
    yield f"  D*    {said.tokens:,.0f}  ({said.tokens_low:,.0f} to {said.tokens_high:,.0f})"
    yield f"  loss  {said.loss:.4f} nats/token  ({said.low:.4f} to {said.high:.4f})"
    for doubt in said.diagnostics:
        yield f"  note: {doubt}"


def _rung_lines(standing: "Standing") -> Iterator[str]:
    """The loss forecast for the validation rung, and what its run measured."""
    said = standing.findings.rung
    if said is None:
        return
    line = (
        f"validation rung of {said.budget:.3g} FLOPs: forecast {said.loss:.4f} "
        f"({said.low:.4f} to {said.high:.4f})"
    )
    if standing.rung is None:
        yield f"{line}; its run is not chosen yet"
        return
    run = standing.views[standing.rung.run_id]
    loss = run.result.nats_per_token if run.result else None
    measured = "" if loss is None else f", measured {loss:.4f}"
    yield f"{line}; {size(run.spec)}, {run.spec.tokens:,} tokens: {run.state}{measured}"


def effect_lines(standing: "Standing") -> Iterator[str]:
    """What each level of an axis does to the loss, and what its FLOPs are worth at the target."""
    for effect in standing.findings.effects:
        line = f"  {effect.axis}={effect.level}: {effect.verdict}"
        if effect.difference is not None:
            line += f", {effect.difference:+.4f} nats/token against the baseline"
        if effect.low is not None and effect.high is not None:
            line += f" ({effect.low:+.4f} to {effect.high:+.4f}, {effect.n} pairs)"
        yield line
    for worth in standing.findings.multipliers:
        if (at := worth.target) and at.low is not None and at.high is not None:
            yield (
                f"  {worth.axis}={worth.level}: {worth.verdict}; at {at.budget:.3g} FLOPs worth "
                f"{at.multiplier:.2f} times the baseline's FLOPs ({at.low:.2f} to {at.high:.2f})"
            )


def gate_lines(standing: "Standing") -> Iterator[str]:
    """Every gate with what it saw: those of the promotion where there is one."""
    promotion, proposal = standing.promotion, standing.proposal
    results = promotion.gates if promotion else proposal.gates if proposal else ()
    for gate in results:
        seen = "-" if gate.observed is None else f"{gate.observed:.4g}"
        word = "pass" if gate.passed else "HOLD"
        yield f"  {word}  {gate.name}: {seen} (limit {gate.limit:.4g}); {gate.why}"


def cost_lines(standing: "Standing") -> Iterator[str]:
    """The run that a promotion would start, and its cost."""
    proposal = standing.proposal
    if proposal is None:
        return
    first = proposal.specs[0]
    yield (
        f"promoted run: {params_active(first.model):,} active parameters "
        f"({first.model.d_model}x{first.model.n_layers}), {first.tokens:,} tokens, "
        f"dp={first.parallel.dp}, lr {first.optim.lr:.3g}; stages "
        f"{' -> '.join(spec.stage for spec in proposal.specs)}"
    )
    yield (
        f"  cost: {proposal.cost.flops:.3g} FLOPs, about {duration(proposal.cost.seconds)}, "
        f"{proposal.cost.gpu_hours:.3g} GPU-hours"
    )


def promotion_lines(standing: "Standing", file: str) -> Iterator[str]:
    """The validation rung; what was promoted and how it compares, or what holds it."""
    promotion = standing.promotion
    yield from _rung_lines(standing)
    if promotion is None:
        yield from _held(standing, file)
        return
    yield f"promoted by {promotion.decided_by} ({promotion.reason}): {promote.headline(promotion)}"
    for name in promotion.run_ids:
        run = standing.views[name]
        loss = run.result.nats_per_token if run.result else None
        measured = "" if loss is None else f", {loss:.4f} nats/token"
        yield f"  {run.spec.stage}: {run.state}{measured}  (run {name})"
    found = promote.compare(promotion, standing.views)
    if found is not None:
        said, where = promotion.forecast, "inside" if found.inside else "OUTSIDE"
        yield (
            f"measured {found.measured:.4f} against the forecast {said['loss']:.4f}: error "
            f"{found.error:+.2%}, {where} the interval {said['low']:.4f} to {said['high']:.4f}"
        )


def _held(standing: "Standing", file: str) -> Iterator[str]:
    proposal = standing.proposal
    if proposal is None:
        yield "not promoted: there is no forecast to promote on"
        return
    if standing.rung_is_due:
        yield "not promoted yet: every other gate passes, and the validation rung is to be trained"
        yield f"  to train it, and to promote where it passes: sweeper promote {file}"
    elif proposal.held:
        yield f"not promoted: held by {', '.join(proposal.held)}"
        yield f'  to promote all the same: sweeper promote {file} --force "your reason"'
    else:
        yield "not promoted yet: every gate passes, and approval is yours"
        yield f"  to promote: sweeper promote {file}"


def states(trials: int, views: Mapping[str, RunView]) -> str:
    """Runs by state."""
    counts = Counter(run.state for run in views.values())
    listed = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"{trials} trials, {len(views)} runs: {listed}"


def failed(views: Mapping[str, RunView], promotion: Promotion | None) -> list[RunView]:
    """Runs that gave no result, and promoted ones that diverged: a trial may."""
    promoted = promotion.run_ids if promotion else ()
    return [
        run
        for name, run in views.items()
        if run.state == "FAILED" or (run.state == "DIVERGED" and name in promoted)
    ]


def failure_lines(runs: Sequence[RunView], place: StudyDir) -> Iterator[str]:
    """Every run that failed, why, where to read more, and what to type next."""
    for run in runs:
        yield f"{run.state} {label(run.spec)} (run {run.run_id}): {run.message}"
        yield f"  log: {place.logs(run.job)}"
        yield f"  what it said: sweeper logs {run.run_id}"
    if runs:
        yield f"to try again when the cause is mended: sweeper retry {place.name}"

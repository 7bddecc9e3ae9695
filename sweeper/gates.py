"""Gates: what the evidence must reach before the large run starts by itself."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.runs import RunView
from sweeper.study import GateLimits
from train.config import Frozen

if TYPE_CHECKING:
    from analysis.law import Forecast

# A law of two coefficients for so few budgets is a choice that is said, not a doubt.
NO_DOUBT = frozenset({"plain_power_law"})


@dataclass(frozen=True)
class Validation:
    """The validation rung: the forecast made without it, and its run once that was chosen."""

    forecast: "Forecast"
    run: RunView | None


@dataclass(frozen=True)
class Evidence:
    """What a promotion is decided on; `states` counts trials by state.

    `validation` is None where the study asks for no rung.
    """

    forecast: "Forecast"
    states: Mapping[str, int]
    gpu_hours: float
    validation: Validation | None = None


class GateResult(Frozen):
    """One gate's word: what was seen (None where it cannot be), what is allowed, and the detail."""

    name: str
    passed: bool
    observed: float | None
    limit: float
    why: str


Verdict = tuple[bool, float | None, float, str]


def fit_quality(evidence: Evidence, limits: GateLimits) -> Verdict:
    """At most `limit` named doubts about the fit: budgets refused, coefficients at a bound."""
    doubts = [str(d) for d in evidence.forecast.diagnostics if d.name not in NO_DOUBT]
    why = "; ".join(doubts) or "every budget has a minimum of its own, no coefficient at a bound"
    return len(doubts) <= limits.fit_quality, len(doubts), limits.fit_quality, why


def interval_width(evidence: Evidence, limits: GateLimits) -> Verdict:
    """The forecast's interval, high - low, as a fraction of the loss."""
    said = evidence.forecast
    width = (said.high - said.low) / said.loss
    why = f"{said.level:.0%} interval {said.low:.4g} to {said.high:.4g} around {said.loss:.4g}"
    return width <= limits.interval_width, width, limits.interval_width, why


def extrapolation(evidence: Evidence, limits: GateLimits) -> Verdict:
    """Decades from the largest usable budget to the target."""
    decades = evidence.forecast.extrapolation
    why = f"the target is {10**decades:.3g} times the largest usable budget"
    return decades <= limits.extrapolation, decades, limits.extrapolation, why


def backtest_error(evidence: Evidence, limits: GateLimits) -> Verdict:
    """The worst error of the loss, |ln(predicted / measured)|, at budgets held out of the fit."""
    from analysis.backtest import next_rows

    rows = next_rows(evidence.forecast.backtest)
    errors = [abs(row.loss_error) for row in rows if row.loss_error is not None]
    if not errors:
        why = "no budget can be held out: a back-test needs four usable budgets"
        return False, None, limits.backtest_error, why
    why = f"{len(errors)} budgets predicted from the smaller ones"
    return max(errors) <= limits.backtest_error, max(errors), limits.backtest_error, why


def trials_complete(evidence: Evidence, limits: GateLimits) -> Verdict:
    """The fraction of trials with a result; a divergence is one."""
    total = sum(evidence.states.values())
    done = evidence.states.get("DONE", 0) + evidence.states.get("DIVERGED", 0)
    why = ", ".join(f"{count} {state}" for state, count in sorted(evidence.states.items()))
    return done >= limits.trials_complete * total, done / total, limits.trials_complete, why


def budget(evidence: Evidence, limits: GateLimits) -> Verdict:
    """The estimated GPU-hours of all promoted stages (process-hours where there is no GPU)."""
    hours = evidence.gpu_hours
    return hours <= limits.budget, hours, limits.budget, "GPU-hours of all promoted stages"


def validation_rung(evidence: Evidence, limits: GateLimits) -> Verdict:
    """How far the rung's loss is from its forecast, in half-widths of the interval on that side."""
    limit, asked = limits.validation_rung, evidence.validation
    if asked is None:
        return True, None, limit, "no validation rung was asked for"
    said, run = asked.forecast, asked.run
    where = f"{said.budget:.3g} FLOPs"
    if run is None or not run.finished:
        why = f"its run of {where} has not ended; it is trained where every other gate passes"
        return False, None, limit, why
    loss = run.result.nats_per_token if run.result else None
    if run.state != "DONE" or loss is None:
        return False, None, limit, f"run {run.run_id} of {where} {run.state}: {run.message}"
    off = half_widths(loss, said)
    why = (
        f"{where}: measured {loss:.4f} (run {run.run_id}), forecast without it {said.loss:.4f} "
        f"({said.low:.4f} to {said.high:.4f})"
    )
    return off <= limit, off, limit, why


def half_widths(loss: float, said: "Forecast") -> float:
    """|ln(loss / forecast)| over the interval's half-width on the loss's side: 1 at its bound."""
    half = math.log(said.high / said.loss if loss > said.loss else said.loss / said.low)
    off = abs(math.log(loss / said.loss))
    if half == 0:
        return math.inf if off else 0.0
    return off / half


GATES: dict[str, Callable[[Evidence, GateLimits], Verdict]] = {
    "fit_quality": fit_quality,
    "interval_width": interval_width,
    "extrapolation": extrapolation,
    "backtest_error": backtest_error,
    "trials_complete": trials_complete,
    "budget": budget,
    "validation_rung": validation_rung,
}


def judge(evidence: Evidence, limits: GateLimits) -> tuple[GateResult, ...]:
    """Every gate's result, in the order of the table."""
    results: list[GateResult] = []
    for name, gate in GATES.items():
        passed, seen, limit, why = gate(evidence, limits)
        # JSON has no infinity: a promotion that held one would not be read back as it was sealed.
        observed = seen if seen is not None and math.isfinite(seen) else None
        results.append(
            GateResult(name=name, passed=passed, observed=observed, limit=limit, why=why)
        )
    return tuple(results)

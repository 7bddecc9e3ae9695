"""Laws at one table: each fitted and back-tested, together an opinion with an interval."""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from analysis import parametric
from analysis.law import (
    BacktestRow,
    Diagnostic,
    Fit,
    Floats,
    Forecast,
    NotEnough,
    Opinion,
    quantiles,
)
from analysis.laws import Law
from analysis.runs import Runs
from analysis.uncertainty import Wander

QUANTITIES = ("params", "tokens", "loss")
# A law with less of the weight than this may disagree without its word being heard.
HEARD = 0.05
# Decades: within the runs and just beyond, laws are still weighed by what they missed at this one.
NEAR = 0.3


@dataclass(frozen=True, eq=False)
class Member:
    """A law fitted to all runs, what its back-tests gave, and how it wanders, by quantity."""

    law: Law
    fit: Fit
    backtest: tuple[BacktestRow, ...]
    wander: dict[str, Wander]
    mean_square: dict[str, float]


@dataclass(frozen=True)
class Part:
    """One quantity as one law sees it at the target: log value, its bounds, and their parts."""

    value: float
    down: float
    up: float
    from_runs: float
    from_backtest: float
    variance: float
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Panel:
    """The laws that apply to some runs, those that do not and why."""

    runs: Runs
    members: tuple[Member, ...]
    refused: tuple[Diagnostic, ...]

    def at(self, budget: float, level: float = 0.95) -> Forecast:
        """The forecast at a budget in FLOPs; raises ValueError unless it is positive."""
        if not (budget > 0 and math.isfinite(budget)):
            raise ValueError(
                f"budget={budget} is not a positive number of FLOPs; give one like 1e21"
            )
        parts = {m.law.name: _parts(m, self.runs, budget, level) for m in self.members}
        weighed = {
            name: _weighed(
                {law: p[name] for law, p in parts.items() if name in p}, name, self.members
            )
            for name in QUANTITIES
        }
        joint = {name: _joint(weighed[name], level) for name in QUANTITIES}
        lead = max(self.members, key=lambda m: _weight(weighed["loss"], m))
        reach = math.log10(budget / lead.fit.budgets[-1])
        doubts = [*lead.fit.diagnostics, *_disagreement(joint, weighed, reach)]
        if reach > 0 and not lead.backtest:
            why = "too few budgets to predict one from the others: the interval is that of the runs"
            doubts.append(Diagnostic("not_backtested", why))
        params, tokens, loss = (joint[name] for name in QUANTITIES)
        return Forecast(
            budget=budget,
            params=_exp(params.value),
            tokens=_exp(tokens.value),
            loss=_exp(loss.value),
            low=_exp(loss.value - loss.down),
            high=_exp(loss.value + loss.up),
            level=level,
            extrapolation=reach,
            params_low=_exp(params.value - params.down),
            params_high=_exp(params.value + params.up),
            tokens_low=_exp(tokens.value - tokens.down),
            tokens_high=_exp(tokens.value + tokens.up),
            dominant=_dominant(loss),
            backtest=lead.backtest,
            opinions=tuple(_opinion(m, weighed) for m in self.members),
            diagnostics=tuple(doubts),
            fit=lead.fit,
        )


@dataclass(frozen=True)
class Prediction:
    """The loss that a run of given sizes would measure."""

    loss: float
    low: float
    high: float


def predict(
    panel: Panel, log_n: Floats, log_d: Floats, log_u: Floats | None = None, level: float = 0.95
) -> list[Prediction]:
    """The loss of runs of sizes (k,), by the surfaces among the laws, weighed as for the optimum.

    The interval is for one run: it holds the scatter of single runs too. Raises NotEnough where no
    law knows losses off the optimum.
    """
    members = [m for m in panel.members if m.law.surface]
    if not members:
        raise NotEnough(
            f"law {panel.members[0].law.name!r} speaks of optima only; predict at given sizes by "
            "--law parametric, another surface, or auto"
        )
    said = [parametric.log_loss(m.fit, log_n, log_d, log_u) for m in members]
    scatter = [_normal(level) * _scatter(m, panel.runs) for m in members]
    top = math.log(panel.runs.rungs[-1])
    reaches = (panel.runs.ratio.log(log_n) + log_n + log_d - top) / math.log(10)
    out: list[Prediction] = []
    for i, reach in enumerate(reaches.tolist()):
        parts: dict[str, Part] = {}
        for m, values, noise in zip(members, said, scatter, strict=True):
            part = _part(m, "loss", float(values[0, i]), values[1:, i], reach, level)
            if part:
                down, up = math.hypot(part.down, noise), math.hypot(part.up, noise)
                parts[m.law.name] = replace(part, down=down, up=up)
        whole = _joint(_weighed(parts, "loss", members), level)
        bounds = (whole.value, whole.value - whole.down, whole.value + whole.up)
        out.append(Prediction(*(_exp(x) for x in bounds)))
    return out


def _parts(member: Member, runs: Runs, budget: float, level: float) -> dict[str, Part]:
    """What a law says of each quantity; one it does not speak of is left out."""
    value, draws = member.law.optimum(member.fit, runs, budget)
    reach = math.log10(budget / member.fit.budgets[-1])
    found = {
        name: _part(member, name, float(value[i]), draws[:, i], reach, level)
        for i, name in enumerate(QUANTITIES)
    }
    return {name: part for name, part in found.items() if part}


def _part(
    member: Member, name: str, value: float, draws: Floats, reach: float, level: float
) -> Part | None:
    """A log value with its draws (m,), `reach` decades beyond the runs; None where it is none."""
    known = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(known) < len(draws) / 2:
        return None
    reach = max(reach, 0.0)
    low, high = (float(q) for q in quantiles(known, level))
    down, up = max(value - low, 0.0), max(high - value, 0.0)
    wander = member.wander[name]
    extra = wander.half_width(reach, level)
    # Student's t is in `extra`: a law of one back-test claims little.
    claimed = float(known.var()) + (extra / _normal(level)) ** 2
    return Part(
        value=value,
        down=math.hypot(down, extra),
        up=math.hypot(up, extra),
        from_runs=(up + down) / 2,
        from_backtest=extra,
        variance=claimed + member.mean_square[name] * max(reach, NEAR),
    )


def _weighed(parts: dict[str, Part], name: str, members: Sequence[Member]) -> dict[str, Part]:
    """What every law says of a quantity, weighted by one over its expected squared error.

    That error is the back-test's mean square as it was plus the variance that the law claims: the
    first alone forgives what no budget has tested, the second alone trusts a claim. A law without
    back-tests has no weight beside others that have them.
    """
    tested = {m.law.name for m in members if m.wander[name].dof} & set(parts) or set(parts)
    raw = {law: (law in tested) / max(p.variance, 1e-24) for law, p in parts.items()}
    total = sum(raw.values())
    return {law: replace(p, weight=raw[law] / total) for law, p in parts.items()}


def _joint(parts: dict[str, Part], level: float) -> Part:
    """The weighted mean of the laws; its interval is theirs, widened by how far they disagree."""
    if not parts:
        return Part(*[math.nan] * 6)
    weight = np.array([p.weight for p in parts.values()])

    def mean(values: Sequence[float]) -> float:
        return float(weight @ np.array(values))

    value = mean([p.value for p in parts.values()])
    spread2 = mean([(p.value - value) ** 2 for p in parts.values()])
    apart = _normal(level) ** 2 * spread2
    return Part(
        value=value,
        down=math.sqrt(mean([p.down**2 for p in parts.values()]) + apart),
        up=math.sqrt(mean([p.up**2 for p in parts.values()]) + apart),
        from_runs=math.sqrt(mean([p.from_runs**2 for p in parts.values()])),
        from_backtest=math.sqrt(mean([p.from_backtest**2 for p in parts.values()])),
        variance=apart,
    )


def _normal(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))


def _apart(joint: Part) -> float:
    """Half the width that the laws' disagreement alone gives an interval."""
    return math.sqrt(joint.variance)


def _dominant(joint: Part) -> Literal["runs", "backtest", "laws"]:
    sizes = {"runs": joint.from_runs, "backtest": joint.from_backtest, "laws": _apart(joint)}
    return max(sizes, key=lambda name: sizes[name])  # pyright: ignore[reportReturnType]


def _disagreement(
    joint: dict[str, Part], weighed: dict[str, dict[str, Part]], reach: float
) -> list[Diagnostic]:
    """Where the laws differ by more than each of them allows for."""
    found: list[Diagnostic] = []
    for name in ("params", "loss"):
        whole = joint[name]
        own = math.hypot(whole.from_runs, whole.from_backtest)
        if reach > 0 and _apart(whole) > own:
            heard = {law: p for law, p in weighed[name].items() if p.weight >= HEARD}
            said = ", ".join(f"{law} {math.exp(p.value):.4g}" for law, p in heard.items())
            why = f"{name} at the target: {said}; further apart than their intervals are wide"
            found.append(Diagnostic("laws_disagree", why))
    return found


def _scatter(member: Member, runs: Runs) -> float:
    """Robust standard deviation of single runs about a surface, its coefficients paid for."""
    logs = [np.log(runs.column(name)) for name in ("params", "tokens", "unique_tokens", "loss")]
    fit = replace(member.fit, draws=member.fit.draws[:0])
    off = np.abs(parametric.log_loss(fit, *logs[:3])[0] - logs[3])
    return float(np.median(off)) / 0.6745 * math.sqrt(len(off) / (len(off) - len(fit.theta)))


def _exp(log_value: float) -> float:
    """A bound so wide that it leaves the floats is infinite, which is what it means."""
    return math.exp(log_value) if log_value < 709 else math.inf


def _weight(parts: dict[str, Part], member: Member) -> float:
    part = parts.get(member.law.name)
    return part.weight if part else 0.0


def _opinion(member: Member, weighed: dict[str, dict[str, Part]]) -> Opinion:
    params, tokens, loss = (weighed[name].get(member.law.name) for name in QUANTITIES)
    return Opinion(
        law=member.law.name,
        params=_bound(params, 0),
        params_low=_bound(params, -1),
        params_high=_bound(params, 1),
        tokens=_bound(tokens, 0),
        tokens_low=_bound(tokens, -1),
        tokens_high=_bound(tokens, 1),
        loss=_bound(loss, 0),
        low=_bound(loss, -1),
        high=_bound(loss, 1),
        size_error=_root(member, "params"),
        loss_error=_root(member, "loss"),
        size_weight=_weight(weighed["params"], member),
        loss_weight=_weight(weighed["loss"], member),
        diagnostics=member.fit.diagnostics,
    )


def _bound(part: Part | None, side: int) -> float | None:
    """The value (0), the lower (-1) or the upper (1) bound of what a law says, if it does."""
    if part is None:
        return None
    return _exp(part.value + (part.up if side > 0 else side * part.down))


def _root(member: Member, name: str) -> float | None:
    """Root mean square of the back-tests' errors, a root decade."""
    return math.sqrt(member.mean_square[name]) if member.wander[name].dof else None

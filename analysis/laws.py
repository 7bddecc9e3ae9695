"""The laws in one table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from analysis import envelope, isoflop, parametric
from analysis.law import Fit, Floats
from analysis.runs import Runs


@dataclass(frozen=True)
class Law:
    """`fit(runs, draws=, seed=)` gives a Fit or raises NotEnough; `optimum(fit, runs, budget)` the
    logs of params, tokens and loss at a budget, (3,) and of the draws (m, 3).

    `refit` is `fit` as a back-test asks for it, from two budgets on. `surface` says whether
    `parametric.log_loss` knows the law's loss anywhere, not only at optima; `votes`, whether it has
    a part in the forecast of all laws (variants of one estimate have not).
    """

    name: str
    fit: Callable[..., Fit]
    refit: Callable[..., Fit]
    optimum: Callable[[Fit, Runs, float], tuple[Floats, Floats]]
    surface: bool = False
    votes: bool = True


def _isoflop(name: str, method: str, *, corrected: bool, votes: bool = False) -> Law:
    fit = partial(isoflop.fit, name=name, method=method, corrected=corrected)
    return Law(name, fit, partial(fit, needed=2), isoflop.optimum, votes=votes)


def _surface(name: str) -> Law:
    fit = partial(parametric.fit, name=name)
    return Law(name, fit, partial(fit, profiles=False), parametric.optimum, surface=True)


LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        _isoflop("isoflop", "parabola", corrected=True, votes=True),
        _isoflop("isoflop-parabola", "parabola", corrected=False),
        _isoflop("isoflop-local", "local", corrected=True),
        _isoflop("isoflop-akima", "akima", corrected=True),
        _surface("parametric"),
        _surface("tied"),
        _surface("farseer"),
        _surface("data-constrained"),
        Law("envelope", envelope.fit, envelope.fit, envelope.optimum),
    )
}

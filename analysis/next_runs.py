"""The next runs: those that shrink the variance of what is promoted most, a FLOP.

The promoted quantities are ln L and ln N* at the target. With L(N, D) linearised at its fit they
are jointly normal with the losses of all runs, measured or not, so what a run is worth is known
before it is made. Source: Chaloner & Verdinelli 1995, Statistical Science 10, 273-304.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares, root_scalar

from analysis.law import Floats, Forecast
from analysis.panel import Panel
from analysis.runs import Ratio, Runs
from analysis.surface import SURFACES, Sizes, evaluate

SURFACE = SURFACES["parametric"]
# Before any run: a floor of .6 of the loss, the rest shared by N and D, each within a factor of
# three or so; exponents as published (.2 to .5). A dozen runs outweigh it.
PRIOR: Floats = np.array([math.log(0.6), math.log(0.2), math.log(0.2), 0.35, 0.35])
PRIOR_SD: Floats = np.array([1.0, 1.5, 1.5, 0.15, 0.15])
# Step in ln N of the numerical derivatives along a budget.
STEP = 0.02
# Where an optimum is looked for, in ln N about the centre of the runs.
BRACKET = 300.0
# Half of the scatter's variance is taken to be of the shape, not of the seed: runs of one budget
# and nearly one size (in ln N) share it, so that many cheap repeats are not a substitute for sizes.
OF_SHAPE = 0.5
ALIKE = 0.3
# Log losses of real runs scatter by no less.
LEAST_SCATTER = 5e-4


@dataclass(frozen=True)
class Point:
    """A run by its budget in FLOPs and its params."""

    budget: float
    params: float


@dataclass(frozen=True)
class Drift:
    """How far a law that holds at the runs may be off, a root decade of compute: standard
    deviations of ln L and of ln N*."""

    loss: float
    params: float


# What back-tests show is averaged with this, as if it were PRIOR_ROWS of their rows. Without it a
# law that fits all runs would be extrapolated from the cheapest of them. Ours: some two fifths of
# what the surface drifted on Chinchilla's and Llama 3's sweeps (.011 to .014, .25 to .26).
PRIOR_DRIFT = Drift(loss=0.004, params=0.1)
PRIOR_ROWS = 2


@dataclass(frozen=True)
class Aim:
    """The budget to be forecast, and how tightly: half-widths of the intervals of ln L and ln N*,
    and the drift that is allowed for."""

    target: float
    loss_within: float
    params_within: float
    drift: Drift = PRIOR_DRIFT


@dataclass(frozen=True)
class Choice:
    """Points to run next; standard deviations (ln L, ln N*) at the target now and after them."""

    points: tuple[Point, ...]
    before: tuple[float, float]
    after: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Local:
    """The surface as the runs so far have it: `theta` (5,) about `center`, their `scatter`."""

    theta: Floats
    center: tuple[float, float]
    scatter: float
    ratio: Ratio

    def along(self, log_n: Floats, log_c: Floats) -> tuple[Floats, Floats]:
        """ln L (k,) and its Jacobian (k, 5) of runs that spend exp(log_c) at sizes exp(log_n)."""
        log_d = log_c - self.ratio.log(log_n) - log_n
        sizes = Sizes(log_n, log_d, log_d, self.center)
        value, jacobian = evaluate(SURFACE, sizes, self.theta[None], jacobian=True)
        return value[0], jacobian[0]

    def slope(self, log_n: Floats, log_c: Floats) -> tuple[Floats, Floats]:
        """d ln L / d ln N along the budget (k,), and its Jacobian (k, 5)."""
        up, down = self.along(log_n + STEP, log_c), self.along(log_n - STEP, log_c)
        return (up[0] - down[0]) / (2 * STEP), (up[1] - down[1]) / (2 * STEP)

    def optimum(self, budget: float) -> float:
        """ln N of least loss at a budget: where the slope, which rises with N, crosses zero."""
        log_c = np.array([math.log(budget)])

        def slope(log_n: float) -> float:
            return float(self.slope(np.array([log_n]), log_c)[0][0])

        bracket = (self.center[0] - BRACKET, self.center[0] + BRACKET)
        found: Any = root_scalar(slope, bracket=bracket)
        return float(found.root)


def locate(runs: Runs) -> Local:
    """The surface of most posterior density given runs, one at least.

    The prior keeps a dozen noisy runs from an exponent at its bound, where nothing can be planned.
    """
    log_n, log_d = (np.log(runs.column(name)) for name in ("params", "tokens"))
    log_y = np.log(runs.column("loss"))
    center = (float(log_n.mean()), float(log_d.mean()))
    sizes = Sizes(log_n, log_d, log_d, center)
    prior = PRIOR + np.array([1.0, 1, 1, 0, 0]) * log_y.mean()
    theta, scatter = prior, 0.01
    # The scatter weighs the runs against the prior, and is known only after a fit.
    for _ in range(2):
        theta = _map(sizes, log_y, prior, scatter, theta)
        residual = log_y - evaluate(SURFACE, sizes, theta[None])[0][0]
        free = math.sqrt(len(log_y) / max(len(log_y) - len(theta), 1))
        scatter = max(float(np.median(np.abs(residual))) / 0.6745 * free, LEAST_SCATTER)
    return Local(theta, center, scatter, runs.ratio)


def _map(sizes: Sizes, log_y: Floats, prior: Floats, scatter: float, start: Floats) -> Floats:
    def residual(theta: Floats) -> Floats:
        off = evaluate(SURFACE, sizes, theta[None])[0][0] - log_y
        return np.concatenate([off / scatter, (theta - prior) / PRIOR_SD])

    def slopes(theta: Floats) -> Floats:
        jacobian = evaluate(SURFACE, sizes, theta[None], jacobian=True)[1][0]
        return np.concatenate([jacobian / scatter, np.diag(1 / PRIOR_SD)])

    # Within these every budget has its optimum well inside BRACKET.
    bounds = (prior - 5 * PRIOR_SD, prior + 5 * PRIOR_SD)
    bounds[0][3:] = 0.05
    # Its stub knows `jac` by name only.
    solve: Any = least_squares
    found = solve(residual, start, slopes, bounds, loss="huber", f_scale=1.5)
    return np.asarray(found.x, dtype=np.float64)


def drift(panel: Panel) -> Drift:
    """The drift that back-tests of the surface showed, averaged with PRIOR_DRIFT."""
    wander = next((m.wander for m in panel.members if m.law.name == SURFACE.name), None)
    if wander is None:
        return PRIOR_DRIFT

    def pooled(name: str, prior: float) -> float:
        seen = wander[name]
        squares = PRIOR_ROWS * prior**2 + seen.dof * seen.per_root_decade**2
        return math.sqrt(squares / (PRIOR_ROWS + seen.dof))

    return Drift(pooled("loss", PRIOR_DRIFT.loss), pooled("params", PRIOR_DRIFT.params))


def half_widths(forecast: Forecast) -> tuple[float, float]:
    """Half the widths of a forecast's intervals of ln L and ln N*; NaN where one has no end."""

    def half(low: float, high: float) -> float:
        return math.log(high / low) / 2 if low > 0 and math.isfinite(high) else math.nan

    return half(forecast.low, forecast.high), half(forecast.params_low, forecast.params_high)


def around(local: Local, budgets: Sequence[float], spread: float, sizes: int = 9) -> list[Point]:
    """Candidates at every budget, from the optimum / spread to the optimum x spread."""
    factors = np.geomspace(1 / spread, spread, sizes).tolist()
    centers = [math.exp(local.optimum(budget)) for budget in budgets]
    return [Point(c, n * f) for c, n in zip(budgets, centers, strict=True) for f in factors]


def _joint(local: Local, points: Sequence[Point], aim: Aim) -> Floats:
    """Covariance (2 + k, 2 + k) of ln L and ln N* at the target and of the losses of k runs.

    The coefficients vary by their prior. The law drifts with ln C like a random walk that ends at
    the target, in level and in optimum; a moved optimum shows where the loss has a slope. ln N*
    follows the coefficients implicitly: the slope stays zero.
    """
    log_n = np.log([point.params for point in points])
    log_c = np.log([point.budget for point in points])
    top = np.array([math.log(aim.target)])
    best = np.array([local.optimum(aim.target)])
    bend = (local.slope(best + STEP, top)[0] - local.slope(best - STEP, top)[0]) / (2 * STEP)
    promoted = [local.along(best, top)[1], -local.slope(best, top)[1] / bend[:, None]]
    rows = np.concatenate([*promoted, local.along(log_n, log_c)[1]]) * PRIOR_SD
    covariance: Floats = rows @ rows.T
    slope = local.slope(log_n, log_c)[0]
    decades = np.maximum((top - log_c) / math.log(10), 0.0)
    shared = np.minimum(decades[:, None], decades)
    tilt = np.outer(slope, slope)
    covariance[2:, 2:] += shared * (aim.drift.loss**2 + aim.drift.params**2 * tilt)
    apart = np.subtract.outer(log_n, log_n) / ALIKE
    same = np.equal.outer(log_c, log_c) * np.exp(-0.5 * apart**2)
    covariance[2:, 2:] += OF_SHAPE * local.scatter**2 * same
    return covariance


def _given(covariance: Floats, place: int, noise: float) -> Floats:
    """The covariance once the run at `place` is measured."""
    column = covariance[:, place]
    return covariance - np.outer(column, column) / (column[place] + noise)


def choose(
    local: Local,
    made: Sequence[Point],
    candidates: Sequence[Point],
    aim: Aim,
    *,
    batch: int,
    flops: float,
) -> Choice:
    """Up to `batch` of the candidates, one after the other the best a FLOP, within `flops`.

    `made` are the runs measured and those in flight: what a run is worth does not depend on what it
    measures. Variances are counted in units of the squares asked for, so that the quantity that is
    further from its aim decides. A candidate may be chosen again: another seed.
    """
    noise, first = (1 - OF_SHAPE) * local.scatter**2, 2 + len(made)
    covariance = _joint(local, [*made, *candidates], aim)
    for place in range(2, first):
        covariance = _given(covariance, place, noise)
    before = covariance.diagonal()[:2]
    cost = np.array([point.budget for point in candidates])
    unit = np.array([[aim.loss_within], [aim.params_within]])
    chosen: list[Point] = []
    while len(chosen) < batch and (cost <= flops).any():
        shared = covariance[:2, first:] / unit
        gain = (shared**2).sum(axis=0) / (covariance.diagonal()[first:] + noise) / cost
        best = int(np.argmax(np.where(cost <= flops, gain, -1.0)))
        chosen.append(candidates[best])
        flops -= cost[best]
        covariance = _given(covariance, first + best, noise)
    after = covariance.diagonal()[:2]
    return Choice(tuple(chosen), _roots(before), _roots(after))


def _roots(variances: Floats) -> tuple[float, float]:
    loss, params = np.sqrt(np.maximum(variances, 0.0)).tolist()
    return loss, params

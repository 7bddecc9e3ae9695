"""L(N, D): a surface of loss over params and tokens, and the optimum it has at every budget."""

# numpy's grids and linear algebra, and all of scipy, come without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from dataclasses import dataclass

import numpy as np

from analysis.law import Diagnostic, Fit, Floats, NotEnough, spread
from analysis.minima import lowest
from analysis.runs import Runs
from analysis.solve import HUBER_DELTA, SAMPLE, descend, huber, objective, solve
from analysis.surface import EXPONENTS, SURFACES, Sizes, Surface, evaluate, sizes_of


def resampled(strata: Floats, draws: int, seed: int) -> Floats:
    """How often each run is drawn (draws, n) in a bootstrap over runs within strata."""
    rng = np.random.default_rng(seed)
    weights = np.ones((draws, len(strata)))
    for stratum in np.unique(strata):
        place = np.flatnonzero(strata == stratum)
        n = len(place)
        weights[:, place] = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return weights


def _strata(runs: Runs) -> Floats:
    """The budget each run was meant for; runs meant for none are one stratum."""
    return runs.frame["budget"].fill_null(0.0).to_numpy()


def _drawn(surface: Surface, runs: Runs, theta: Floats, draws: int, seed: int) -> Floats:
    """Coefficients (draws, p) of resampled runs; of very many, samples' shrunk to their number."""
    sizes, log_y = sizes_of(runs.frame), np.log(runs.column("loss"))
    start = np.tile(theta, (draws, 1))
    if len(log_y) <= SAMPLE:
        weights = resampled(_strata(runs), draws, seed)
        return descend(surface, sizes, log_y, weights, start)
    chosen = np.random.default_rng(seed).choice(len(log_y), SAMPLE, replace=False)
    weights = resampled(np.zeros(SAMPLE), draws, seed)
    found = descend(surface, sizes.rows(chosen), log_y[chosen], weights, start)
    return theta + (found - found.mean(axis=0)) * math.sqrt(SAMPLE / len(log_y))


def _uncentered(surface: Surface, center: tuple[float, float], theta: Floats) -> Floats:
    """The same surfaces (m, p) with x = -ln N and y = -ln D: E, A, B as papers write them."""
    n, d = center
    out = theta.copy()
    shift = {"x": n, "y": d, "xy": n * d}
    for e in surface.entries:
        if e.feature != "1":
            intercept = next(i.coef for i in surface.entries if i.term == e.term)
            out[:, intercept] += theta[:, e.coef] * shift[e.feature]
        if e.feature == "xy":
            for other in surface.entries:
                if other.term == e.term and other.feature in ("x", "y"):
                    out[:, other.coef] += theta[:, e.coef] * (d if other.feature == "x" else n)
    return out


def coefficients(surface: Surface, theta: Floats) -> dict[str, Floats]:
    """Coefficients as papers write them, each (m,), of surfaces without a centre (m, p)."""
    named = dict(zip(surface.names, theta.T, strict=True))
    # Where an exponent is not held, its coefficient leaves the floats.
    with np.errstate(over="ignore"):
        out = {name.removeprefix("log_"): np.exp(v) for name, v in named.items() if "log_" in name}
    out |= {name: v for name, v in named.items() if "log_" not in name}
    out.setdefault("beta", out["alpha"])
    if surface.name != "farseer":
        out["a"] = out["beta"] / (out["alpha"] + out["beta"])
        out["b"] = 1 - out["a"]
    return out


# Profiles look this far on either side; the 95 % point of chi squared with one degree of freedom.
PROFILE: Floats = np.geomspace(0.02, 2.5, 24)
CHI_SQUARED = 3.841


def _evidence_scale(residual: Floats) -> float:
    """What turns a difference of summed Huber losses into a likelihood ratio: 2 E[psi'] / E[psi^2].

    psi' is the density of the residuals at 0 (by their robust scale) over the width of Huber's
    quadratic part. Source: Hampel et al. 1986, Robust Statistics, sec. 7.2.
    """
    scale = max(float(np.median(np.abs(residual))) / 0.6745, 1e-12)
    inside = math.erf(HUBER_DELTA / scale / math.sqrt(2))
    psi = np.clip(residual, -HUBER_DELTA, HUBER_DELTA)
    return 2 * inside / max(float(np.mean(psi**2)), 1e-300)


@dataclass(frozen=True)
class Profile:
    """What the runs leave open: ranges (of PROFILE) of the exponents, and doubts by name."""

    ranges: dict[str, tuple[float, float]]
    doubts: tuple[Diagnostic, ...]


def _profiled(surface: Surface, runs: Runs, theta: Floats) -> Profile:
    """Ranges of the exponents that fit the runs as well as the best, by profile likelihood."""
    sizes, log_y = sizes_of(runs.frame), np.log(runs.column("loss"))
    if len(log_y) > SAMPLE:
        return Profile({}, ())
    residual = log_y - evaluate(surface, sizes, theta[None])[0][0]
    scale, best = _evidence_scale(residual), float(huber(residual).sum())

    def loses(place: int, values: Floats) -> Floats:
        start = np.tile(theta, (len(values), 1))
        start[:, place] = values
        ones = np.ones((len(values), len(log_y)))
        found = descend(surface, sizes, log_y, ones, start, fixed=(place,))
        return scale * (objective(surface, sizes, log_y, ones, found) - best)

    ranges: dict[str, tuple[float, float]] = {}
    doubts: list[Diagnostic] = []
    for place in surface.exponents:
        name, value = surface.names[place], float(theta[place])
        tried = np.sort(np.append(PROFILE, value))
        low, high = _range(tried, np.maximum(loses(place, tried), 0.0), value)
        ranges[name] = (low, high)
        if low == tried[0] or high == tried[-1] or np.isclose(value, EXPONENTS, rtol=1e-3).any():
            why = f"exponents from {low:.2g} to {high:.2g} fit the runs as well as the best"
            doubts.append(Diagnostic(f"{name}_unidentified", why))
    if loses(0, np.array([theta[1] - 12.0]))[0] < CHI_SQUARED:
        why = "a floor of zero fits the runs as well: no irreducible loss is seen"
        doubts.append(Diagnostic("E_unidentified", why))
    return Profile(ranges, tuple(doubts))


def _range(tried: Floats, ratio: Floats, best: float) -> tuple[float, float]:
    """Where the root of a likelihood ratio, nearly straight on either side, reaches CHI_SQUARED."""
    root, limit = np.sqrt(ratio), math.sqrt(CHI_SQUARED)
    below, above = tried <= best, tried >= best
    low = np.interp(-limit, -root[below], tried[below])
    high = np.interp(limit, root[above], tried[above])
    return float(low), float(high)


# What cannot be trusted when an exponent is unidentified.
FOLLOWS = {"alpha": ("alpha", "A", "a", "b"), "beta": ("beta", "B", "a", "b"), "E": ("E",)}


def fit(
    runs: Runs,
    *,
    name: str = "parametric",
    draws: int = 1000,
    seed: int = 0,
    profiles: bool = True,
) -> Fit:
    """Fit a surface of SURFACES to all runs, with draws of a bootstrap stratified by budget.

    Raises NotEnough where the runs cannot carry its coefficients. Without `profiles` nobody asks
    whether they are identified.
    """
    surface = SURFACES[name]
    _check(surface, runs)
    sizes, log_y = sizes_of(runs.frame), np.log(runs.column("loss"))
    theta, value = solve(surface, sizes, log_y)
    profile = _profiled(surface, runs, theta) if profiles else Profile({}, ())
    drawn = _uncentered(surface, sizes.center, _drawn(surface, runs, theta, draws, seed))
    center = _uncentered(surface, sizes.center, theta[None])
    lost = {c for d in profile.doubts for c in FOLLOWS[d.name.removesuffix("_unidentified")]}
    coef = {k: float(v[0]) for k, v in coefficients(surface, center).items()}
    names = [*coef]
    se, low, high = spread(np.stack([*coefficients(surface, drawn).values()], axis=1))
    # About the centre it was profiled as another coefficient.
    moved = {"beta"} if any(e.feature == "xy" for e in surface.entries) else set[str]()
    rungs = runs.rungs
    return Fit(
        law=name,
        metric=runs.metric,
        coef={k: None if k in lost else v for k, v in coef.items()},
        se={k: None if k in lost else float(v) for k, v in zip(names, se, strict=True)},
        intervals={
            k: None if k in lost else (float(down), float(up))
            for k, down, up in zip(names, low, high, strict=True)
        },
        profiles={k: pair for k, pair in profile.ranges.items() if k not in lost | moved},
        theta=center[0],
        draws=drawn,
        objective=value,
        run_ids=tuple(runs.frame["run_id"].to_list()),
        budgets=rungs,
        params_convention=runs.params_convention,
        diagnostics=profile.doubts,
        excluded=runs.excluded,
    )


def _check(surface: Surface, runs: Runs) -> None:
    """Raise NotEnough, with the way out, where the coefficients outnumber what was varied."""
    frame = runs.frame
    needed = len(surface.names) + 2
    if len(frame) < needed:
        raise NotEnough(f"{len(frame)} usable runs; law {surface.name!r} needs {needed}; add runs")
    sizes, tokens = frame["params"].n_unique(), frame["tokens"].n_unique()
    if min(sizes, tokens) < 3:
        raise NotEnough(
            f"{sizes} model sizes and {tokens} token counts; law {surface.name!r} needs 3 of each; "
            "vary the one that is short"
        )
    flops = runs.column("flops")
    if flops.max() < 2 * flops.min():
        raise NotEnough(
            f"all runs spent about {flops.max():.3g} FLOPs; a law over compute needs runs "
            "at several budgets: add some"
        )
    if surface.repeats is not None and (frame["unique_tokens"] >= frame["tokens"]).all():
        raise NotEnough(
            "no run repeats its data (tokens above unique_tokens); law 'data-constrained' needs "
            "some: name the column by --columns unique_tokens=..., or use 'parametric'"
        )


def log_loss(fit: Fit, log_n: Floats, log_d: Floats, log_u: Floats | None = None) -> Floats:
    """ln L (1 + m, k) at k sizes: first of the fit, then of its draws. Units as fitted."""
    sizes = Sizes(log_n, log_d, log_d if log_u is None else log_u, (0.0, 0.0))
    return evaluate(SURFACES[fit.law], sizes, np.vstack([fit.theta, fit.draws]))[0]


def optimum(fit: Fit, runs: Runs, budget: float) -> tuple[Floats, Floats]:
    """Logs of params, tokens and loss at a budget: (3,), and of the draws (m, 3).

    The surface is minimised over ln N on params x tokens = budget / ratio(N); a draw without a
    minimum within three e-folds of the sizes tried, shifted with the budget, gives NaN.
    """
    surface, theta = SURFACES[fit.law], np.vstack([fit.theta, fit.draws])
    log_n = np.log(runs.column("params"))
    reach = max(math.log(budget / runs.column("flops").max()), 0.0)

    def along(n: Floats) -> tuple[Floats, Floats]:
        d = math.log(budget) - runs.ratio.log(n) - n
        return d, evaluate(surface, Sizes(n, d, d, (0.0, 0.0)), theta)[0]

    grid: Floats = np.linspace(log_n.min() - 3, log_n.max() + reach + 3, 97)
    n, _ = lowest(grid, along(grid)[1])
    lost = (n <= grid[0]) | (n >= grid[-1])
    near: Floats = np.linspace(grid[0] - grid[1], grid[1] - grid[0], 17)
    shift, value = lowest(near, along(n[:, None] + near)[1])
    n = np.where(lost, np.nan, n + shift)
    logs = np.stack([n, math.log(budget) - runs.ratio.log(n) - n, value], axis=1)
    return logs[0], logs[1:]

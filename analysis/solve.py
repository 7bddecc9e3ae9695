"""Surfaces fitted to runs: log residuals, Huber's loss, any number of weightings at once.

Everywhere m is the number of weightings, n of runs, p of coefficients.
Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. D.2; Besiroglu et al. 2024, arXiv:2404.10102.
"""

# numpy's grids and linear algebra, and all of scipy, come without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from typing import Any

import numpy as np
from scipy import optimize

from analysis.law import Floats
from analysis.surface import Sizes, Surface, clip, evaluate

# In nats of log loss; Hoffmann et al. and Besiroglu et al. use the same.
HUBER_DELTA = 1e-3
# More entries of a batch than this are fitted in parts: some 100 MB of Jacobian.
BATCH = 2_000_000
# Where starts are looked for on a sample, because a grid of them does not need every run.
SAMPLE = 4000
STARTS = 6
_GRID: Floats = np.geomspace(0.05, 1.5, 10)


def huber(residual: Floats) -> Floats:
    """Huber's loss at HUBER_DELTA of log residuals."""
    size = np.abs(residual)
    small = size < HUBER_DELTA
    return np.where(small, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))


def objective(
    surface: Surface, sizes: Sizes, log_y: Floats, weights: Floats, theta: Floats
) -> Floats:
    """Weighted sums (m,) of Huber losses of the log residuals."""
    total: Floats = (weights * huber(log_y - evaluate(surface, sizes, theta)[0])).sum(axis=1)
    return total


def descend(
    surface: Surface,
    sizes: Sizes,
    log_y: Floats,
    weights: Floats,
    start: Floats,
    *,
    steps: int = 40,
    fixed: tuple[int, ...] = (),
) -> Floats:
    """Coefficients (m, p) after iteratively reweighted least squares from `start` (m, p).

    Every step is a batched Gauss-Newton step with Huber's weights, so a step of a thousand
    resamples costs what a few dozen single evaluations do. Coefficients in `fixed` stay.
    Source: Holland & Welsch 1977, Communications in Statistics A6, 813-827.
    """
    part = max(1, BATCH // max(len(log_y), 1))
    if len(start) > part:
        pieces = [
            descend(surface, sizes, log_y, w, s, steps=steps, fixed=fixed)
            for w, s in zip(_parts(weights, part), _parts(start, part), strict=True)
        ]
        return np.concatenate(pieces)
    theta = start.copy()
    free = np.array([i for i in range(theta.shape[1]) if i not in fixed])
    ridge = 1e-9 * np.eye(len(free))
    for _ in range(steps):
        log_loss, jacobian = evaluate(surface, sizes, theta, jacobian=True)
        residual = log_y - log_loss
        jacobian = jacobian[..., free]
        scaled = jacobian * (weights / np.maximum(np.abs(residual), HUBER_DELTA))[..., None]
        hessian = scaled.transpose(0, 2, 1) @ jacobian
        trace = np.einsum("mii->m", hessian)[:, None, None]
        gradient = (scaled * residual[..., None]).sum(axis=1)
        move: Floats = np.linalg.solve(hessian + trace * ridge, gradient[..., None])[..., 0]
        theta[:, free] += np.clip(move, -0.5, 0.5)
        theta = clip(surface, theta)
        if np.abs(move).max() < 1e-9:
            break
    return theta


def _parts(rows: Floats, part: int) -> list[Floats]:
    return [rows[i : i + part] for i in range(0, len(rows), part)]


def polish(surface: Surface, sizes: Sizes, log_y: Floats, start: Floats) -> tuple[Floats, float]:
    """The minimum (p,) next to `start` (p,) by quasi-Newton with analytic gradients, and its value.

    The objective is divided by delta so that its gradients are of the order of one a run.
    """

    def value(theta: Floats) -> tuple[float, Floats]:
        log_loss, jacobian = evaluate(surface, sizes, theta[None], jacobian=True)
        residual = (log_y - log_loss)[0]
        slope = -np.clip(residual, -HUBER_DELTA, HUBER_DELTA) @ jacobian[0]
        return float(huber(residual).sum()) / HUBER_DELTA, slope / HUBER_DELTA

    low_high: list[tuple[float, float]] = np.stack(
        [clip(surface, np.full((1, len(start)), end))[0] for end in (-1e9, 1e9)], axis=1
    ).tolist()
    found: Any = optimize.minimize(
        value,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=low_high,
        options={"maxiter": 500, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 20},
    )
    best: Floats = found.x if found.fun < value(start)[0] else start
    return best, value(best)[0] * HUBER_DELTA


def _projected(sizes: Sizes, log_y: Floats) -> Floats:
    """Coefficients (g, 5) of E + A/N^alpha + B/D^beta, the best E, A, B for a grid of exponents.

    E, A, B are linear for given exponents (variable projection): relative least squares, with what
    comes out negative set to a trifle.
    """
    alpha, beta = (grid.ravel() for grid in np.meshgrid(_GRID, _GRID))
    x, y = sizes.center[0] - sizes.log_n, sizes.center[1] - sizes.log_d
    columns = [np.ones((len(alpha), len(x))), np.exp(alpha[:, None] * x), np.exp(beta[:, None] * y)]
    matrix = np.stack(columns, axis=-1) * np.exp(-log_y)[:, None]
    gram = matrix.transpose(0, 2, 1) @ matrix
    trifle = 1e-9 * np.einsum("gii->g", gram)[:, None, None] * np.eye(3)
    linear: Floats = np.linalg.solve(gram + trifle, matrix.sum(axis=1)[..., None])[..., 0]
    smallest = 1e-3 * np.exp(log_y.mean())
    return np.column_stack([np.log(np.maximum(linear, smallest)), alpha, beta])


def _starts(surface: Surface, sizes: Sizes, log_y: Floats) -> Floats:
    """The best few places (STARTS, p) to descend from."""
    base = _projected(sizes, log_y)
    if surface.name == "tied":
        base = base[base[:, 3] == base[:, 4], :4]
    more = len(surface.names) - base.shape[1]
    if surface.repeats is not None:
        base = np.column_stack([base, np.full((len(base), more), np.log(10.0))])
    elif more > 0:
        base = np.column_stack([base, np.zeros((len(base), more))])
    values = np.concatenate(
        [objective(surface, sizes, log_y, np.ones((1, len(log_y))), row[None]) for row in base]
    )
    return base[np.argsort(values, kind="stable")[:STARTS]]


def solve(surface: Surface, sizes: Sizes, log_y: Floats) -> tuple[Floats, float]:
    """Coefficients (p,) of the surface through the runs, and the sum of Huber losses there.

    A grid of exponents with the rest projected out gives the starts; each is descended, the best
    polished. The unit of N and D drops out, for logs are taken about their means.
    """
    chosen = np.arange(len(log_y))
    if len(chosen) > SAMPLE:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, SAMPLE, replace=False))
    sample, y = sizes.rows(chosen), log_y[chosen]
    starts = clip(surface, _starts(surface, sample, y))
    ones = np.ones((len(starts), len(y)))
    found = descend(surface, sample, y, ones, starts, steps=60)
    best = found[np.argmin(objective(surface, sample, y, ones, found))]
    return polish(surface, sizes, log_y, best)

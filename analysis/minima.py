"""The minimum of loss over log size at one budget, by several methods; or the reason for none.

Source: Hoffmann et al. 2022, arXiv:2203.15556, approach 2; Llama 3, arXiv:2407.21783, sec. 3.2.1.
"""

# numpy's grids and linear algebra, and all of scipy, come without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from analysis.law import Diagnostic, Floats, scientific

Variable = Literal["params", "tokens"]
# Where (..., ) and how low (..., ) the minima of losses (..., k) at log sizes (k,) are.
Method = Callable[[Floats, Floats], tuple[Floats, Floats]]

SIZES_NEEDED = 4
GRID = 801
# Sizes closer than this in logs count as one when a curve goes through every size.
ONE_SIZE = 0.1


def design(u: Floats) -> Floats:
    """Columns 1, u, u^2."""
    return np.stack([np.ones_like(u), u, u * u], axis=-1)


def turning_point(coef: Floats) -> tuple[Floats, Floats]:
    """Minimum (u, loss) of parabolas (..., 3); NaN where one is concave or flat."""
    c0, c1, c2 = np.moveaxis(coef, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
    return u, c0 + c1 * u + c2 * u * u


def parabola(u: Floats, loss: Floats) -> tuple[Floats, Floats]:
    """The turning point of a parabola through all runs."""
    return turning_point(loss @ np.linalg.pinv(design(u)).T)


def local(u: Floats, loss: Floats) -> tuple[Floats, Floats]:
    """The turning point of a parabola through the runs next to the lowest one.

    The window is half of the runs, five at least, nearest in log size to the turning point of the
    parabola through all. It trades noise for the bias of a parabola far from the minimum.
    """
    everywhere = np.nan_to_num(parabola(u, loss)[0], nan=float(u[np.argmin(loss.mean(axis=0))]))
    reach = np.abs(u - np.clip(everywhere, u.min(), u.max())[:, None])
    kept = max(5, math.ceil(len(u) / 2))
    weight = (reach <= np.sort(reach, axis=1)[:, min(kept, len(u)) - 1, None]).astype(np.float64)
    matrix = design(u)
    gram = np.einsum("mk,ki,kj->mij", weight, matrix, matrix)
    moment = (weight * loss) @ matrix
    coef: Floats = np.linalg.solve(gram, moment[..., None])[..., 0]
    return turning_point(coef)


def akima(u: Floats, loss: Floats) -> tuple[Floats, Floats]:
    """The lowest point of Akima's interpolation of ln loss.

    Runs of nearly one size are averaged: through each of them the curve would turn on their noise.
    Source: Akima 1970, Journal of the ACM 17(4), 589-602.
    """
    order = np.argsort(u, kind="stable")
    group = np.concatenate([[0], np.cumsum(np.diff(u[order]) > ONE_SIZE)])
    share = np.eye(group[-1] + 1)[group] / np.bincount(group)
    sizes = u[order] @ share
    curve: Any = Akima1DInterpolator(sizes, np.log(loss[:, order]) @ share, axis=1)
    grid: Floats = np.linspace(sizes[0], sizes[-1], GRID)
    where, value = lowest(grid, curve(grid))
    return where, np.exp(value)


def lowest(grid: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Minima (m,) of curves (m, g) on an even grid (g,), refined by the parabola of three points.

    A minimum at an end of the grid is that end.
    """
    i = np.clip(np.argmin(values, axis=1), 1, len(grid) - 2)
    rows = np.arange(len(values))
    left, middle, right = (values[rows, i + k] for k in (-1, 0, 1))
    bend = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend > 0, 0.5 * (left - right) / bend, 0.0)
    shift = np.clip(shift, -1, 1)
    return grid[i] + shift * (grid[1] - grid[0]), middle - 0.25 * (left - right) * shift


METHODS: dict[str, Method] = {"parabola": parabola, "local": local, "akima": akima}


@dataclass(frozen=True, eq=False)
class Minimum:
    """The minimum of loss over one variable at one budget.

    `prior` is the loss that a surface through all runs has at each of them; `offset` what the
    method errs on that surface, in (ln size, ln loss), and is taken off. `smooth` are the runs'
    losses without their noise, `scatter` its standard deviation. Where `refusal` is set there is no
    `optimum` and no `loss`; too few sizes give no `coef` either.
    """

    budget: float
    variable: Variable
    method: str
    run_ids: tuple[str, ...]
    size: Floats
    measured: Floats
    center: float
    coef: tuple[float, float, float] | None = None
    smooth: Floats | None = None
    scatter: float = math.nan
    curvature_error: float = math.nan
    offset: tuple[float, float] = (0.0, 0.0)
    optimum: float | None = None
    loss: float | None = None
    refusal: Diagnostic | None = None

    @property
    def span(self) -> tuple[float, float]:
        return float(self.size.min()), float(self.size.max())

    def refused(self, name: str, detail: str) -> "Minimum":
        why = Diagnostic(name, f"budget {scientific(self.budget)}: {detail}")
        return replace(self, refusal=why)

    def __call__(self, size: Floats) -> Floats:
        """The parabola's loss at sizes; there must be coefficients."""
        assert self.coef is not None
        return design(np.log(size) - self.center) @ np.asarray(self.coef)

    def find(self, loss: Floats) -> tuple[Floats, Floats]:
        """ln size and ln loss (m,) of the minima of losses (m, k) at this budget's sizes."""
        where, best = METHODS[self.method](np.log(self.size) - self.center, loss)
        with np.errstate(invalid="ignore"):
            return where + self.center - self.offset[0], np.log(best) - self.offset[1]


def through(
    rows: pl.DataFrame,
    variable: Variable,
    method: str,
    prior: Floats | None,
    offset: tuple[float, float],
) -> Minimum:
    """The parabola through the runs of one budget, its minimum not judged yet."""
    size, loss = rows[variable].to_numpy(), rows["loss"].to_numpy()
    log_size = np.log(size)
    bare = Minimum(
        budget=float(rows["budget"][0]),
        variable=variable,
        method=method,
        run_ids=tuple(rows["run_id"].to_list()),
        size=size,
        measured=loss,
        center=float(log_size.mean()),
        offset=offset,
    )
    sizes = rows[variable].n_unique()
    if sizes < SIZES_NEEDED:
        if len(rows) >= SIZES_NEEDED:
            why = f"{len(rows)} runs of only {sizes} sizes, {SIZES_NEEDED} sizes are needed"
            return bare.refused("duplicate_sizes", why)
        return bare.refused("too_few_points", f"{sizes} sizes finished, {SIZES_NEEDED} are needed")
    matrix = design(log_size - bare.center)
    coef = np.linalg.lstsq(matrix, loss, rcond=None)[0].astype(np.float64)
    rest = loss if prior is None else loss - prior
    noise = rest - matrix @ np.linalg.lstsq(matrix, rest, rcond=None)[0]
    # Losses that lie exactly on a curve still carry rounding.
    least = 1e-12 * float(np.abs(loss).mean())
    return replace(
        bare,
        coef=tuple(coef.tolist()),
        smooth=loss - noise,
        scatter=max(math.sqrt(float(noise @ noise) / (len(loss) - 3)), least),
        curvature_error=math.sqrt(np.linalg.inv(matrix.T @ matrix)[2, 2]),
    )


def _pooled_scatter(fitted: Sequence[Minimum]) -> tuple[float, int]:
    """Standard deviation of the runs about their parabolas, and its degrees of freedom."""
    parts = [(len(p.run_ids) - 3, p.scatter) for p in fitted if p.coef]
    dof = sum(n for n, _ in parts)
    return math.sqrt(sum(n * s * s for n, s in parts) / max(dof, 1)), dof


def judged(found: Sequence[Minimum]) -> tuple[Minimum, ...]:
    """Each budget's minimum, or the reason why it has none to be believed."""
    pooled = _pooled_scatter(found)
    return tuple(_judged(p, pooled) for p in found)


def _judged(p: Minimum, pooled: tuple[float, int]) -> Minimum:
    """A minimum is seen where the parabola's c2 is above zero at 5 %, one-sided, against the
    scatter of the budget's own runs or against that of all budgets: the one serves where noise
    differs between budgets, the other has the degrees of freedom that five runs lack.
    """
    if p.coef is None:
        return p
    own = (p.scatter, len(p.run_ids) - 3)
    if not any(
        p.coef[2] > stats.t.ppf(0.95, dof) * scatter * p.curvature_error
        for scatter, dof in (own, pooled)
    ):
        why = f"loss over log {p.variable} shows no minimum above the scatter of the runs"
        return p.refused("concave_or_flat", why)
    where, best = (float(x[0]) for x in p.find(p.measured[None]))
    low, high = (math.log(end) for end in p.span)
    # An interpolation never leaves the sizes tried; a step of its grid is no distance to the edge.
    edge = (high - low) / GRID
    if not low + edge < where < high - edge:
        end, size = (
            ("smallest", p.span[0]) if where - low < high - where else ("largest", p.span[1])
        )
        why = f"the best {p.variable} is at or beyond the {end} tried, {scientific(size)}"
        return p.refused("minimum_at_edge", why)
    return replace(p, optimum=math.exp(where), loss=math.exp(best))

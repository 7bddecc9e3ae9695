"""The quadratic of loss in ln lr and ln batch of a cell, the runs of one size and token count.

Legend: n runs, k knobs (lr alone, or lr and batch_tokens), p coefficients of the quadratic.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis.law import Diagnostic, Floats, scientific

KNOBS = ("lr", "batch_tokens")
# Distinct settings that a surface takes: a grid of three by three, or a line of four.
SETTINGS_NEEDED = {1: 4, 2: 9}
LEVELS_NEEDED = 3
# The loss climbs faster above the best learning rate than below it, so a wide quadratic lies below
# the best rate: on the public StepLaw cells by a factor 1.5 where it spans 4 % of the loss. Each
# cell takes the first of these windows (loss over the cell's best, less one) whose minimum stands
# above the scatter. What lies beyond the last one is taken for diverged.
WINDOWS = (0.005, 0.01, 0.02, 0.04, 0.1)
SAME_SETTING = 0.01
# Resampled runs held in memory together, 80 MB.
DRAWN_AT_ONCE = 10_000_000


@dataclass(frozen=True, eq=False)
class Cell:
    """loss = quadratic(u) @ coef, u = ln(knobs) - center (k,), over the runs in its window.

    `settings` (n, k) are logs; `span` (2, k) their smallest and largest. Sizes that the file does
    not have are NaN. Where `refusal` is set there is no `optimum` (k,) (logs) and no `loss`.
    """

    params: float
    tokens: float
    flops: float
    run_ids: tuple[str, ...]
    settings: Floats
    losses: Floats
    span: Floats
    center: Floats
    coef: Floats | None = None
    window: float = math.nan
    optimum: Floats | None = None
    loss: float | None = None
    refusal: Diagnostic | None = None

    def __str__(self) -> str:
        sizes = ((self.params, "params"), (self.tokens, "tokens"), (self.flops, "FLOPs"))
        known = [f"{scientific(value)} {name}" for value, name in sizes if math.isfinite(value)]
        return " x ".join(known[:2])

    def scale(self) -> float:
        """FLOPs, or what else tells small cells from large."""
        known = (self.flops, self.params, self.tokens)
        return next(value for value in known if math.isfinite(value))

    def __call__(self, settings: Floats) -> Floats:
        """Loss at logs of settings (..., k); the cell must have coefficients."""
        assert self.coef is not None
        return quadratic(settings - self.center) @ self.coef

    def refused(self, name: str, detail: str) -> "Cell":
        why = Diagnostic(name, f"cell {self}: {detail}")
        return replace(self, optimum=None, loss=None, refusal=why)


def quadratic(u: Floats) -> Floats:
    """Columns 1, u_i and u_i u_j, i <= j, of u (..., k)."""
    i, j = np.triu_indices(u.shape[-1])
    return np.concatenate([np.ones_like(u[..., :1]), u, u[..., i] * u[..., j]], axis=-1)


def curvature(coef: Floats, k: int) -> Floats:
    """Second derivatives (..., k, k) of quadratics (..., p)."""
    i, j = np.triu_indices(k)
    second = np.zeros((*coef.shape[:-1], k, k))
    second[..., i, j] = coef[..., 1 + k :]
    return second + np.swapaxes(second, -1, -2)


def turning_point(coef: Floats, k: int) -> Floats:
    """Minimum (..., k) of quadratics (..., p); NaN where one is not convex."""
    second = curvature(coef, k)
    convex = np.linalg.eigvalsh(second)[..., 0] > 0
    safe = np.where(convex[..., None, None], second, np.eye(k))
    place = -np.linalg.solve(safe, coef[..., 1 : 1 + k, None])[..., 0]
    return np.where(convex[..., None], place, np.nan)


def _distinct(settings: Floats) -> int:
    return len(np.unique(np.round(settings / SAME_SETTING), axis=0))


def _fitted(cell: Cell, window: float) -> Cell | None:
    """The cell with a quadratic through the runs within `window` of its best, not judged yet."""
    near = cell.losses <= cell.losses.min() * (1 + window)
    settings, k = cell.settings[near], cell.settings.shape[1]
    if _distinct(settings) < SETTINGS_NEEDED[k]:
        return None
    center = settings.mean(axis=0)
    matrix = quadratic(settings - center)
    if np.linalg.matrix_rank(matrix) < matrix.shape[1]:
        return None
    return replace(
        cell,
        run_ids=tuple(run_id for run_id, kept in zip(cell.run_ids, near, strict=True) if kept),
        settings=settings,
        losses=cell.losses[near],
        span=np.stack([settings.min(axis=0), settings.max(axis=0)]),
        center=center,
        coef=np.linalg.lstsq(matrix, cell.losses[near], rcond=None)[0].astype(np.float64),
        window=window,
    )


def _significant(cell: Cell) -> bool:
    """Whether the flattest direction curves upward at 5 %, one-sided, against the scatter."""
    assert cell.coef is not None
    matrix = quadratic(cell.settings - cell.center)
    n, p = matrix.shape
    values, vectors = np.linalg.eigh(curvature(cell.coef, cell.center.size))
    flattest = vectors[:, 0]
    # The second derivative along a direction is linear in the coefficients.
    i, j = np.triu_indices(flattest.size)
    along = np.concatenate([np.zeros(p - i.size), 2 * flattest[i] * flattest[j]])
    squares = float(np.sum((cell.losses - matrix @ cell.coef) ** 2))
    scatter = max(math.sqrt(squares / (n - p)), 1e-12 * float(cell.losses.mean()))
    error = scatter * math.sqrt(along @ np.linalg.inv(matrix.T @ matrix) @ along)
    return bool(values[0] > stats.t.ppf(0.95, n - p) * error)


def _judged(cell: Cell) -> Cell:
    """The cell with its minimum, or with the reason why it has none to be believed."""
    assert cell.coef is not None
    if not _significant(cell):
        why = f"loss shows no minimum above the scatter of {len(cell.losses)} runs"
        return cell.refused("not_convex", why)
    place = turning_point(cell.coef, cell.center.size) + cell.center
    beyond = np.flatnonzero((place <= cell.span[0]) | (place >= cell.span[1]))
    if beyond.size:
        return _at_edge(cell, int(beyond[0]), bool(place[beyond[0]] >= cell.span[1, beyond[0]]))
    return replace(cell, optimum=place, loss=float(cell(place)))


def _at_edge(cell: Cell, knob: int, upper: bool) -> Cell:
    end = "largest" if upper else "smallest"
    tried = scientific(math.exp(cell.span[int(upper), knob]))
    name = "minimum_at_edge"
    return cell.refused(name, f"the best {KNOBS[knob]} is at or beyond the {end} tried, {tried}")


def _too_few(cell: Cell) -> Cell | None:
    """The refusal of a cell that no quadratic can be laid through, whatever its losses."""
    n, k = cell.settings.shape
    distinct = _distinct(cell.settings)
    if distinct < SETTINGS_NEEDED[k]:
        why = f"{distinct} distinct settings in {n} runs, {SETTINGS_NEEDED[k]} are needed"
        enough = n >= SETTINGS_NEEDED[k]
        return cell.refused("duplicates" if enough else "too_few_points", why)
    for knob in range(k):
        levels = _distinct(cell.settings[:, knob : knob + 1])
        if levels < LEVELS_NEEDED:
            why = f"{levels} values of {KNOBS[knob]}, {LEVELS_NEEDED} are needed"
            return cell.refused("too_few_levels", why)
    return None


def surface(cell: Cell) -> Cell:
    """The cell with the minimum of the narrowest window that shows one, or with its refusal."""
    refused = _too_few(cell)
    if refused:
        return refused
    for fitted in (_fitted(cell, window) for window in WINDOWS):
        if fitted is None:
            continue
        refused = _judged(fitted)
        if refused.refusal is None:
            return refused
    best = cell.settings[cell.losses.argmin()]
    ends = np.flatnonzero((best <= cell.span[0]) | (best >= cell.span[1]))
    if ends.size:
        return _at_edge(cell, int(ends[0]), bool(best[ends[0]] >= cell.span[1, ends[0]]))
    near = int((cell.losses <= cell.losses.min() * (1 + WINDOWS[-1])).sum())
    return refused or cell.refused(
        "too_few_points",
        f"{near} of {len(cell.losses)} runs within {WINDOWS[-1]:.0%} of the best, not enough",
    )


def redrawn(cell: Cell, draws: int, rng: np.random.Generator) -> Floats:
    """Logs of the minimum (m, k) with the runs' residuals drawn anew, kept to the runs' span."""
    assert cell.coef is not None
    matrix = quadratic(cell.settings - cell.center)
    n, p = matrix.shape
    inverse, line = np.linalg.pinv(matrix).T, matrix @ cell.coef
    residuals = (cell.losses - line) * math.sqrt(n / (n - p))
    blocks = np.array_split(np.arange(draws), math.ceil(draws * n / DRAWN_AT_ONCE))
    lenders = (rng.integers(0, n, size=(len(block), n)) for block in blocks)
    coef = np.concatenate([(line + residuals[lender]) @ inverse for lender in lenders])
    place = turning_point(coef, cell.center.size) + cell.center
    place = place[np.isfinite(place).all(axis=1)]
    # An accepted cell loses a few draws in a hundred to a concave surface: others stand in.
    place = place[rng.integers(0, len(place), size=draws)]
    return np.clip(place, *cell.span)

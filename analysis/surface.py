"""Loss surfaces L(N, D) as sums of power laws, many at once.

ln L = logsumexp over terms, each term linear in the coefficients: the intercepts are the logs of
E, A, B at the centre of the runs, the slopes are exponents. Everywhere m is the number of surfaces,
n of runs, p of coefficients.

Source: Hoffmann et al. 2022, arXiv:2203.15556, eq. 10 and sec. D.2; Besiroglu et al. 2024,
arXiv:2404.10102.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from analysis.law import Floats

# Published exponents are .05 to .8; a coefficient at these bounds is not identified.
EXPONENTS = (0.01, 3.0)


@dataclass(frozen=True)
class Entry:
    """coefficient `coef` times feature `feature` is a part of term `term`."""

    coef: int
    term: int
    feature: str


@dataclass(frozen=True)
class Surface:
    """A family of surfaces. `names` name the coefficients, intercepts first, one a term.

    Features are 1, x = -ln N, y = -ln D (both about the centre of the runs) and xy. Coefficients
    from `repeats` on (none where it is None) are logs of the constants of repeated data and act
    through x and y.
    """

    name: str
    names: tuple[str, ...]
    entries: tuple[Entry, ...]
    exponents: tuple[int, ...]
    repeats: int | None
    source: str


_CHINCHILLA = (Entry(0, 0, "1"), Entry(1, 1, "1"), Entry(2, 2, "1"))
_SEPARATE = (*_CHINCHILLA, Entry(3, 1, "x"), Entry(4, 2, "y"))

# What is fitted by name: a row here is a law on the command line.
SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface(
            "parametric",
            ("log_E", "log_A", "log_B", "alpha", "beta"),
            _SEPARATE,
            (3, 4),
            None,
            "Hoffmann et al. 2022, arXiv:2203.15556, eq. 10",
        ),
        Surface(
            "tied",
            ("log_E", "log_A", "log_B", "alpha"),
            (*_CHINCHILLA, Entry(3, 1, "x"), Entry(3, 2, "y")),
            (3,),
            None,
            "Gadre et al. 2024, arXiv:2403.08540, eq. 4: one exponent for over-training",
        ),
        Surface(
            "farseer",
            ("log_E", "log_A", "log_B", "alpha", "beta", "kappa", "gamma"),
            (*_SEPARATE, Entry(5, 2, "x"), Entry(6, 2, "xy")),
            (3, 4),
            None,
            "after Li et al. 2025, arXiv:2506.10972: the exponent and the coefficient of D vary "
            "with N, here as the logs' first order, E + A/N^alpha + B N^-kappa D^-(beta-gamma lnN)",
        ),
        Surface(
            "data-constrained",
            ("log_E", "log_A", "log_B", "alpha", "beta", "log_RD", "log_RN"),
            _SEPARATE,
            (3, 4),
            5,
            "Muennighoff et al. 2023, arXiv:2305.16264, eq. 5 and 11",
        ),
    )
}


@dataclass(frozen=True, eq=False)
class Sizes:
    """Where runs stand: ln N, ln D, ln of the unique tokens, each (n,) or (m, n); the centre."""

    log_n: Floats
    log_d: Floats
    log_u: Floats
    center: tuple[float, float]

    def rows(self, chosen: npt.NDArray[Any]) -> "Sizes":
        """Some of the runs, about the same centre; `chosen` is a mask or places."""
        parts = (self.log_n[chosen], self.log_d[chosen], self.log_u[chosen])
        return Sizes(*parts, self.center)


def sizes_of(rows: pl.DataFrame) -> Sizes:
    """Logs of the runs' sizes, about their means; unique tokens are all tokens where not said."""
    unique = "unique_tokens" if "unique_tokens" in rows.columns else "tokens"
    log_n, log_d, log_u = (rows[name].log().to_numpy() for name in ("params", "tokens", unique))
    return Sizes(log_n, log_d, log_u, (float(log_n.mean()), float(log_d.mean())))


def _saturating(ratio: Floats, log_r: Floats) -> tuple[Floats, Floats]:
    """ln of 1 + R (1 - exp(-ratio / R)), R = exp(log_r), and its derivative in log_r."""
    r = np.exp(log_r)
    decay = np.exp(-ratio / r)
    value = 1 + r * (1 - decay)
    return np.log(value), (r * (1 - decay) - ratio * decay) / value


def _features(
    surface: Surface, sizes: Sizes, theta: Floats
) -> tuple[dict[str, Floats], list[tuple[int, str, Floats]]]:
    """Features (m or 1, n); and where data repeat, how x and y move with the coefficients.

    D' = U (1 + R_D (1 - exp(-(D/U - 1) / R_D))); N' likewise about the N for which U unique tokens
    are optimal, alpha A N^-alpha = beta B U^-beta.
    """
    log_n, log_d, log_u = map(np.atleast_2d, (sizes.log_n, sizes.log_d, sizes.log_u))
    slopes: list[tuple[int, str, Floats]] = []
    if surface.repeats is not None:
        unique = np.minimum(log_u, log_d)
        rd, rn = surface.repeats, surface.repeats + 1
        gain, slope = _saturating(np.exp(log_d - unique) - 1, theta[:, rd, None])
        log_d = unique + gain
        slopes.append((rd, "y", -slope))
        base, pulls = _optimal_params(sizes, theta)
        base = np.minimum(base, log_n)
        ratio = np.exp(log_n - base) - 1
        gain, slope = _saturating(ratio, theta[:, rn, None])
        kept = 1 - np.exp(-ratio / np.exp(theta[:, rn, None])) * (1 + ratio) / np.exp(gain)
        log_n = base + gain
        slopes.append((rn, "x", -slope))
        slopes += [(i, "x", -kept * pull) for i, pull in pulls]
    x, y = sizes.center[0] - log_n, sizes.center[1] - log_d
    return {"1": np.ones((1, 1)), "x": x, "y": y, "xy": x * y}, slopes


def _optimal_params(sizes: Sizes, theta: Floats) -> tuple[Floats, list[tuple[int, Floats]]]:
    """ln N (m, n) for which the unique tokens are optimal, and its derivatives by coefficient."""
    a, b, alpha, beta = (theta[:, i, None] for i in (1, 2, 3, 4))
    y = sizes.center[1] - np.atleast_2d(sizes.log_u)
    q = np.log(beta / alpha) + b - a + beta * y
    pulls = [(1, 1 / alpha), (2, -1 / alpha), (3, (q + 1) / alpha**2)]
    return sizes.center[0] - q / alpha, [*pulls, (4, -(1 / beta + y) / alpha)]


def evaluate(
    surface: Surface, sizes: Sizes, theta: Floats, *, jacobian: bool = False
) -> tuple[Floats, Floats]:
    """ln L (m, n), and where asked its Jacobian (m, n, p) in the coefficients `theta` (m, p)."""
    features, slopes = _features(surface, sizes, theta)
    terms = 1 + max(entry.term for entry in surface.entries)
    values: list[Any] = [0.0] * terms
    for e in surface.entries:
        values[e.term] = values[e.term] + theta[:, e.coef, None] * features[e.feature]
    top = reduce(np.maximum, values)
    shares = [np.exp(value - top) for value in values]
    total = reduce(np.add, shares)
    log_loss: Floats = top + np.log(total)
    if not jacobian:
        return log_loss, log_loss
    out = np.zeros((*log_loss.shape, theta.shape[1]))
    for e in surface.entries:
        share = shares[e.term] / total
        out[..., e.coef] += share * features[e.feature]
        for coef, feature, slope in slopes:
            if feature == e.feature:
                out[..., coef] += share * theta[:, e.coef, None] * slope
    return log_loss, out


def clip(surface: Surface, theta: Floats) -> Floats:
    """Coefficients within what is searched."""
    out = theta.copy()
    out[:, surface.exponents] = np.clip(out[:, surface.exponents], *EXPONENTS)
    out[:, :3] = np.clip(out[:, :3], -30.0, 30.0)
    if surface.repeats is not None:
        out[:, surface.repeats :] = np.clip(out[:, surface.repeats :], np.log(0.1), np.log(1e3))
    return out

"""A power law of one knob over size, tokens or compute, in the form that cells left out choose.

Source: Li et al. 2025, arXiv:2503.04715 (forms in N and D); DeepSeek-AI 2024, arXiv:2401.02954,
eq. 1 (forms in C). Legend: n cells, m bootstrap draws, p coefficients of a law.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.hyper.surface import KNOBS, Cell
from analysis.law import Floats, NotEnough

# The sizes that each form of law multiplies, each to its own power.
FORMS = {"N,D": ("params", "tokens"), "C": ("flops",), "D": ("tokens",), "N": ("params",)}
# Cells more than coefficients that a fit takes before the cells above it are predicted.
SPARE_CELLS = 4


@dataclass(frozen=True)
class Rule:
    """ln of a knob = ln coefficient + exponents @ ln sizes, the sizes as FORMS has them."""

    form: str
    coefficient: float
    exponents: tuple[float, ...]

    def log_value(self, sizes: Mapping[str, float]) -> float:
        """ln of the knob; NaN where a size is not known."""
        logs = (math.log(sizes[name]) for name in FORMS[self.form])
        powers = (e * log for e, log in zip(self.exponents, logs, strict=True))
        return math.log(self.coefficient) + sum(powers)


# N without embeddings, batch in tokens; DeepSeek's C counts attention, not embeddings.
PUBLISHED = {
    "StepLaw": {
        "lr": Rule("N,D", 1.79, (-0.713, 0.307)),
        "batch_tokens": Rule("D", 0.58, (0.571,)),
    },
    "DeepSeek": {
        "lr": Rule("C", 0.3118, (-0.1250,)),
        "batch_tokens": Rule("C", 0.2920, (0.3271,)),
    },
}


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """The law of one knob, `draws` (m, p) of its log coefficient and exponents.

    `left_out` has for each form the root mean square error of ln knob in cells left out of the fit;
    `left_out_values` (n,) is what the chosen form says of each such cell. `between` is a pool of
    what cells differ from the law by, beyond the noise of their runs; `stretch` how much further
    off than it expected a fit of the smaller cells was in the larger ones (None: too few cells).
    """

    knob: str
    rule: Rule
    draws: Floats
    left_out: dict[str, float]
    left_out_values: Floats
    residuals: Floats
    between: Floats
    stretch: float | None


def sizes_of(cell: Cell) -> dict[str, float]:
    return {"params": cell.params, "tokens": cell.tokens, "flops": cell.flops}


def columns(sizes: Sequence[Mapping[str, float]], form: str) -> Floats:
    """Columns 1 and ln of the sizes of a form (n, p)."""
    logs = [[1.0, *(math.log(each[name]) for name in FORMS[form])] for each in sizes]
    return np.array(logs, dtype=np.float64)


def _left_out(matrix: Floats, y: Floats) -> Floats:
    """Errors (n,) of each y predicted without it; infinite where the fit needs it."""
    hat = matrix @ np.linalg.pinv(matrix)
    free = 1 - np.diag(hat)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(free > 1e-9, (y - hat @ y) / free, np.inf)


def _candidates(known: Sequence[Cell], y: Floats) -> dict[str, float]:
    """Left-out error of every form that the cells identify, best first."""
    found: dict[str, float] = {}
    for form in FORMS:
        matrix = columns([sizes_of(cell) for cell in known], form)
        n, p = matrix.shape
        if not np.isfinite(matrix).all() or n <= p or np.linalg.matrix_rank(matrix) < p:
            continue
        found[form] = math.sqrt(float(np.mean(_left_out(matrix, y) ** 2)))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _between(residuals: Floats, p: int, run_variance: float) -> Floats:
    """Residuals of cells scaled to the part of their variance that is not noise of their runs.

    They are stretched as Student's t is wider than the normal, their scale being itself a guess.
    """
    n, square = len(residuals), float(np.mean(residuals**2))
    variance = max(square * n / (n - p) - run_variance, 0.0)
    if variance == 0:
        return np.zeros(1)
    student = float(stats.t.ppf(0.975, n - p) / stats.norm.ppf(0.975))
    return (residuals - residuals.mean()) * math.sqrt(variance / square) * student


def _stretch(matrix: Floats, y: Floats) -> float | None:
    """Root mean square of rolling-origin errors over the deviation that regression expects.

    Cells stand by compute; each origin fits those below and predicts all above, so the leverage
    that the expectation grows by is the distance extrapolated.
    """
    scores: list[float] = []
    n, p = matrix.shape
    for j in range(p + SPARE_CELLS, n):
        if np.linalg.matrix_rank(matrix[:j]) < p:
            continue
        inverse = np.linalg.pinv(matrix[:j])
        coef = inverse @ y[:j]
        variance = float(np.sum((y[:j] - matrix[:j] @ coef) ** 2)) / (j - p)
        leverage = ((matrix[j:] @ inverse) ** 2).sum(axis=1)
        scores += ((y[j:] - matrix[j:] @ coef) ** 2 / (variance * (1 + leverage))).tolist()
    return max(1.0, math.sqrt(float(np.mean(scores)))) if scores else None


def power_law(
    known: Sequence[Cell], knob: int, noise: Floats, rng: np.random.Generator
) -> PowerLaw:
    """The law of a knob in its best form; `noise` (m, n) is what runs do to the cells' minima."""
    y = np.array([cell.optimum[knob] for cell in known if cell.optimum is not None])
    errors = _candidates(known, y)
    if not errors:
        raise NotEnough(
            f"the {len(known)} usable cells have one size; train cells of other sizes or tokens"
        )
    form = next(iter(errors))
    matrix = columns([sizes_of(cell) for cell in known], form)
    inverse = np.linalg.pinv(matrix)
    coef = inverse @ y
    residuals = y - matrix @ coef
    between = _between(residuals, len(coef), float(noise.var(axis=0).mean()))
    drawn = matrix @ coef + noise + rng.choice(between, size=noise.shape)
    return PowerLaw(
        knob=KNOBS[knob],
        rule=Rule(form, math.exp(coef[0]), tuple(coef[1:].tolist())),
        draws=drawn @ inverse.T,
        left_out=errors,
        left_out_values=y - _left_out(matrix, y),
        residuals=residuals,
        between=between,
        stretch=_stretch(matrix, y),
    )

"""The best learning rate and batch size: laws through the minima of cells, and what they cost.

Legend: n cells, k knobs (lr, or lr and batch_tokens).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.hyper.cells import cells
from analysis.hyper.laws import FORMS, PUBLISHED, PowerLaw, Rule, power_law, sizes_of
from analysis.hyper.surface import KNOBS, Cell, redrawn
from analysis.law import Diagnostic, Excluded, Floats, NotEnough, finite, quantiles, scientific

CELLS_NEEDED = 3
OWN = "this law"


@dataclass(frozen=True)
class Excess:
    """What a law's setting costs in a cell: its surface there less its minimum, nats/token.

    Outside (`inside` false) the runs that the surface stands on, it is extrapolated.
    """

    law: str
    params: float
    tokens: float
    flops: float
    lr: float
    batch_tokens: float | None
    excess: float
    inside: bool


@dataclass(frozen=True)
class Setting:
    """A knob as a law has it for one shape, with 95 % bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Hyper:
    """Fitted laws, one a knob; the cells they run through, with `spread` (2, n, k) of their minima.

    `spread` holds the 95 % bounds, in logs. In `excess` this law's settings are those of the fit
    without the cell that is scored.
    """

    laws: tuple[PowerLaw, ...]
    cells: tuple[Cell, ...]
    spread: Floats
    excess: tuple[Excess, ...]
    excluded: tuple[Excluded, ...]
    diagnostics: tuple[Diagnostic, ...]
    params_convention: str


def _score(name: str, cell: Cell, settings: Floats) -> Excess:
    assert cell.loss is not None
    return Excess(
        law=name,
        **sizes_of(cell),
        lr=math.exp(settings[0]),
        batch_tokens=math.exp(settings[1]) if len(settings) > 1 else None,
        excess=float(cell(settings)) - cell.loss,
        inside=bool(((settings >= cell.span[0]) & (settings <= cell.span[1])).all()),
    )


def excess(laws: Mapping[str, Mapping[str, Rule]], known: Sequence[Cell]) -> Iterator[Excess]:
    """What each law costs in each cell that has a minimum and the sizes that the law takes."""
    for name, rules in laws.items():
        for cell in known:
            knobs = KNOBS[: cell.center.size]
            settings = np.array([rules[knob].log_value(sizes_of(cell)) for knob in knobs])
            if cell.refusal is None and np.isfinite(settings).all():
                yield _score(name, cell, settings)


def _not_enough(known: Sequence[Cell], refusals: Sequence[Diagnostic]) -> NotEnough:
    good = ", ".join(str(cell) for cell in known) or "none"
    first = {refusal.name: refusal for refusal in reversed(refusals)}
    counts = Counter(refusal.name for refusal in refusals)
    bad = "; ".join(f"{counts[name]} {first[name]}" for name in sorted(first))
    return NotEnough(
        f"{len(known)} usable cells ({good}), {CELLS_NEEDED} are needed; "
        f"{bad or 'no other cell has a finished run'}; "
        "sweep lr (and batch_tokens) around the minimum at more sizes"
    )


def _doubts(known: Sequence[Cell], laws: Sequence[PowerLaw]) -> Iterator[Diagnostic]:
    if len(laws) < len(KNOBS):
        why = "every cell has one batch: a law of lr alone, for the batches that were tried"
        yield Diagnostic("batch_not_swept", why)
    for law in laws:
        if law.stretch is None:
            why = f"{len(known)} cells are too few to test the law of {law.knob} on larger ones"
            yield Diagnostic("not_backtested", why)


def fit(
    points: pl.DataFrame,
    *,
    draws: int = 1000,
    seed: int = 0,
    params_convention: str = "params_active",
) -> Hyper:
    """Fit lr*(N, D) and batch*(N, D), or in C, D or N alone, through the minima of the cells.

    Columns as of `hyper_cells.cells`. The form of each law is the one with the least error in
    cells left out; draws are over runs and over cells. Raises NotEnough below 3 usable cells.
    """
    judged, excluded = cells(points)
    known = tuple(cell for cell in judged if cell.refusal is None)
    refusals = [cell.refusal for cell in judged if cell.refusal]
    if len(known) < CELLS_NEEDED:
        raise _not_enough(known, refusals)
    rng = np.random.default_rng(seed)
    places = np.stack([redrawn(cell, draws, rng) for cell in known], axis=1)
    noise = places - np.array([cell.optimum for cell in known])
    knobs = range(places.shape[2])
    laws = tuple(power_law(known, i, noise[..., i], rng) for i in knobs)
    settings = np.stack([law.left_out_values for law in laws], axis=1)
    own = [_score(OWN, cell, place) for cell, place in zip(known, settings, strict=True)]
    return Hyper(
        laws=laws,
        cells=known,
        spread=quantiles(places),
        excess=(*own, *excess(PUBLISHED, known)),
        excluded=excluded,
        diagnostics=(*refusals, *_doubts(known, laws)),
        params_convention=params_convention,
    )


def predict(fitted: Hyper, sizes: Mapping[str, float]) -> dict[str, Setting]:
    """Each knob for `sizes` (params, tokens, flops; those that the laws take), with its interval.

    The bounds are of a further cell, not of the law's line; above the largest cell they are wider
    by how far off fits of the smaller cells were. A law whose sizes are not given is left out.
    """
    found: dict[str, Setting] = {}
    for i, law in enumerate(fitted.laws):
        logs = [math.log(sizes.get(name, math.nan)) for name in FORMS[law.rule.form]]
        if not all(math.isfinite(log) for log in logs):
            continue
        center = math.log(law.rule.coefficient) + float(np.dot(law.rule.exponents, logs))
        cell = np.random.default_rng(i).choice(law.between, size=len(law.draws))
        drawn = law.draws @ np.array([1.0, *logs]) + cell - center
        beyond = sizes.get("flops", math.inf) > max(known.flops for known in fitted.cells)
        low, high = quantiles(drawn) * ((law.stretch or 1.0) if beyond else 1.0)
        found[law.knob] = Setting(*(math.exp(center + float(d)) for d in (0.0, low, high)))
    return found


def _shape(known: Sequence[Cell], target: float) -> tuple[dict[str, float], Diagnostic | None]:
    """Params and tokens at a budget by the cells' own mean ratio of tokens to params."""
    sizes = np.array([(cell.params, cell.tokens, cell.flops) for cell in known])
    if not np.isfinite(sizes).all():
        return {"flops": target}, None
    ratios = sizes[:, 1] / sizes[:, 0]
    ratio = float(np.exp(np.log(ratios).mean()))
    params = math.sqrt(target / ratio / float(np.median(sizes[:, 2] / sizes[:, 0] / sizes[:, 1])))
    why = (
        f"{scientific(params)} params x {scientific(params * ratio)} tokens, by the cells' mean of "
        f"{ratio:.3g} tokens a parameter ({ratios.min():.3g} to {ratios.max():.3g} in the cells)"
    )
    shape = {"params": params, "tokens": params * ratio, "flops": target}
    return shape, Diagnostic("shape_at_target", why)


def _optimum(fitted: Hyper, target: float) -> tuple[dict[str, float], list[Diagnostic]]:
    """Settings at a budget, the shape they are for, and what was assumed to have it."""
    shape, assumed = _shape(fitted.cells, target)
    settings = predict(fitted, shape)
    said = [assumed] if assumed and any(law.rule.form != "C" for law in fitted.laws) else []
    for law in fitted.laws:
        if law.knob not in settings:
            why = f"the law of {law.knob} is in {law.rule.form}, which FLOPs alone do not give"
            said.append(Diagnostic("no_shape_at_target", f"{why}; add params and tokens"))
    found: dict[str, float] = {}
    for knob, at in settings.items():
        found |= {knob: at.value, f"{knob}_low": at.low, f"{knob}_high": at.high}
    return found | shape if found else {}, said


def _coefficients(law: PowerLaw) -> dict[str, tuple[float, float, float, float]]:
    """Value, standard error and 95 % bounds of each coefficient of a law, by name."""
    drawn = np.column_stack([np.exp(law.draws[:, 0]), law.draws[:, 1:]])
    names = ["coefficient", *(f"{size}_exponent" for size in FORMS[law.rule.form])]
    values = (law.rule.coefficient, *law.rule.exponents)
    bounds = quantiles(drawn).T.tolist()
    errors = drawn.std(axis=0).tolist()
    parts = zip(names, values, errors, bounds, strict=True)
    return {f"{law.knob}_{name}": (v, se, low, high) for name, v, se, (low, high) in parts}


def cell_rows(fitted: Hyper) -> list[dict[str, float | None]]:
    """The minimum of each cell with its 95 % bounds, loss, window and number of runs."""
    rows: list[dict[str, float | None]] = []
    for i, cell in enumerate(fitted.cells):
        assert cell.optimum is not None
        row: dict[str, float | None] = {k: finite(v) for k, v in sizes_of(cell).items()}
        for j, knob in enumerate(KNOBS[: cell.optimum.size]):
            low, high = np.exp(fitted.spread[:, i, j]).tolist()
            row |= {knob: math.exp(cell.optimum[j]), f"{knob}_low": low, f"{knob}_high": high}
        rows.append(row | {"loss": cell.loss, "window": cell.window, "runs": len(cell.losses)})
    return rows


def excess_rows(fitted: Hyper) -> list[dict[str, str | float | None]]:
    """What each law costs over all cells, nats/token, and in how many it is extrapolated."""
    rows: list[dict[str, str | float | None]] = []
    for name in (OWN, *PUBLISHED):
        costs = [each for each in fitted.excess if each.law == name]
        if costs:
            values = [each.excess for each in costs]
            row = {"mean": float(np.mean(values)), "worst": max(values), "cells": len(costs)}
            rows.append({"law": name, **row, "outside": sum(not each.inside for each in costs)})
    return rows


def answer(fitted: Hyper, target: float | None) -> dict[str, Any]:
    """The fit as plain JSON data, with the settings at a target of so many FLOPs."""
    coefs = {k: v for law in fitted.laws for k, v in _coefficients(law).items()}
    optimum, assumed = _optimum(fitted, target) if target else ({}, [])
    return {
        "law": "lr-batch",
        "params_convention": fitted.params_convention,
        "coef": {name: value for name, (value, *_) in coefs.items()},
        "se": {name: finite(error) for name, (_, error, *_) in coefs.items()},
        "interval": {
            name: [finite(low), finite(high)] for name, (_, _, low, high) in coefs.items()
        },
        "optimum": {name: finite(value) for name, value in optimum.items()} or None,
        "excluded": [{"row": each.run_id, "reason": each.reason} for each in fitted.excluded],
        "diagnostics": [
            {"name": each.name, "detail": each.detail} for each in (*fitted.diagnostics, *assumed)
        ],
        "objective": float(sum(np.sum(law.residuals**2) for law in fitted.laws)),
        "rows": sum(len(cell.losses) for cell in fitted.cells),
        "forms": {
            law.knob: {
                "chosen": law.rule.form,
                "left_out_error": law.left_out,
                "stretch": law.stretch,
            }
            for law in fitted.laws
        },
        "cells": cell_rows(fitted),
        "excess": excess_rows(fitted),
    }

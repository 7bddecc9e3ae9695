"""Simulated ablations over a ladder: losses E + K C^-g, and what their multipliers truly are."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

Law = tuple[float, float, float]

BASE: Law = (1.8, 0.9 * 1e18**0.15, 0.15)


def loss(law: Law, budget: float) -> float:
    floor, scale, exponent = law
    return floor + scale * budget**-exponent


def crossing(budget: float, exponent: float, floor: float = BASE[0]) -> Law:
    """A law that has the loss of BASE at `budget`."""
    return floor, (loss(BASE, budget) - floor) * budget**exponent, exponent


def log_multiplier(law: Law, budget: float) -> float:
    """ln of how many times `budget` BASE must spend to have the law's loss there."""
    floor, scale, exponent = BASE
    return math.log((scale / (loss(law, budget) - floor)) ** (1 / exponent) / budget)


def ladder(
    variants: Mapping[str, Law],
    *,
    budgets: Sequence[float],
    seeds: int = 3,
    noise: float = 0.0,
    luck: float = 0.0,
    rng_seed: int = 0,
    base: Law = BASE,
) -> pl.DataFrame:
    """Runs of a baseline and its variants: `noise` of a run, `luck` of a seed at a budget."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for budget in budgets:
        for seed in range(seeds):
            shared = luck * rng.normal()
            for level, law in {"base": base, **variants}.items():
                row = {"axis": "position", "level": level, "baseline": level == "base"}
                row |= {"budget": budget, "seed": seed, "run_id": f"{level}/{budget:g}/{seed}"}
                rows.append(row | {"loss": loss(law, budget) + shared + noise * rng.normal()})
    return pl.DataFrame(rows)

"""Simulated mixing studies, and the public ones as the project's own columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from analysis.law import Floats

DOMAINS = ("web", "code", "books")
# L_i = E_i + 1 / sum_j C_ij s_j^gamma_ij; a domain helps its own loss most.
FLOORS = (2.0, 1.0, 2.5)
HELP = np.array([[1.2, 0.2, 0.5], [0.3, 1.6, 0.1], [0.5, 0.1, 0.9]])
GAMMAS = np.array([[0.5, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.6]])


def losses(weights: Floats) -> Floats:
    """Losses (q, 3) of mixtures (q, 3)."""
    terms = HELP * weights[:, None, :] ** GAMMAS
    return np.array(FLOORS) + 1 / terms.sum(axis=-1)


def weights(runs: int, *, seed: int = 0, domains: int = 3) -> Floats:
    """Mixtures (runs, domains), even on the simplex."""
    return np.random.default_rng(seed).dirichlet(np.ones(domains), size=runs)


def frame(mixtures: Floats, measured: Floats, domains: Sequence[str] = DOMAINS) -> pl.DataFrame:
    """A run a mixture, in the columns of a study."""
    parts = {f"weight/{name}": mixtures[:, i] for i, name in enumerate(domains)}
    return pl.DataFrame(parts | {f"loss/{name}": measured[:, i] for i, name in enumerate(domains)})


def study(runs: int = 40, *, noise: float = 0.005, seed: int = 0) -> pl.DataFrame:
    """Runs whose three losses follow the additive law, with relative noise."""
    mixtures = weights(runs, seed=seed)
    scatter = 1 + noise * np.random.default_rng(seed + 10_000).normal(size=(runs, 3))
    return frame(mixtures, losses(mixtures) * scatter)


def regmix(folder: Path, split: str, size: str, losses: Sequence[str] = ()) -> pl.DataFrame:
    """RegMix's runs of one size, with all losses or those named."""
    parts = pl.read_csv(folder / f"regmix_{split}_mixture_{size}.csv")
    measured = pl.read_csv(folder / f"regmix_{split}_pile_loss_{size}.csv")
    names: Mapping[str, str] = {
        name: name.replace("train_the_pile_", "weight/") for name in parts.columns
    } | {
        name: name.replace("metric/the_pile_", "loss/").removesuffix("_val_loss")
        for name in measured.columns
    }
    # The two files of a size share an index, from 0 or from 1.
    table = parts.join(measured, on="index", validate="1:1").drop("index")
    table = table.rename({old: new for old, new in names.items() if old != "index"})
    kept = [f"loss/{name}" for name in losses] or [n for n in table.columns if n[:5] == "loss/"]
    return table.select(pl.col("^weight/.*$"), *kept)


def scalebench(folder: Path, split: str, group: str) -> pl.DataFrame:
    """Five domains at one size: 20 runs to fit, 6 held out."""
    table = pl.read_csv(folder / "scalebench_domain_mixture_scaling_law.csv")
    names = {f"proportion_domain_{i}": f"weight/{i}" for i in range(1, 6)}
    names |= {f"loss_domain_{i}": f"loss/{i}" for i in range(1, 6)}
    return table.filter(split=split, group=group).select(
        pl.col(old).alias(new) for old, new in names.items()
    )

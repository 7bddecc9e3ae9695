"""Which mixture of data to train on: a law for each loss from small runs, and the least of them.

The runs are of one size; `weight/DOMAIN` are the parts of their data, `loss/DOMAIN` what they
measured. Legend: n runs, J data domains, K losses, q mixtures.
"""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from analysis.law import Diagnostic, Excluded, Floats, NotEnough, quantiles, scientific
from analysis.mixture import best as best_mixture
from analysis.mixture import laws as mixing_laws
from analysis.mixture import runs as mixture_runs
from analysis.mixture.best import Laws, Optimum

# Half of the least weight tried stands for zero, but never more than this.
LARGEST_FLOOR = 0.01
# Robust standard deviations, in the median of its losses, above what the other runs say of a run.
SPOILT = 8.0
# Replicates by seed scatter no less, so a run that is off by less than 8 times this is no outlier.
LEAST_SPREAD = 0.002


@dataclass(frozen=True, eq=False)
class MixtureFit:
    """Laws of the losses, and the optimum of their mean, weighed by `objective` (K,) of sum 1.

    `weights` (n, J) sum to 1, `losses` are (n, K).
    """

    domains: tuple[str, ...]
    loss_domains: tuple[str, ...]
    run_ids: tuple[str, ...]
    weights: Floats
    losses: Floats
    objective: Floats
    laws: Laws
    optimum: Optimum
    excluded: tuple[Excluded, ...]
    diagnostics: tuple[Diagnostic, ...]


def _weighed(losses: Sequence[str], asked: Mapping[str, float] | None) -> Floats:
    """Weight (K,) of each loss in the mean; all alike unless asked otherwise."""
    given = dict.fromkeys(losses, 1.0) if asked is None else asked
    if unknown := sorted(set(given) - set(losses)):
        raise NotEnough(f"the runs have no loss/{unknown[0]}; choose from {', '.join(losses)}")
    parts = np.array([given.get(name, 0.0) for name in losses])
    if not (np.isfinite(parts).all() and (parts >= 0).all() and parts.any()):
        raise NotEnough(f"objective={dict(given)} is no mean; give numbers >= 0, one of them above")
    return parts / parts.sum()


def _fitted(weights: Floats, losses: Floats, draws: int, seed: int) -> Laws:
    """The chosen law of every loss (n, K), and its draws."""
    floor = min(LARGEST_FLOOR, float(weights[weights > 0].min()) / 2)
    mixture = np.unique(weights, axis=0, return_inverse=True)[1].ravel()
    at, fold = best_mixture.shares(weights, floor), mixing_laws.folds(mixture, seed)
    log_losses = np.log(losses)
    laws = tuple(mixing_laws.choose(at, log_loss, fold) for log_loss in log_losses.T)
    return best_mixture.bootstrap(laws, log_losses, mixture, floor=floor, draws=draws, seed=seed)


def _spoilt(laws: Laws, losses: Floats, run_ids: Sequence[str]) -> dict[int, Excluded]:
    """Runs, by index, whose losses lie together far above what the other runs say of them.

    One loss alone may lie far off where the law is at fault, half of them only where the run is.
    """
    missed = np.log(losses) - np.stack([law.held_out for law in laws.laws], axis=1)
    middle: Floats = np.abs(missed - np.median(missed, axis=0))
    spread = np.maximum(np.median(middle, axis=0) / stats.norm.ppf(0.75), LEAST_SPREAD)
    off, above = np.median(missed / spread, axis=1), np.expm1(np.median(missed, axis=1))
    return {
        i: Excluded(
            run_ids[i],
            f"spoilt: loss {above[i]:.0%} above what the other runs say of its mixture, "
            f"{off[i]:.0f} robust standard deviations",
        )
        for i in np.flatnonzero(off > SPOILT).tolist()
    }


def fit(
    points: pl.DataFrame,
    *,
    objective: Mapping[str, float] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> MixtureFit:
    """Fit every `loss/DOMAIN` to the `weight/DOMAIN`s and seek the mixture of least mean loss.

    `objective` weighs the losses by DOMAIN, all alike by default. Weights are scaled to sum 1.
    Raises NotEnough for missing columns, too few mixtures, several sizes or an unknown loss.
    """
    weight_names = mixture_runs.named(points, "weight")
    loss_names = mixture_runs.named(points, "loss")
    loss_domains = tuple(name.removeprefix("loss/") for name in loss_names)
    parts = _weighed(loss_domains, objective)
    rows, excluded = mixture_runs.usable(points, weight_names, loss_names)
    mixture_runs.require(rows, weight_names, excluded)
    weights, losses = rows.select(weight_names).to_numpy(), rows.select(loss_names).to_numpy()
    weights = weights / weights.sum(axis=1, keepdims=True)
    laws = _fitted(weights, losses, draws, seed)
    if spoilt := _spoilt(laws, losses, rows["run_id"].to_list()):
        excluded += tuple(spoilt.values())
        sound = np.delete(np.arange(len(rows)), list(spoilt))
        rows, weights, losses = rows[sound], weights[sound], losses[sound]
        mixture_runs.require(rows, weight_names, excluded)
        laws = _fitted(weights, losses, draws, seed)
    domains = tuple(name.removeprefix("weight/") for name in weight_names)
    optimum = best_mixture.best(laws, parts, weights, seed)
    doubts = _edges(optimum, weights, domains) + _doubts(optimum, laws, losses, loss_domains)
    return MixtureFit(
        domains=domains,
        loss_domains=loss_domains,
        run_ids=tuple(rows["run_id"].to_list()),
        weights=weights,
        losses=losses,
        objective=parts,
        laws=laws,
        optimum=optimum,
        excluded=excluded,
        diagnostics=tuple(doubts),
    )


def _edges(optimum: Optimum, tried: Floats, domains: Sequence[str]) -> list[Diagnostic]:
    """Where the optimum leans on the limits of what was tried."""
    found: list[Diagnostic] = []
    if optimum.outside > 0.01:
        why = f"{optimum.outside:.0%} of the mixture lies beyond every blend of the mixtures tried"
        found.append(Diagnostic("outside_the_runs", why))
    bounds = zip(domains, optimum.weights, tried.min(axis=0), tried.max(axis=0), strict=True)
    for domain, weight, least, most in bounds:
        end, size = ("most", most) if weight > (least + most) / 2 else ("least", least)
        # Nothing lies below zero, and a domain that never varied has no edge.
        if abs(weight - size) < 1e-4 and size > 0 and most > least:
            why = f"{domain} is at the {end} tried, {size:.3g}; run mixtures beyond it"
            found.append(Diagnostic("weight_at_edge", why))
    return found


def _doubts(
    optimum: Optimum, laws: Laws, losses: Floats, loss_domains: Sequence[str]
) -> list[Diagnostic]:
    """Losses that no model predicts, and an optimum that may be no better than what was tried."""
    found: list[Diagnostic] = []
    for name, law, spread in zip(loss_domains, laws.laws, np.log(losses).std(axis=0), strict=True):
        if law.errors[law.model] > 0.9 * spread:
            why = f"loss/{name} is predicted no better than by its mean; do not trust its part"
            found.append(Diagnostic("loss_not_predicted", why))
    if optimum.better < 0.95:
        why = f"better than the best mixture tried with probability {optimum.better:.2f} only"
        found.append(Diagnostic("gain_unsure", why))
    return found


def predict(fit: MixtureFit, weights: Floats) -> Floats:
    """Expected losses (q, K) at mixtures (q, J) of sum 1, in the order of the fit's domains."""
    return np.exp(fit.laws.expected(_mixtures(fit, weights)))


def interval(fit: MixtureFit, weights: Floats, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Bounds (q, K) of what single runs of mixtures (q, J) would measure."""
    drawn = fit.laws.drawn(_mixtures(fit, weights)) + fit.laws.misses[:, None, :]
    low, high = quantiles(np.exp(drawn), level)
    return low, high


def _mixtures(fit: MixtureFit, weights: Floats) -> Floats:
    if weights.ndim != 2 or weights.shape[1] != len(fit.domains):
        raise ValueError(
            f"weights of shape {weights.shape} are no rows of the {len(fit.domains)} domains "
            f"{', '.join(fit.domains)}"
        )
    total = weights.sum(axis=1, keepdims=True)
    if (weights < 0).any() or not (np.abs(total - 1) <= mixture_runs.SUM_TOLERANCE).all():
        raise ValueError(f"weights are to be >= 0 and to sum to 1; they sum to {total.ravel()}")
    return weights / total


def answer(fit: MixtureFit, target: float | None = None) -> dict[str, Any]:
    """The fit as plain JSON data; coefficients are named LOSS/COEFFICIENT/DOMAIN.

    A `target` (FLOPs) changes no number: it is said that the mixture is carried there unproved.
    """
    names, coef, moves = _coefficients(fit)
    low, high = quantiles(moves) + coef
    said = fit.optimum
    by_domain = {
        name: dict(zip(fit.domains, getattr(said, name), strict=True))
        for name in ("weights", "weights_low", "weights_high")
    }
    numbers = {name: getattr(said, name) for name in ("loss", "low", "high", "better", "outside")}
    doubts = list(fit.diagnostics)
    if target is not None:
        why = f"losses are those of the runs' own size; at {scientific(target)} FLOPs the ranking"
        doubts.append(Diagnostic("target_unproved", f"{why} of mixtures is taken to be the same"))
    return {
        "law": "mixture",
        "params_convention": None,
        "coef": dict(zip(names, coef.tolist(), strict=True)),
        "se": dict(zip(names, moves.std(axis=0).tolist(), strict=True)),
        "interval": dict(zip(names, np.stack([low, high], axis=1).tolist(), strict=True)),
        "optimum": by_domain | numbers,
        "excluded": [{"row": e.run_id, "reason": e.reason} for e in fit.excluded],
        "diagnostics": [{"name": d.name, "detail": d.detail} for d in doubts],
        "losses": _at_optimum(fit),
        "objective": dict(zip(fit.loss_domains, fit.objective.tolist(), strict=True)),
        "rows": len(fit.run_ids),
        "floor": fit.laws.floor,
        "models": [
            {"loss": name, "model": law.model, "errors": law.errors}
            for name, law in zip(fit.loss_domains, fit.laws.laws, strict=True)
        ],
    }


def _at_optimum(fit: MixtureFit) -> list[dict[str, Any]]:
    """What each loss is expected to be at the optimum, and what a single run would measure."""
    at = np.array([fit.optimum.weights])
    low, high = interval(fit, at)
    rows = zip(fit.loss_domains, predict(fit, at)[0], low[0], high[0], strict=True)
    return [
        {"name": name, "loss": float(x), "low": float(lo), "high": float(hi)}
        for name, x, lo, hi in rows
    ]


def _coefficients(fit: MixtureFit) -> tuple[list[str], Floats, Floats]:
    """Names, values and draws of the moves (m, p) of the coefficients of all laws, side by side."""
    named = zip(fit.loss_domains, fit.laws.laws, strict=True)
    names = [
        f"{loss}/{name}"
        for loss, law in named
        for name in mixing_laws.MODELS[law.model].names(fit.domains)
    ]
    coef = np.concatenate([law.coef for law in fit.laws.laws])
    return names, coef, np.hstack(fit.laws.moves)

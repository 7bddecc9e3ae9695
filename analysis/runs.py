"""Runs made ready for a law: those that carry evidence, in rungs of compute; the others, named."""

import math
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from analysis import outliers
from analysis.law import Diagnostic, Excluded, Floats

# A run spends a little more or less than its budget; so much more makes it the next rung's.
OVERSPENT = 1.25
MOST = 20_000
# Nats or bits per token or byte; what lies outside is another quantity or a broken run.
LOSSES = (1e-6, 1e6)


@dataclass(frozen=True)
class Ratio:
    """FLOPs of a run over params x tokens: floor + exp(intercept + slope ln N).

    Attention and the output projection add to 6 what falls with size; without them the floor is all
    there is.
    """

    floor: float = 6.0
    intercept: float = -math.inf
    slope: float = 0.0

    def log(self, log_n: Floats) -> Floats:
        """ln of the ratio at sizes of ln N, of any shape."""
        return np.log(self.floor + np.exp(self.intercept + self.slope * log_n))


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs that carry evidence, by rung and size, and what was said in choosing them.

    `frame` has run_id, budget (null where a run was meant for none), rung (the step of the compute
    ladder it stands on), params, tokens, flops, unique_tokens and loss.
    """

    frame: pl.DataFrame
    excluded: tuple[Excluded, ...]
    notes: tuple[Diagnostic, ...]
    ratio: Ratio
    metric: str
    params_convention: str

    @property
    def rungs(self) -> tuple[float, ...]:
        """Steps of the compute ladder in FLOPs, ascending."""
        return tuple(self.frame["rung"].unique().sort().to_list())

    def upto(self, rung: float) -> "Runs":
        """The runs of this rung and those below."""
        return replace(self, frame=self.frame.filter(pl.col("rung") <= rung))

    def column(self, name: str) -> Floats:
        return self.frame[name].to_numpy().astype(np.float64)


def _refusal(state: pl.Expr) -> pl.Expr:
    """Why a row carries no evidence, or null."""
    number = pl.col("loss").is_null() | ~pl.col("loss").is_between(*LOSSES)
    shape = pl.any_horizontal(
        pl.col(name).is_null() | ~(pl.col(name) > 0) | ~pl.col(name).is_finite()
        for name in ("params", "tokens")
    )
    return (
        pl.when(state != "DONE")
        .then(pl.concat_str(pl.lit("state "), state))
        .when(number)
        .then(pl.lit("no finite positive loss"))
        .when(shape)
        .then(pl.lit("no positive params and tokens"))
    )


def usable(points: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """The rows of the size ladder that carry evidence, by budget and size, and those that do not.

    Rows of other designs (column `design`, where there is one) belong to other questions and are
    left out; a run that stands in two trials counts once; without `state` a row counts as DONE.
    """
    number = pl.col("budget", "params", "tokens", "loss").cast(pl.Float64)
    rows = points.with_columns(number, pl.col("run_id").cast(pl.String))
    if "design" in rows.columns:
        ladder = pl.col("design").is_in(["isoflop", "adaptive", "imported"])
        rows = rows.filter(pl.col("design").is_null() | ladder)
    state = pl.col("state").fill_null("PLANNED") if "state" in rows.columns else pl.lit("DONE")
    rows = rows.unique("run_id", keep="first", maintain_order=True).with_columns(
        _refusal(state).alias("refusal")
    )
    refused = rows.filter(pl.col("refusal").is_not_null()).select("run_id", "refusal")
    kept = rows.filter(pl.col("refusal").is_null()).drop("refusal")
    return kept.sort("budget", "params", "run_id"), tuple(
        Excluded(run_id, reason) for run_id, reason in refused.iter_rows()
    )


def _whole(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with flops (6 N D where there are none) and unique tokens (all, where not said)."""
    for name in ("flops", "unique_tokens"):
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.Float64).alias(name))
    counted = pl.col("flops").cast(pl.Float64).fill_null(6 * pl.col("params") * pl.col("tokens"))
    unique = pl.col("unique_tokens").cast(pl.Float64).fill_null(pl.col("tokens"))
    return rows.with_columns(counted, unique)


def _rungs(rows: pl.DataFrame) -> pl.DataFrame:
    """Each run on its step of compute: its budget, or the first budget that its FLOPs fit into.

    Where fewer than three budgets are named, or above the largest, steps are half decades.
    """
    half_decade = 10 ** ((2 * pl.col("flops").log10() - 1e-9).ceil() / 2)
    named = rows["budget"].drop_nulls().unique().sort()
    rung = half_decade
    if len(named) >= 3:
        place = np.searchsorted(named.to_numpy() * OVERSPENT, rows["flops"].to_numpy())
        inside = np.append(named.to_numpy(), np.nan)[place]
        rung = pl.coalesce(pl.col("budget"), pl.Series(inside).fill_nan(None), half_decade)
    return rows.with_columns(rung.alias("rung")).sort("rung", "params", "run_id")


def _ratio(rows: pl.DataFrame) -> tuple[Ratio, tuple[Diagnostic, ...]]:
    """The measured ratio: a constant where it hardly varies, else 6 and an excess that falls."""
    log_n = rows["params"].log().to_numpy()
    ratio = (rows["flops"] / rows["params"] / rows["tokens"]).to_numpy()
    middle = float(np.median(ratio))
    low, high = (float(q) for q in np.quantile(ratio, [0.05, 0.95]))
    found, shown = Ratio(middle), f"{middle:.4g}"
    if high / low > 1.02 and ratio.min() > 6.01 and np.ptp(log_n) > 0.1:
        slope, intercept = (float(c) for c in np.polyfit(log_n, np.log(ratio - 6), 1))
        if slope < 0:
            found, shown = Ratio(6.0, intercept, slope), f"{low:.4g} to {high:.4g}, by size"
    if max(abs(low / 6 - 1), abs(high / 6 - 1)) < 0.01:
        return found, ()
    return found, (Diagnostic("flops_ratio", f"flops / (params x tokens) is {shown}, not 6"),)


def _sampled(rows: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Diagnostic, ...]]:
    """At most MOST of the rows, by lot: beyond that many no law gets better, only slower."""
    if len(rows) <= MOST:
        return rows, ()
    why = f"{MOST:,} of {len(rows):,} runs, drawn by lot, stand for all: sure enough for any law"
    lot = np.sort(np.random.default_rng(0).choice(len(rows), MOST, replace=False))
    return rows[lot], (Diagnostic("runs_sampled", why),)


def prepare(
    points: pl.DataFrame,
    *,
    metric: str = "nats_per_token",
    params_convention: str = "params_active",
) -> Runs:
    """Runs ready to be fitted: usable ones, outliers kept out by rule, on rungs of compute.

    Columns needed: run_id, budget, params, tokens, loss; used where there: flops, unique_tokens,
    state, design.
    """
    rows, excluded = usable(points)
    rows = _rungs(_whole(rows))
    if rows.is_empty():
        return Runs(rows, excluded, (), Ratio(), metric, params_convention)
    rows, sampled = _sampled(rows)
    kept, strange = outliers.screen(rows)
    ratio, notes = _ratio(kept)
    notes = (*sampled, *notes)
    return Runs(kept, (*excluded, *strange), notes, ratio, metric, params_convention)

"""What a task's accuracy will be: loss on the right answers over compute, then a sigmoid of it.

Source: Llama 3, arXiv:2407.21783, sec. 3.2.1; Gadre et al. 2024, arXiv:2403.08540.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.downstream import sigmoid
from analysis.downstream.steps import FORMS, RUNS_NEEDED, Task, fit_task, freed, nll_at
from analysis.law import Diagnostic, Excluded, Floats, NotEnough, finite, quantiles


@dataclass(frozen=True)
class Expected:
    """NLL and accuracy of a run at a budget with 95 % bounds; no accuracy without a sigmoid."""

    nll: float
    nll_low: float
    nll_high: float
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None


@dataclass(frozen=True, eq=False)
class Downstream:
    """A fit for every task that carries one, and what was kept out."""

    tasks: tuple[Task, ...]
    excluded: tuple[Excluded, ...]
    diagnostics: tuple[Diagnostic, ...]


def fit(points: pl.DataFrame, *, draws: int = 1000, seed: int = 0) -> Downstream:
    """Fit both steps for every task.

    Columns: run_id, flops, nll (where there is none, loss), accuracy as a fraction; task, chance
    and state where there are. Raises NotEnough where no task has 5 runs at 3 levels of compute.
    """
    rows, excluded, diagnostics = _usable(points)
    rng = np.random.default_rng(seed)
    tasks: list[Task] = []
    for (name,), group in rows.group_by("task", maintain_order=True):
        levels = group["flops"].log().round(2).n_unique()
        if len(group) < RUNS_NEEDED or levels < 3:
            why = f"{len(group)} runs at {levels} levels of compute, {RUNS_NEEDED} at 3 are needed"
            diagnostics.append(Diagnostic("too_few_points", f"{name}: {why}" if name else why))
            continue
        tasks.append(fit_task(str(name), group, draws, rng))
    if not tasks:
        said = "; ".join(each.detail for each in diagnostics) or "no usable run"
        raise NotEnough(f"no task to fit: {said}; add runs at other budgets")
    return Downstream(tuple(tasks), excluded, tuple(diagnostics))


def _refusal(rows: pl.DataFrame) -> pl.Expr:
    """Why a row carries no evidence, or null."""
    state = pl.col("state").fill_null("PLANNED") if "state" in rows.columns else pl.lit("DONE")
    found = pl.when(state != "DONE").then(pl.concat_str(pl.lit("state "), state))
    for name in ("flops", "nll"):
        bad = ~(pl.col(name).is_finite() & (pl.col(name) > 0)).fill_null(False)
        found = found.when(bad).then(pl.lit(f"no finite positive {name}"))
    no_accuracy = ~(pl.col("accuracy").is_finite() & (pl.col("accuracy") >= 0)).fill_null(False)
    return found.when(no_accuracy).then(pl.lit("no accuracy")).otherwise(None)


def _usable(
    points: pl.DataFrame,
) -> tuple[pl.DataFrame, tuple[Excluded, ...], list[Diagnostic]]:
    """Rows that carry evidence by compute, those that do not, and what was taken for what."""
    notes: list[Diagnostic] = []
    rows = points
    if "nll" not in rows.columns and "loss" in rows.columns:
        rows = rows.with_columns(pl.col("loss").alias("nll"))
        why = "no column nll: the loss stands for the loss on the right answers"
        notes.append(Diagnostic("loss_for_nll", why))
    for name in ("flops", "nll", "accuracy"):
        if name not in rows.columns:
            raise NotEnough(f"no column {name}; a downstream law takes flops, nll and accuracy")
    number = [name for name in ("flops", "nll", "accuracy", "chance") if name in rows.columns]
    task = pl.col("task").cast(pl.String) if "task" in rows.columns else pl.lit("")
    rows = rows.with_columns(
        pl.col(number).cast(pl.Float64), pl.col("run_id").cast(pl.String), task.alias("task")
    )
    above = rows.filter(pl.col("accuracy") > 1)
    if len(above):
        value, where = above.row(0, named=True)["accuracy"], above["run_id"][0]
        why = f"accuracy={value:g} in {where} is above 1; give fractions, not percentages"
        raise NotEnough(why)
    rows = rows.with_columns(_refusal(rows).alias("refusal"))
    refused = rows.filter(pl.col("refusal").is_not_null()).select("run_id", "refusal")
    kept = rows.filter(pl.col("refusal").is_null()).sort("task", "flops", "run_id")
    return kept, tuple(Excluded(run_id, why) for run_id, why in refused.iter_rows()), notes


def predict(task: Task, budget: float) -> Expected:
    """What a run at a budget in FLOPs will measure.

    Beyond the largest run ln nll wanders as in the back-test, with the root of the decades; the
    bounds of the accuracy are of the same draws, each through its own sigmoid.
    """
    rng = np.random.default_rng(0)
    m, n = len(task.line_draws), len(task.nll)
    log_c = np.array([math.log(budget)])
    center = float(nll_at(task.form, task.line, log_c)[0])
    smooth = nll_at(task.form, task.line, np.log(task.flops))
    reach = max(math.log10(budget / task.flops.max()), 0.0)
    wander = task.backtest[task.form] * math.sqrt(reach) if task.origins else 0.0
    strayed = np.exp(wander * rng.standard_t(max(task.origins, 1), size=m))
    lender = rng.integers(0, n, size=m)
    run = 1 + freed(task.nll / smooth - 1, len(task.line))[lender]
    drawn = nll_at(task.form, task.line_draws, log_c)[:, 0] * run * strayed
    low, high = quantiles(drawn).tolist()
    if task.curve is None:
        return Expected(center, low, high)
    shape = sigmoid.value(task.curve.theta, task.nll)
    apart = freed(task.accuracy - shape, len(task.curve.free))[lender]
    beyond = task.strays * np.sqrt(np.maximum(task.nll.min() - drawn, 0.0))
    apart += beyond * rng.normal(size=m)
    said = np.clip(sigmoid.value(task.curve_draws, drawn[:, None])[:, 0] + apart, 0, 1)
    bottom, top = quantiles(said).tolist()
    middle = float(sigmoid.value(task.curve.theta, np.array([center]))[0])
    return Expected(center, low, high, middle, bottom, top)


def _columns(task: Task) -> tuple[dict[str, float], Floats]:
    """Coefficients of both steps by name, and their draws, a column each."""
    values, drawn = task.line[None], task.line_draws
    if task.form == "power":
        values, drawn = (
            np.column_stack([c[:, 0], np.exp(c[:, 1]), c[:, 2]]) for c in (values, drawn)
        )
    names, coef = list(FORMS[task.form]), values[0].tolist()
    if task.curve is not None:
        names += sigmoid.COEFS
        coef += sigmoid.natural(task.curve.theta).tolist()
        drawn = np.column_stack([drawn, sigmoid.natural(task.curve_draws)])
    return dict(zip(names, coef, strict=True)), drawn


def _named(task: Task, several: bool, values: dict[str, Any]) -> dict[str, Any]:
    """Where several tasks are fitted, each value under its task's name."""
    return {f"{task.name}/{name}": value for name, value in values.items()} if several else values


def _coefficients(task: Task) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Values, standard errors and 95 % bounds; null bounds where a coefficient was given."""
    coef, drawn = _columns(task)
    bounds = quantiles(drawn).T.tolist()
    se: dict[str, Any] = dict(zip(coef, drawn.std(axis=0).tolist(), strict=True))
    interval: dict[str, Any] = dict(zip(coef, bounds, strict=True))
    for i, name in enumerate(sigmoid.COEFS):
        if task.curve is not None and i not in task.curve.free:
            se[name], interval[name] = None, [None, None]
    return coef, se, interval


def _plain(value: Any) -> Any:
    """Nested plain data with null in the place of what is not finite."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list):
        return [_plain(each) for each in value]  # pyright: ignore
    return finite(value) if isinstance(value, float) else value


def _said(task: Task) -> dict[str, Any]:
    """Which form the loss took and why, and how well both steps hold."""
    return {
        "task": task.name,
        "rows": len(task.nll),
        "nll_form": task.form,
        "backtest": task.backtest,
        "accuracy_rms": math.sqrt(task.curve.squares / len(task.nll)) if task.curve else None,
        "accuracy_strays": task.strays if task.curve else None,
    }


def answer(fitted: Downstream, target: float | None) -> dict[str, Any]:
    """The fits as plain JSON data, with NLL and accuracy at a target of so many FLOPs.

    Names are of the one task, or "task/name" where there are several.
    """
    several = len(fitted.tasks) > 1
    coef: dict[str, Any] = {}
    se: dict[str, Any] = {}
    interval: dict[str, Any] = {}
    optimum: dict[str, Any] = {}
    for task in fitted.tasks:
        for whole, part in zip((coef, se, interval), _coefficients(task), strict=True):
            whole |= _named(task, several, part)
        if target:
            optimum |= _named(task, several, asdict(predict(task, target)))
    doubts = [*fitted.diagnostics, *(each for task in fitted.tasks for each in task.diagnostics)]
    whole = {
        "law": "downstream",
        "params_convention": None,
        "coef": coef,
        "se": se,
        "interval": interval,
        "optimum": optimum or None,
        "excluded": [{"row": each.run_id, "reason": each.reason} for each in fitted.excluded],
        "diagnostics": [asdict(each) for each in doubts],
        "objective": sum(task.curve.squares for task in fitted.tasks if task.curve),
        "rows": sum(len(task.nll) for task in fitted.tasks),
        "tasks": [_said(task) for task in fitted.tasks],
    }
    return _plain(whole)

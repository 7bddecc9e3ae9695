"""Everything that the store knows of a study, as a report needs it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl

from analysis import store
from analysis.ablation.effects import Effect, effects
from analysis.ablation.factorial import interactions
from analysis.ablation.levels import CROSSED, ablation_rows, baseline_levels, swept
from analysis.ablation.multiplier import Multiplier, multipliers
from analysis.downstream import fit as downstream
from analysis.downstream.fit import Downstream
from analysis.forecast import panel
from analysis.hyper import fit as hyper
from analysis.hyper.fit import Hyper
from analysis.law import Diagnostic, Forecast, NotEnough
from analysis.mixture import fit as mixture
from analysis.mixture.fit import MixtureFit
from analysis.panel import Panel
from analysis.report import layers
from analysis.runs import Runs, prepare

STUDY = """
select question, coalesce(metric, 'nats_per_token') as metric, coalesce(resolved, '{}') as resolved
from studies where name = ?
"""

TRIALS = """
select t.number, t.design, t.budget, t.seed, coalesce(r.state, 'PLANNED') as state,
    r.d_model || ' x ' || r.n_layers as shape, r.params_active as params, r.tokens,
    r.nats_per_token, r.bits_per_byte, r.lr, r.seconds, r.cause, t.run_id
from trials t left join runs r using (run_id) where t.study = ? order by t.number
"""

RUNS = """
with asked as (
    select run_id, string_agg(distinct number, ', ' order by number) as trial
    from trials where study = $study group by run_id
    union all
    select run_id, 'promoted' from (
        select unnest(from_json(run_ids, '["VARCHAR"]')) as run_id
        from promotions where study = $study))
select run_id, string_agg(trial, ', ') as trial, any_value(r.stage) as stage,
    any_value(r.budget) as budget, coalesce(any_value(r.state), 'PLANNED') as state,
    any_value(r.cause) as cause, any_value(e.value) as loss, any_value(r.attempts) as attempts,
    any_value(left(r.commit, 12)) as commit, any_value(r.host) as host
from asked left join runs r using (run_id)
left join evals e on e.run_id = asked.run_id and e.metric = $metric
group by run_id order by min(try_cast(trial as integer)) nulls last, run_id
"""

STEPS = """
select s.run_id, r.budget, s.step, s.tokens, s.loss
from steps s join runs r using (run_id)
where s.run_id in (select run_id from trials where study = $study)
    or s.run_id in (
        select unnest(from_json(run_ids, '["VARCHAR"]')) from promotions where study = $study)
"""

STAGES = """
select coalesce(r.stage, '') as stage, coalesce(r.state, 'PLANNED') as state, r.nats_per_token,
    r.bits_per_byte, r.tokens, r.params_active as params, r.seconds,
    (select string_agg(metric || ' ' || format('{:.4g}', value), ', ' order by metric)
        from evals e where e.run_id = w.run_id
        and metric not in ('nats_per_token', 'bits_per_byte')) as measured,
    r.cause, w.run_id
from (select unnest($ids) as run_id, generate_subscripts($ids, 1) as place) w
left join runs r using (run_id) order by w.place
"""

Fitted = TypeVar("Fitted")


@dataclass(frozen=True)
class Promoted:
    """A promotion as it was decided, its stages, and what its first stage measured."""

    name: str
    reason: str
    decided_by: str
    forecast: dict[str, Any]
    gates: list[dict[str, Any]]
    diagnostics: tuple[Diagnostic, ...]
    stages: list[dict[str, Any]]
    steps: pl.DataFrame
    tokens: float | None
    measured: float | None


@dataclass(frozen=True)
class Ablation:
    """What the levels of the axes do, from rows as of `ablation_rows`, at budgets ascending.

    `multipliers` are empty where there is one budget, `interactions` where no run changes two axes.
    """

    budgets: tuple[float, ...]
    target: float
    effects: list[Effect]
    multipliers: list[Multiplier]
    interactions: list[Effect]


@dataclass(frozen=True)
class Validation:
    """The validation rung of a study: its budget in FLOPs, and the forecast made without its run.

    `run` is its row of `store.points`, None until one was chosen.
    """

    budget: float
    forecast: Forecast | None
    run: dict[str, Any] | None


@dataclass(frozen=True)
class Evidence:
    """A study at some stage; `records` has a row a run that its trials or promotions ask for.

    `panel` is None where `refusal` says why, `forecast` too where no target is named, `validation`
    where no rung is. Each of
    `ablation`, `hyper`, `downstream` and `mixture` is None where the study has no runs of that
    kind, a Diagnostic where they are not enough.
    """

    study: str
    question: str
    metric: str
    points: pl.DataFrame
    trials: list[dict[str, Any]]
    records: list[dict[str, Any]]
    steps: pl.DataFrame
    layers: pl.DataFrame
    target: float | None
    runs: Runs
    panel: Panel | None
    forecast: Forecast | None
    validation: Validation | None
    refusal: str
    ablation: Ablation | None
    hyper: Hyper | Diagnostic | None
    downstream: Downstream | Diagnostic | None
    mixture: MixtureFit | Diagnostic | None
    promotions: list[Promoted]


def _panel(runs: Runs) -> tuple[Panel | None, str]:
    try:
        return panel(runs), ""
    except NotEnough as error:
        return None, str(error)


def _tried(fit: Callable[[pl.DataFrame], Fitted], rows: pl.DataFrame) -> Fitted | Diagnostic | None:
    """The fit of rows, or why there is none; None where there are no rows."""
    if rows.is_empty():
        return None
    try:
        return fit(rows)
    except NotEnough as error:
        return Diagnostic("not_enough", str(error))


def _ablation(
    points: pl.DataFrame, levels: Mapping[str, Any] | None, target: float | None
) -> Ablation | None:
    """Effects, interactions of the runs of a grid, and multipliers at the target.

    Where no target is named, multipliers are at the largest budget.
    """
    rows = ablation_rows(points, levels)
    if rows.is_empty():
        return None
    crossed = ablation_rows(points.filter(pl.col("design").is_in(CROSSED)), levels)
    budgets: list[float] = rows["budget"].drop_nulls().unique().sort().to_list()
    end = target or budgets[-1]
    priced = multipliers(rows, end) if len(budgets) > 1 else []
    return Ablation(tuple(budgets), end, effects(rows), priced, interactions(crossed))


def _with(rows: pl.DataFrame, *prefixes: str) -> pl.DataFrame:
    """The rows with a value in some column of each prefix; none where a prefix has no column."""
    found = [[name for name in rows.columns if name.startswith(prefix)] for prefix in prefixes]
    if not all(found):
        return rows.clear()
    there = [pl.any_horizontal(pl.col(name).is_not_null() for name in names) for names in found]
    return rows.filter(*there)


def widened(con: store.Connection, study: str, points: pl.DataFrame) -> pl.DataFrame:
    """The points with all columns that the imported ones came with."""
    sql = "select run_id, others from imported where study = ? and others is not null"
    rows = store.query(con, sql, [study])
    if rows.is_empty():
        return points
    others = rows["others"].str.json_decode(infer_schema_length=None).struct.unnest()
    fresh = [name for name in others.columns if name not in points.columns]
    brought = rows.select("run_id").hstack(others.select(fresh))
    return points.join(brought, on="run_id", how="left", maintain_order="left")


def _measured(con: store.Connection, run_id: str, metric: str) -> tuple[float | None, float | None]:
    """Tokens and metric of a finished run."""
    sql = (
        "select r.tokens, e.value from runs r left join evals e "
        "on e.run_id = r.run_id and e.metric = ? where r.run_id = ? and r.state = 'DONE'"
    )
    rows = store.query(con, sql, [metric, run_id]).rows()
    return rows[0] if rows else (None, None)


def _promoted(
    con: store.Connection, row: dict[str, Any], metric: str, steps: pl.DataFrame
) -> Promoted:
    run_ids: list[str] = json.loads(row["run_ids"] or "[]")
    forecast: dict[str, Any] = json.loads(row["forecast"])
    first = run_ids[0] if run_ids else ""
    tokens, measured = _measured(con, first, metric)
    found: list[dict[str, str]] = forecast.get("diagnostics", [])
    return Promoted(
        name=row["name"] or "",
        reason=row["reason"] or "no reason recorded",
        decided_by=row["decided_by"] or "nobody",
        forecast=forecast,
        gates=json.loads(row["gates"] or "[]"),
        diagnostics=tuple(Diagnostic(d["name"], d["detail"]) for d in found),
        stages=store.query(con, STAGES, {"ids": run_ids}).to_dicts() if run_ids else [],
        steps=steps.filter(pl.col("run_id") == first),
        tokens=tokens,
        measured=measured,
    )


def _validation(rung: float | None, laws: Panel | None, points: pl.DataFrame) -> Validation | None:
    if rung is None:
        return None
    runs = points.filter(pl.col("design") == "validation").to_dicts()
    return Validation(rung, laws.at(rung) if laws else None, runs[0] if runs else None)


def gather(con: store.Connection, study: str) -> Evidence:
    """Read a study from the store and fit it anew, with the same seed as ever."""
    about = store.query(con, STUDY, [study]).to_dicts()
    head: dict[str, Any] = about[0] if about else {"question": "", "metric": "nats_per_token"}
    resolved: dict[str, Any] = json.loads(head.get("resolved", "{}"))
    metric = str(head["metric"])
    points = store.points(con, study)
    wide = widened(con, study, points)
    steps = store.query(con, STEPS, {"study": study}).sort("run_id", "step")
    sql = "select * from promotions where study = ? order by created, name"
    promotions = [
        _promoted(con, row, metric, steps) for row in store.query(con, sql, [study]).to_dicts()
    ]
    outside = bool((points["design"] == "imported").all())
    convention = "params as in the file" if outside else "params_active"
    runs = prepare(points, metric=metric, params_convention=convention)
    laws, refusal = _panel(runs)
    plan: dict[str, Any] = resolved.get("promotion", {})
    target = plan.get("target")
    if promotions:
        target = promotions[-1].forecast["budget"]
    levels = baseline_levels(resolved) if resolved.get("axes") else None
    sweep = swept(
        points.filter(pl.col("design") != "validation"), ablation_rows(points, levels), resolved
    )
    return Evidence(
        study=study,
        question=head["question"] or "",
        metric=metric,
        points=points,
        trials=store.query(con, TRIALS, [study]).to_dicts(),
        records=store.query(con, RUNS, {"study": study, "metric": metric}).to_dicts(),
        steps=steps.filter(pl.col("run_id").is_in(points["run_id"].to_list())),
        layers=layers.measured(con, study),
        target=target,
        runs=runs,
        panel=laws,
        forecast=laws.at(target) if laws and target else None,
        validation=_validation(plan.get("rung"), laws, points),
        refusal=refusal,
        ablation=_ablation(points, levels, target),
        hyper=_tried(hyper.fit, sweep),
        downstream=_tried(downstream.fit, _with(wide, "nll", "accuracy")),
        mixture=_tried(mixture.fit, _with(wide, "weight/", "loss/")),
        promotions=promotions,
    )

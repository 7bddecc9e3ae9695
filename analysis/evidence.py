"""Everything that the store knows of a study, as a report needs it."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis import store
from analysis.ablation import Effect, effects
from analysis.forecast import LAWS
from analysis.law import Diagnostic, Excluded, Fit, Forecast, NotEnough, usable

# The law that a promotion rests on.
LAW = LAWS["isoflop"]

STUDY = """
select question, coalesce(metric, 'nats_per_token') as metric,
    try_cast(resolved->>'$.promotion.target' as double) as target
from studies where name = ?
"""

TRIALS = """
select t.number, t.design, t.budget, t.seed, coalesce(r.state, 'PLANNED') as state,
    r.d_model || ' x ' || r.n_layers as shape, r.params_active as params, r.tokens,
    r.nats_per_token, r.bits_per_byte, r.lr, r.seconds, r.cause, t.run_id
from trials t left join runs r using (run_id) where t.study = ? order by t.number
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
class Evidence:
    """A study at some stage: `fit` and `forecast` are None where `refusal` says why."""

    study: str
    question: str
    metric: str
    points: pl.DataFrame
    trials: list[dict[str, Any]]
    steps: pl.DataFrame
    fit: Fit | None
    forecast: Forecast | None
    refusal: str
    excluded: tuple[Excluded, ...]
    effects: list[Effect]
    ablation_budgets: list[float]
    promotions: list[Promoted]


def ablation_rows(points: pl.DataFrame) -> pl.DataFrame:
    """One-at-a-time trials as `ablation.effects` takes them; the unfinished have no loss."""
    rows: list[dict[str, Any]] = []
    for row in points.filter(pl.col("design") == "one_at_a_time").iter_rows(named=True):
        values: dict[str, Any] = json.loads(row["values"])
        level = values["level"]
        kept = {name: row[name] for name in ("budget", "seed", "run_id")}
        rows.append(
            kept
            | {"axis": str(values["axis"]), "baseline": bool(values["baseline"])}
            | {"level": level if isinstance(level, str) else json.dumps(level)}
            | {"loss": row["loss"] if row["state"] == "DONE" else None}
        )
    schema = {"axis": pl.String, "level": pl.String, "baseline": pl.Boolean, "budget": pl.Float64}
    return pl.DataFrame(rows, schema | {"seed": pl.Int64, "loss": pl.Float64, "run_id": pl.String})


def _fitted(points: pl.DataFrame, metric: str) -> tuple[Fit | None, str]:
    try:
        return LAW.fit(points, metric=metric), ""
    except NotEnough as error:
        return None, str(error)


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


def gather(con: store.Connection, study: str) -> Evidence:
    """Read a study from the store and fit it anew, with the same seed as ever."""
    about = store.query(con, STUDY, [study]).to_dicts()
    head: dict[str, Any] = about[0] if about else {"question": "", "metric": "nats_per_token"}
    metric = str(head["metric"])
    points = store.points(con, study)
    steps = store.query(con, STEPS, {"study": study}).sort("run_id", "step")
    sql = "select * from promotions where study = ? order by created, name"
    promotions = [
        _promoted(con, row, metric, steps) for row in store.query(con, sql, [study]).to_dicts()
    ]
    fit, refusal = _fitted(points, metric)
    target = promotions[-1].forecast["budget"] if promotions else head.get("target")
    rows = ablation_rows(points)
    return Evidence(
        study=study,
        question=head["question"] or "",
        metric=metric,
        points=points,
        trials=store.query(con, TRIALS, [study]).to_dicts(),
        steps=steps.filter(pl.col("run_id").is_in(points["run_id"].to_list())),
        fit=fit,
        forecast=LAW.predict(fit, target) if fit and target else None,
        refusal=refusal,
        excluded=usable(points)[1],
        effects=effects(rows) if len(rows) else [],
        ablation_budgets=rows["budget"].unique().sort().to_list(),
        promotions=promotions,
    )

"""The tables of a store beside those of the run directories, and the version of all of them."""

from analysis import runfiles

# A store of another version is made again from the files that it is derived from.
VERSION = 3

_TABLES = """
create table meta (version integer);
create table studies (
    name varchar, uid varchar, question varchar, metric varchar, resolved json, created double);
create table trials (
    study varchar, number integer, run_id varchar, design varchar, budget double, seed integer,
    "values" json);
create table jobs (
    study varchar, job varchar, stage varchar, state varchar, submitted double, run_ids json);
create table fits (
    study varchar, law varchar, metric varchar, coef json, intervals json, run_ids json,
    diagnostics json, params_convention varchar);
create table promotions (
    study varchar, name varchar, run_ids json, target double, forecast json, gates json,
    reason varchar, decided_by varchar, created double);
create table changes (
    study varchar, time double, run_id varchar, state varchar, cause varchar, attempt integer,
    job varchar);
create table imported (
    study varchar, number bigint, run_id varchar, budget double, seed bigint, params double,
    tokens double, flops double, loss double, state varchar, lr double, batch_tokens double,
    unique_tokens double, others json);
"""

# A row a trial, loss in the metric of its study; rows from outside have the design "imported".
_POINTS = """
create view points as
with trained as (
    select t.study, t.number, t.run_id, t.design, t.budget, t.seed, r.params_active as params,
        r.tokens, r.flops, e.value as loss, coalesce(r.state, 'PLANNED') as state, t."values",
        r.lr, r.global_batch_tokens as batch_tokens
    from trials t
    left join studies s on s.name = t.study
    left join runs r using (run_id)
    left join evals e on e.run_id = t.run_id and e.metric = coalesce(s.metric, 'nats_per_token')),
outside as (select 'imported' as design, * exclude (others) from imported)
select study, number, run_id, design, budget, seed, params, tokens, flops, loss, state, "values",
    lr, batch_tokens, unique_tokens
from (select * from trained union all by name select * from outside);
"""

# What the driver decided of runs, and what their jobs said, in one order.
_HISTORY = """
create view history as
select time, run_id, 'driver' as source, state as event, cause, attempt, job from changes
union all by name
select time, run_id, 'job' as source, event, detail->>'cause' as cause,
    try_cast(detail->>'attempt' as integer) as attempt, null as job
from events
order by time;
"""

SCHEMA = _TABLES + runfiles.SCHEMA + _POINTS + _HISTORY

# What a person may ask for by name, most wanted first.
TABLES = (
    "points",
    "runs",
    "attempts",
    "steps",
    "layer_norms",
    "evals",
    "events",
    "history",
    "trials",
    "jobs",
    "changes",
    "fits",
    "promotions",
    "studies",
    "imported",
)

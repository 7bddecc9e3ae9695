"""What run directories say, read in bulk into the store.

    RUN_ID/run.json result.json attempt.N.json failure.N.json metrics.N.jsonl events.jsonl

Lines torn by a killed writer are left out; a torn result.json is no result.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import duckdb
import polars as pl

SCHEMA = """
create table if not exists ingested (path varchar, size bigint, mtime bigint);
create table if not exists runs (
    run_id varchar, study varchar, stage varchar, parent varchar, state varchar, cause varchar,
    seed integer, budget double, attempts integer, params_total bigint, params_non_embedding bigint,
    params_active bigint, tokens bigint, flops double, nats_per_token double, bits_per_byte double,
    seconds double, gpu_hours double, tokens_per_second double, mfu double, lr double,
    d_model integer, n_layers integer, n_heads integer, n_kv_heads integer,
    global_batch_tokens bigint, finished boolean, spec json);
create table if not exists evals (run_id varchar, metric varchar, value double);
create table if not exists events (run_id varchar, time double, event varchar, detail json);
create table if not exists metrics (
    run_id varchar, attempt integer, step bigint, tokens bigint, loss double, grad_norm double,
    lr double, tokens_per_second double, seconds double, line json);
create or replace view steps as
    select * from metrics
    qualify row_number() over (partition by run_id, step order by attempt desc) = 1;
"""

_FILE = r"^(run|result|attempt\.\d+|failure\.\d+)\.json$|^(metrics\.\d+|events)\.jsonl$"

_DOCUMENTS = """
create or replace temp table documents as
select f.run_id, f.name, try_cast(try(decode(b.content)) as json) as document
from stale_files f join read_blob(?) b on b.filename = f.path
"""

# The driver makes a row for every run it knows, also before the run has a directory.
_RUNS = """
insert into runs by name
with spec as (select run_id, document as d from documents where name = 'run.json'),
result as (
    select run_id, document as d from documents
    where name = 'result.json' and document->>'run_id' = run_id),
failure as (
    select run_id, arg_max(document, cast(document->>'attempt' as integer)) as d
    from documents where name like 'failure.%' group by run_id),
attempt as (
    select run_id, count(*) as n from documents where name like 'attempt.%' group by run_id)
select w.run_id,
    spec.d->>'study' as study, spec.d->>'stage' as stage, spec.d->>'parent' as parent,
    coalesce(result.d->>'state', w.state) as state,
    coalesce(nullif(result.d->>'cause', ''),
        case when result.d is null then
            concat_ws(': ', failure.d->>'cause', nullif(failure.d->>'message', ''))
        end, '') as cause,
    cast(spec.d->>'seed' as integer) as seed,
    cast(spec.d->>'budget' as double) as budget,
    coalesce(attempt.n, 0) as attempts,
    {measured},
    cast(spec.d->>'$.optim.lr' as double) as lr,
    {shape},
    cast(spec.d->>'$.batch.global_batch_tokens' as bigint) as global_batch_tokens,
    result.d is not null as finished,
    spec.d as spec
from stale_runs w
left join spec using (run_id)
left join result using (run_id)
left join failure using (run_id)
left join attempt using (run_id)
""".format(
    measured=",\n    ".join(
        f"try_cast(result.d->>'{name}' as {kind}) as {name}"
        for kind, names in {
            "bigint": "params_total params_non_embedding params_active tokens",
            "double": "flops nats_per_token bits_per_byte seconds gpu_hours tokens_per_second mfu",
        }.items()
        for name in names.split()
    ),
    shape=",\n    ".join(
        f"cast(spec.d->>'$.model.{name}' as integer) as {name}"
        for name in ("d_model", "n_layers", "n_heads", "n_kv_heads")
    ),
)

_EVALS = """
insert into evals
select run_id, metric, value from (
    select d.run_id, m.key as metric, try_cast(d.document->'metrics'->>m.key as double) as value
    from documents d, unnest(json_keys(d.document, '$.metrics')) as m(key)
    where d.name = 'result.json' and d.document->>'run_id' = d.run_id
    union all
    select run_id, 'nats_per_token', nats_per_token from runs
    union all
    select run_id, 'bits_per_byte', bits_per_byte from runs)
where value is not null and run_id in (select run_id from stale_runs)
"""

_LINES = """
create or replace temp table lines as
select f.run_id, f.name, l.json as line
from changed f join read_ndjson_objects(?, filename = true, ignore_errors = true) l
    on l.filename = f.path
where json_type(l.json) = 'OBJECT'
"""

_METRICS = """
insert into metrics
select run_id, cast(regexp_extract(name, '\\d+') as integer) as attempt,
    try_cast(line->>'step' as bigint) as step, try_cast(line->>'tokens' as bigint) as tokens,
    try_cast(line->>'loss' as double), try_cast(line->>'grad_norm' as double),
    try_cast(line->>'lr' as double), try_cast(line->>'tokens_per_second' as double),
    try_cast(line->>'seconds' as double), line
from lines where name like 'metrics.%' and step is not null
"""

_EVENTS = """
insert into events
select run_id, try_cast(line->>'time' as double), line->>'event', line
from lines where name = 'events.jsonl' and line->>'event' is not null
"""


def scan(runs_folder: Path, run_ids: Iterable[str]) -> pl.DataFrame:
    """The files of these runs that the store reads: path, run_id, name, size, mtime (ns).

    They are looked at before they are read, so a line appended in between counts as a change later.
    """
    rows: list[tuple[str, str, str, int, int]] = []
    for run_id in run_ids:
        folder = runs_folder / run_id
        if not folder.is_dir():
            continue
        for entry in os.scandir(folder):
            stat = entry.stat()
            rows.append((entry.path, run_id, entry.name, stat.st_size, stat.st_mtime_ns))
    schema = {"path": pl.String, "run_id": pl.String, "name": pl.String}
    frame = pl.DataFrame(rows, schema | {"size": pl.Int64, "mtime": pl.Int64}, orient="row")
    return frame.filter(pl.col("name").str.contains(_FILE))


def load(con: duckdb.DuckDBPyConnection) -> None:
    """Refresh everything that the temporary tables stale_runs, stale_files and changed name.

    Must run inside a transaction. Small documents are read again for a stale run; of the long
    .jsonl files only those that changed.
    """
    _read(con, _DOCUMENTS, "select path from stale_files where name like '%.json'")
    for table in ("runs", "evals"):
        con.execute(f"delete from {table} where run_id in (select run_id from stale_runs)")
    con.execute(_RUNS)
    con.execute(_EVALS)

    _read(con, _LINES, "select path from changed where name like '%.jsonl'")
    con.execute(
        "delete from metrics where (run_id, 'metrics.' || attempt || '.jsonl') in "
        "(select (run_id, name) from changed)"
    )
    con.execute(
        "delete from events "
        "where run_id in (select run_id from changed where name = 'events.jsonl')"
    )
    con.execute(_METRICS)
    con.execute(_EVENTS)
    con.execute("delete from ingested where path in (select path from changed)")
    con.execute("insert into ingested select path, size, mtime from changed")


def _read(con: duckdb.DuckDBPyConnection, sql: str, which: str) -> None:
    """Run a reading statement over the files that `which` names; DuckDB refuses an empty list."""
    paths = [path for (path,) in con.execute(which).fetchall()]
    con.execute(sql, [paths or [os.devnull]])

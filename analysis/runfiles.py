"""What run directories say, read in bulk into the store.

    RUN_ID/run.json env.json result.json attempt.N.json failure.N.json metrics.N.jsonl events.jsonl

Lines torn by a killed writer are left out; a torn result.json is no result.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import duckdb
import polars as pl

# A row of `ingested` is a file as it was when it was read: `owner` is the run, or the study that
# the file was imported to. The row of a run's folder itself says that all of it was read for good.
SCHEMA = """
create table ingested (owner varchar, name varchar, size bigint, mtime bigint);
create table runs (
    run_id varchar, study varchar, stage varchar, parent varchar, state varchar, cause varchar,
    seed integer, budget double, attempts integer, job varchar, host varchar, params_total bigint,
    params_non_embedding bigint, params_active bigint, tokens bigint,
    inherited_tokens bigint, flops double, nats_per_token double, bits_per_byte double,
    seconds double, gpu_hours double, tokens_per_second double, mfu double, lr double,
    d_model integer, n_layers integer, n_heads integer, n_kv_heads integer,
    global_batch_tokens bigint, commit varchar, finished boolean, spec json);
create table attempts (
    run_id varchar, attempt integer, job varchar, host varchar, started double, cause varchar,
    message varchar, step bigint);
create table evals (run_id varchar, metric varchar, value double);
create table events (run_id varchar, time double, event varchar, detail json);
create table metrics (
    run_id varchar, attempt integer, step bigint, tokens bigint, loss double, grad_norm double,
    lr double, tokens_per_second double, seconds double, others json);
create view steps as
    select * from metrics
    qualify row_number() over (
        partition by run_id, step order by attempt desc, rowid desc) = 1;
create view layer_norms as
    select run_id, step, tokens, key[:place - 1] as quantity, key[place + 1:] as layer,
        try_cast(others->>key as double) as value
    from (
        select run_id, step, tokens, others, key, instr(key, '/') as place
        from steps, unnest(json_keys(others)) as found(key)
        where contains(others, '/'))
    where place > 1;
"""

FOLDER = "."
_FILE = r"^(run|env|result|attempt\.\d+|failure\.\d+)\.json$|^(metrics\.\d+|events)\.jsonl$"

_DOCUMENTS = """
create or replace temp table documents as
select f.run_id, f.name, try_cast(regexp_extract(f.name, '\\d+') as integer) as number,
    try_cast(try(decode(b.content)) as json) as document
from stale_files f join read_blob(?) b on b.filename = f.path
"""

_ATTEMPTS = """
create or replace temp table stale_attempts as
with claim as (
    select run_id, number as attempt, document as d from documents where name like 'attempt.%'),
failure as (
    select run_id, number as attempt, document as d from documents where name like 'failure.%')
select run_id, attempt, claim.d->>'job' as job, claim.d->>'host' as host,
    try_cast(claim.d->>'started' as double) as started, failure.d->>'cause' as cause,
    failure.d->>'message' as message, try_cast(failure.d->>'step' as bigint) as step,
    claim.run_id is not null as claimed
from claim full join failure using (run_id, attempt)
"""

# The driver makes a row for every run it knows, also before the run has a directory.
_RUNS = """
insert into runs by name
with spec as (select run_id, document as d from documents where name = 'run.json'),
result as (
    select run_id, document as d from documents
    where name = 'result.json' and document->>'run_id' = run_id),
attempt as (
    select run_id, count(*) filter (where claimed) as n, arg_max(job, attempt) as job,
        arg_max(host, attempt) as host
    from stale_attempts group by run_id),
env as (select run_id, document as d from documents where name = 'env.json')
select w.run_id,
    spec.d->>'study' as study, spec.d->>'stage' as stage, spec.d->>'parent' as parent,
    coalesce(result.d->>'state', w.state) as state,
    case when result.d is null then w.cause else coalesce(result.d->>'cause', '') end as cause,
    cast(spec.d->>'seed' as integer) as seed,
    cast(spec.d->>'budget' as double) as budget,
    coalesce(attempt.n, 0) as attempts, attempt.job, attempt.host,
    {measured},
    cast(spec.d->>'$.optim.lr' as double) as lr,
    {shape},
    cast(spec.d->>'$.batch.global_batch_tokens' as bigint) as global_batch_tokens,
    env.d->>'commit' as commit,
    result.d is not null as finished,
    spec.d as spec
from stale_runs w
left join spec using (run_id)
left join result using (run_id)
left join attempt using (run_id)
left join env using (run_id)
""".format(
    measured=",\n    ".join(
        f"try_cast(result.d->>'{name}' as {kind}) as {name}"
        for kind, names in {
            "bigint": "params_total params_non_embedding params_active tokens inherited_tokens",
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

_COLUMNS = {
    "step": "BIGINT",
    "tokens": "BIGINT",
    "loss": "DOUBLE",
    "grad_norm": "DOUBLE",
    "lr": "DOUBLE",
    "tokens_per_second": "DOUBLE",
    "seconds": "DOUBLE",
}

# A line is parsed once for its columns; what it holds beside them is kept as JSON.
_METRICS = f"""
insert into metrics
select run_id, attempt, {", ".join(f"line.{name}" for name in _COLUMNS)}, others
from (
    select f.run_id, cast(regexp_extract(f.name, '\\d+') as integer) as attempt,
        json_transform(l.json, '{json.dumps(_COLUMNS)}') as line,
        nullif(json_merge_patch(l.json, '{json.dumps(dict.fromkeys(_COLUMNS))}'), '{{}}') as others
    from changed f join read_ndjson_objects(?, filename = true, ignore_errors = true) l
        on l.filename = f.path
    where json_type(l.json) = 'OBJECT')
where line.step is not null
"""

_EVENTS = """
insert into events
select f.run_id, try_cast(l.json->>'time' as double), l.json->>'event', l.json
from changed f join read_ndjson_objects(?, filename = true, ignore_errors = true) l
    on l.filename = f.path
where json_type(l.json) = 'OBJECT' and l.json->>'event' is not null
"""

_SETTLE = """
with settled as (
    select f.run_id, f.mtime from folders f join runs r using (run_id)
    where r.finished and f.mtime < $before)
insert into ingested select run_id, $folder, 0, mtime from settled
"""

FILES = {"run_id": pl.String, "name": pl.String, "size": pl.Int64, "mtime": pl.Int64}


def scan(
    runs_folder: Path, run_ids: Iterable[str], settled: Mapping[str, int]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The folders of these runs, and the files in them that the store reads.

    Columns run_id, name, size, mtime (ns). A folder whose mtime is as in `settled` is left out of
    both. All is looked at before it is read: a line appended in between counts as a change later.
    """
    folders: list[tuple[str, str, int, int]] = []
    files: list[tuple[str, str, int, int]] = []
    for run_id in run_ids:
        folder = f"{runs_folder}/{run_id}"
        mtime = _mtime(folder)
        if mtime is None or mtime != settled.get(run_id):
            folders.append((run_id, FOLDER, 0, mtime or 0))
            files += [(run_id, *file) for file in _files(folder)] if mtime else []
    return pl.DataFrame(folders, FILES, orient="row"), pl.DataFrame(files, FILES, orient="row")


def _mtime(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return None


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and mtime (ns) of the files of a run that the store reads."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if re.search(_FILE, entry.name):
                stat = entry.stat()
                yield entry.name, stat.st_size, stat.st_mtime_ns


def changed(known: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """Files that are not as they were when they were read; those that are gone have no size."""
    files = known.filter(pl.col("name") != FOLDER)
    gone = files.join(seen, on=["run_id", "name"], how="anti")
    null = pl.lit(None, pl.Int64)
    other = seen.join(files, on=["run_id", "name", "size", "mtime"], how="anti")
    return pl.concat([other, gone.with_columns(size=null, mtime=null)])


def words(states: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """What the driver says of each run: columns run_id, state, cause."""
    rows = [(run_id, state, cause) for run_id, (state, cause) in states.items()]
    schema = {"run_id": pl.String, "state": pl.String, "cause": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


def moved(stored: pl.DataFrame, words: pl.DataFrame) -> pl.DataFrame:
    """Those `words` that the runs stored do not have; a finished one speaks for itself."""
    told = stored.filter(~pl.col("finished")).join(words, on=["run_id", "state", "cause"])
    settled = pl.concat([stored.filter("finished")["run_id"], told["run_id"]]).to_frame()
    return words.join(settled, on="run_id", how="anti")


def load(con: duckdb.DuckDBPyConnection) -> None:
    """Refresh everything that the temporary tables stale_runs, stale_files and changed name.

    Must run inside a transaction. Small documents are read again for a stale run; of the long
    .jsonl files only those in `changed`, which has no size where a file is gone.
    """
    _read(con, _DOCUMENTS, "select path from stale_files where name like '%.json'")
    con.execute(_ATTEMPTS)
    for table in ("runs", "attempts", "evals"):
        con.execute(f"delete from {table} where run_id in (select run_id from stale_runs)")
    con.execute("insert into attempts select * exclude (claimed) from stale_attempts")
    con.execute(_RUNS)
    con.execute(_EVALS)
    con.execute(
        "delete from metrics where (run_id, attempt) in ("
        "select (run_id, try_cast(regexp_extract(name, '\\d+') as integer)) "
        "from changed where name like 'metrics.%')"
    )
    con.execute(
        "delete from events "
        "where run_id in (select run_id from changed where name = 'events.jsonl')"
    )
    lines = "select path from changed where size is not null and name like"
    _read(con, _METRICS, f"{lines} 'metrics.%'")
    _read(con, _EVENTS, f"{lines} 'events.jsonl'")
    con.execute("delete from ingested where (owner, name) in (select (run_id, name) from changed)")
    con.execute(
        "insert into ingested select run_id, name, size, mtime from changed where size is not null"
    )


def settle(con: duckdb.DuckDBPyConnection, before: int) -> None:
    """Remember the folders of finished runs that were last changed before a time (ns).

    Such a run is over: nothing is written there any more, so its files are not looked at again.
    """
    con.execute(
        "delete from ingested where name = $folder and owner in (select run_id from folders)",
        {"folder": FOLDER},
    )
    con.execute(_SETTLE, {"folder": FOLDER, "before": before})


def _read(con: duckdb.DuckDBPyConnection, sql: str, which: str) -> None:
    """Run a reading statement over the files that `which` names; DuckDB refuses an empty list."""
    paths = [path for (path,) in con.execute(which).fetchall()]
    con.execute(sql, [paths or [os.devnull]])

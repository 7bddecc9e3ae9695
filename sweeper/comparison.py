"""What is put side by side: two runs from their directories, two studies from their stores."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from analysis import store
from sweeper import differences
from sweeper.differences import Comparison, Noise, Row
from sweeper.dossier import read
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.references import asked_by, find_run, resolved, studies
from train.config import RunSpec, config_id

RUNS = """
select distinct t.budget, r.run_id, r.state, r.nats_per_token, r.bits_per_byte, r.flops,
    r.gpu_hours, r.tokens_per_second, r.spec
from trials t join runs r using (run_id) where t.study = $study order by t.budget, r.run_id
"""


def compared(a: str, b: str, place: Path) -> Comparison:
    """The comparison of two references. Raises UserError where one is nothing, or one a study."""
    names = {found.name for found in studies(place)}
    if a in names and b in names:
        return _of_studies(StudyDir(place, a), StudyDir(place, b))
    if a in names or b in names:
        study, run = (a, b) if a in names else (b, a)
        raise UserError(
            f"{study!r} is a study and {run!r} is not; compare two studies, or two runs such as "
            f"{study}:0 and {run}"
        )
    left, right = (read(find_run(word, place)) for word in (a, b))
    askers = {asker.study for x in (left, right) for asker in asked_by(place, x.run_id)}
    rows = [_rows(StudyDir(place, name)) for name in sorted(askers)]
    return differences.of_runs(left, right, _noise(rows))


def _rows(place: StudyDir) -> pl.DataFrame:
    """The runs of a study's trials. Raises UserError where its store cannot be read."""
    try:
        with store.connect(place.store, read_only=True) as con:
            return store.query(con, RUNS, {"study": place.name})
    except FileNotFoundError as error:
        raise UserError(
            f"study {place.name!r} has no store yet; make it: sweeper status {place.name}"
        ) from error
    except (duckdb.Error, store.StoreBusy) as error:
        raise UserError(str(error)) from error


def _noise(frames: Iterable[pl.DataFrame]) -> Noise | None:
    """The scatter of replicates: runs that differ in their seed, and each counts once."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for frame in frames:
        done = frame.filter(pl.col("state") == "DONE", pl.col("nats_per_token") > 0)
        for run_id, loss, spec in done.select("run_id", "nats_per_token", "spec").iter_rows():
            groups[config_id(RunSpec.model_validate_json(spec))][run_id] = loss
    return differences.pooled([list(losses.values()) for losses in groups.values()])


def _of_studies(a: StudyDir, b: StudyDir) -> Comparison:
    left, right = resolved(a), resolved(b)
    rows, others = _rows(a), _rows(b)
    noise = _noise((rows, others))
    ids, other_ids = set(rows["run_id"]), set(others["run_id"])
    same = len(ids & other_ids)
    notes = [f"of {len(ids)} runs of A and {len(other_ids)} of B, {same} are the same"]
    if left.base.data != right.base.data:
        notes.append(
            "their data differ: losses in nats/token are not comparable, and bits per byte is "
            "compared"
        )
    metric = "nats_per_token" if left.base.data == right.base.data else "bits_per_byte"
    return Comparison(
        kind="study",
        a=a.name,
        b=b.name,
        spec=differences.differing(left.model_dump(mode="json"), right.model_dump(mode="json")),
        provenance=differences.differing(_environments(a, ids), _environments(b, other_ids)),
        results=list(_study_rows(rows, others, metric, noise)),
        noise=noise,
        notes=notes,
    )


def _environments(place: StudyDir, run_ids: set[str]) -> dict[str, Any]:
    """What the runs of a study ran under: for each condition every value that it had."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in run_ids:
        try:
            env = json.loads((place.runs / name / "env.json").read_bytes())
        except (OSError, ValueError):
            continue
        for path, value in differences.flat(differences.conditions(env)).items():
            found[path].add(str(value))
    return {path: ", ".join(sorted(values)) for path, values in found.items()}


def _study_rows(
    a: pl.DataFrame, b: pl.DataFrame, metric: str, noise: Noise | None
) -> Iterator[Row]:
    """The least loss at every budget that both have, and what both spent."""
    left, right = (frame.filter(pl.col("state") == "DONE") for frame in (a, b))
    best, other = (_least(frame, metric) for frame in (left, right))
    for budget in sorted(best.keys() & other.keys()):
        name = f"least {metric} at {budget:.3g} FLOPs"
        yield differences.loss_row(name, best[budget], other[budget], noise)
    left, right = left.unique("run_id"), right.unique("run_id")
    yield differences.row("runs done", len(left), len(right))
    for name in ("flops", "gpu_hours"):
        yield differences.row(
            name, math.fsum(left[name].drop_nulls()), math.fsum(right[name].drop_nulls())
        )
    name = "tokens_per_second"
    yield differences.row(
        f"median {name}", _number(left[name].median()), _number(right[name].median())
    )


def _least(rows: pl.DataFrame, metric: str) -> dict[float, float]:
    """The least loss at each budget."""
    least = rows.group_by("budget").agg(pl.col(metric).min()).drop_nulls()
    return {float(budget): float(loss) for budget, loss in least.iter_rows()}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None

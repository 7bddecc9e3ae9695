"""What a word on the command line means: a run by its id or the start of it, or STUDY:NUMBER."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.study import NAME, Study
from sweeper.study_file import explain
from train.runlog import RunDir

TRIAL = re.compile(rf"({NAME[1:-1]}):(\d+)")
SHOWN = 5


@dataclass(frozen=True)
class Asker:
    """A study that asks for a run, and for which of its trials; None for a promoted stage."""

    study: str
    trial: int | None
    design: str


def studies(home: Path) -> list[StudyDir]:
    """The launched studies of a home, by name."""
    folders = sorted((home / "studies").glob("*/study.json"))
    return [StudyDir(home, path.parent.name) for path in folders]


def find_run(word: str, home: Path) -> RunDir:
    """The run that a word means. Raises UserError with the nearest ones where there is not one."""
    if trial := TRIAL.fullmatch(word):
        return _run_of_trial(StudyDir(home, trial[1]), int(trial[2]))
    known = run_ids(home)
    found = [name for name in known if name.startswith(word)] if word else []
    if len(found) == 1 or word in found:
        return RunDir(home / "runs" / (word if word in found else found[0]))
    if found:
        raise UserError(
            f"run {word!r} may be any of {len(found)}: {_listed(found)}; give more of the id"
        )
    raise UserError(f"there is no run {word!r} below {home / 'runs'}; {_way_out(word, known)}")


def run_ids(home: Path) -> list[str]:
    """The ids of all runs that have a directory."""
    try:
        return sorted(entry.name for entry in os.scandir(home / "runs") if entry.is_dir())
    except FileNotFoundError:
        return []


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _way_out(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=3, cutoff=0.3) or known[:3]
    also = "or STUDY:NUMBER, a trial as `sweeper plan` numbers it"
    return f"the nearest are {', '.join(near)}; give one, {also}" if near else "launch a study"


def _run_of_trial(place: StudyDir, number: int) -> RunDir:
    asked = trial_runs(place)
    if number not in asked:
        last = max(asked, default=-1)
        raise UserError(f"study {place.name!r} has no trial {number}; its trials are 0 to {last}")
    run = RunDir(place.runs / asked[number])
    if not (run.path / "run.json").exists():
        raise UserError(
            f"{place.name}:{number} asks for run {asked[number]}, which was not started yet; see "
            f"`sweeper status {place.name}`"
        )
    return run


def trial_runs(place: StudyDir) -> dict[int, str]:
    """The run that each trial of a launched study asks for, the validation rung's among them.

    Raises UserError where the study is not there or cannot be expanded.
    """
    # Here, not at the top: a run by its id needs no plan.
    from sweeper.designs import expand
    from sweeper.ledger import read
    from sweeper.validation import chosen

    study = resolved(place)
    record = read(place.ledger)
    planned = expand(study, record.batches)
    rung = chosen(study, planned, record)
    return {p.trial.number: p.run_id for p in [*planned, *([rung] if rung else [])]}


def resolved(place: StudyDir) -> Study:
    """A launched study as it was last launched. Raises UserError where it is not there."""
    try:
        return Study.model_validate_json(place.resolved.read_bytes())
    except FileNotFoundError as error:
        names = [found.name for found in studies(place.home)]
        near = get_close_matches(place.name, names, n=3, cutoff=0.3) or names[:SHOWN]
        hint = f"there is {', '.join(near)}" if near else "none was launched"
        raise UserError(f"no study {place.name!r} below {place.home}; {hint}") from error
    except ValueError as error:
        raise UserError(f"{place.resolved}: {explain(error)}; launch the study again") from error


ASKED = """
select study, number, design from trials where run_id = $run order by number
"""
PROMOTED = """
select study, null, 'promotion' from promotions
where list_contains(from_json(run_ids, '["VARCHAR"]'), $run)
"""


def asked_by(home: Path, run_id: str) -> list[Asker]:
    """The studies and trials that ask for a run, as their stores have it."""
    # Here, not at the top: what imports this module for its words alone stays quick.
    import duckdb

    from analysis import store

    found: list[Asker] = []
    for place in studies(home):
        try:
            with store.connect(place.store, read_only=True, patience_seconds=2.0) as con:
                for sql in (ASKED, PROMOTED):
                    rows = store.query(con, sql, {"run": run_id}).rows()
                    found += [Asker(*row) for row in rows]
        except (FileNotFoundError, duckdb.Error, store.StoreBusy):
            # Derived and made again at the next word: what it says now is not worth a refusal.
            continue
    return found

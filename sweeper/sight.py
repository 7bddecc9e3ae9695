"""Every run of a study as it stands now: what all other words about a study begin with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper import promote
from sweeper.backends import backend_of
from sweeper.expansion import expanded
from sweeper.folders import StudyDir
from sweeper.ledger import read
from sweeper.planner import Planned
from sweeper.promote import Promotion
from sweeper.record import Record
from sweeper.runs import Read, Runs, RunView, look_now
from sweeper.study import Study
from sweeper.trunks import with_trunks
from sweeper.validation import chosen
from train.config import RunSpec


@dataclass(frozen=True)
class Sight:
    """All runs of a study as they stand now, and the elements of jobs that live."""

    planned: Sequence[Planned]
    record: Record
    promotion: Promotion | None
    rung: Planned | None
    views: Mapping[str, RunView]
    living: frozenset[str]


def look(study: Study, home: Path, read_before: Read | None = None) -> Sight:
    """Look at every run of a study, and ask for its jobs."""
    place = StudyDir(home, study.name)
    record, promotion = read(place.ledger), promote.load(place)
    planned = expanded(study, place, record.batches)
    promote.check(study, promotion)
    rung = chosen(study, planned, record)
    runs = Runs(place.runs, all_specs(place, planned, promotion, rung), read_before)
    views, scan = look_now(runs, record, backend_of(study.cluster, home))
    return Sight(planned, record, promotion, rung, views, scan.names)


def all_specs(
    place: StudyDir,
    planned: Sequence[Planned],
    promotion: Promotion | None,
    rung: Planned | None,
) -> dict[str, RunSpec]:
    """Every run of a study by id: trunks, trials, the validation rung, and the promoted ones."""
    promoted = zip(promotion.run_ids, promotion.specs, strict=True) if promotion else ()
    return by_id([*with_trunks(planned, place), *([rung] if rung else [])]) | dict(promoted)


def by_id(planned: Iterable[Planned]) -> dict[str, RunSpec]:
    """The runs of trials; of trials with one run, the first's."""
    found: dict[str, RunSpec] = {}
    for p in planned:
        found.setdefault(p.run_id, p.spec)
    return found

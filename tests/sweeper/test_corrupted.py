"""A run whose replicas differed: who is left out, where it goes on, when it is given up."""

from pathlib import Path

import fake_trainer
import pytest
from at_once import AtOnce
from rich.console import Console

from sweeper import driver
from sweeper.designs import expand
from sweeper.driver import Driver
from sweeper.folders import StudyDir
from sweeper.ledger import read
from sweeper.oversight import accused, bad_nodes
from sweeper.record import Decision, Record
from sweeper.runs import Files, deaths, view
from sweeper.speed import Speed
from sweeper.study import Slurm, Study
from sweeper.verdict import End, given_up
from sweeper.watch import Display
from train.config import RunSpec, run_id
from train.runlog import Attempt, Failure, RunDir


@pytest.fixture
def specs(study: Study) -> list[RunSpec]:
    return list({p.run_id: p.spec for p in expand(study)}.values())


def corrupted(*hosts: str, attempt: int = 1, step: int = 0) -> Failure:
    said = f"step 8: {' '.join(hosts)}"
    return Failure(attempt=attempt, cause="corrupted", message=said, step=step, hosts=hosts)


def files(*hosts: str) -> Files:
    """A run of ranks on n1 to n4, the first on n1, in which these were named."""
    return Files(None, (Attempt(number=1, job="j", host="n1"),), (corrupted(*hosts),))


def test_the_node_that_was_named_is_avoided_and_not_that_of_the_first_rank(
    specs: list[RunSpec],
) -> None:
    seen = view(run_id(specs[0]), specs[0], files("n3"), set(), lives=False)
    assert (seen.state, seen.cause, seen.avoid) == ("PLANNED", "corrupted", ("n3",))


def test_a_node_named_alone_is_left_out_at_once_and_of_two_each_counts_as_a_death() -> None:
    record, alone, both = Record(), {"a": files("n3")}, {"a": files("n1", "n2")}
    (event,) = bad_nodes(record, deaths(alone, record), accused(alone, record))
    assert (event["node"], "run a differed" in event["why"]) == ("n3", True)
    assert bad_nodes(record, deaths(both, record), accused(both, record)) == []
    again = both | {"b": files("n1", "n4")}
    (event,) = bad_nodes(record, deaths(again, record), accused(again, record))
    assert (event["node"], event["why"]) == ("n1", "2 runs died there")


def test_what_a_person_had_tried_anew_accuses_nobody() -> None:
    record = Record(decisions={"a": Decision(None, "by hand", after=1)})
    assert accused({"a": files("n3")}, record) == {}


def test_it_is_given_up_only_where_it_gets_no_further(specs: list[RunSpec]) -> None:
    on = [End(n, "corrupted", "step 9: n3", step=n * 100, hosts=("n3",)) for n in range(1, 9)]
    assert given_up(specs[0], on) == ""
    stuck = [End(n, "corrupted", "step 9: n3", step=100) for n in range(1, 5)]
    why = given_up(specs[0], stuck)
    assert "3 attempts in a row got no further than step 100" in why
    assert "sweeper bisect-nodes" in why
    assert why.endswith("step 9: n3")


class FourNodes(AtOnce):
    """A scheduler that can leave nodes out."""

    array_size = 1000


def test_a_corrupted_run_is_tried_again_elsewhere_and_no_other_goes_there(
    study: Study, specs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)

    def work(grants: list[tuple[Path, int]], job: str) -> None:
        for path, number in grants:
            if number == 1 and path.name == run_id(specs[0]):
                RunDir(path).claim(Attempt(number=1, job=job, host="n1"))
                RunDir(path).write_failure(corrupted("n3"))
            else:
                fake_trainer.work([(path, number)], job, 1, 0, 1, 0, Path("unused"))

    place, backend = StudyDir(tmp_path, study.name), FourNodes(work)
    place.path.mkdir(parents=True)
    display = Display(Console(quiet=True), study.name, Speed())
    on_slurm = study.model_copy(update={"cluster": Slurm(workers=1)})
    driving = Driver(on_slurm, place, Speed(), display, backend)
    driving.drive("trials", {run_id(s): s for s in specs[:3]}, lambda views: None)
    assert all(RunDir(place.runs / run_id(spec)).result() for spec in specs[:3])
    first = next(n for n, order in enumerate(backend.started) if order.exclude)
    assert all(set(order.exclude) == {"n3"} for order in backend.started[first:])
    assert read(place.ledger).cordoned.keys() == {"n3"}

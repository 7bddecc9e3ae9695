"""Nodes that are left out, and the run that a program sends ahead: by what, and by what not."""

from pathlib import Path

import fake_trainer
import pytest
from at_once import AtOnce
from rich.console import Console

from sweeper import decisions, driver
from sweeper.designs import expand
from sweeper.dispatch import next_jobs
from sweeper.driver import Driver
from sweeper.folders import StudyDir
from sweeper.jobs import Order, Refused
from sweeper.ledger import Ledger, read
from sweeper.oversight import CORDON_AFTER, bad_nodes
from sweeper.record import Decision, Record
from sweeper.runs import Files, RunView, deaths, view
from sweeper.speed import Speed
from sweeper.study import Slurm, Study
from sweeper.watch import Display
from train.config import RunSpec, run_id
from train.runlog import Attempt, Failure, create_run


@pytest.fixture
def specs(study: Study) -> list[RunSpec]:
    return list({p.run_id: p.spec for p in expand(study)}.values())


def killed(*nodes: str) -> Files:
    """A run that was killed on each of these nodes in turn."""
    attempts = [Attempt(number=n, job=f"j{n}", host=node) for n, node in enumerate(nodes, start=1)]
    failures = [Failure(attempt=a.number, cause="killed", message="signal 9") for a in attempts]
    return Files(None, tuple(attempts), tuple(failures))


def test_a_node_is_left_out_for_the_runs_that_died_there_not_for_their_attempts() -> None:
    assert CORDON_AFTER == 2
    record = Record()
    assert bad_nodes(record, deaths({"a": killed("n1", "n1")}, record)) == []
    (event,) = bad_nodes(record, deaths({"a": killed("n1", "n2"), "b": killed("n1")}, record))
    assert (event["node"], event["why"]) == ("n1", "2 runs died there")


def test_what_was_tried_anew_by_hand_is_past(specs: list[RunSpec]) -> None:
    seen = {"a": killed("n1"), "b": killed("n1")}
    record = Record(decisions={"a": Decision(None, "by hand", after=1)})
    assert bad_nodes(record, deaths(seen, record)) == []
    spec = specs[0]
    waiting = view(run_id(spec), spec, killed("n1"), set(), False, record.decisions["a"])
    assert waiting.avoid == ()


def test_a_retry_takes_a_node_back_and_a_person_may_for_good(
    specs: list[RunSpec], tmp_path: Path
) -> None:
    place = StudyDir(tmp_path, "s")
    place.path.mkdir(parents=True)
    ledger = Ledger(place.ledger)
    cordon = {"event": "cordon", "node": "n1", "why": "2 runs died there"}
    ledger.append(cordon)
    failed = view(run_id(specs[0]), specs[0], killed("n1", "n1", "n1"), set(), False)
    assert (failed.state, failed.avoid) == ("FAILED", ("n1",))
    decisions.retry(ledger, place, [failed], "by hand")
    assert read(place.ledger).cordoned == {}
    ledger.append(cordon)
    decisions.leave(place, "uncordon", ["n1"])
    (said,) = decisions.take(ledger, place, {})
    assert "n1 may get jobs again" in said
    record = read(place.ledger)
    assert record.cordoned == {}
    assert bad_nodes(record, {"n1": {"a", "b", "c"}}) == []


def waiting(spec: RunSpec, *avoid: str) -> RunView:
    return RunView(run_id(spec), spec, "PLANNED", 1, avoid=avoid)


def test_runs_that_died_are_asked_for_elsewhere_unless_they_died_everywhere(
    specs: list[RunSpec],
) -> None:
    cluster, speed = Slurm(workers=8), Speed()
    views = {run_id(s): waiting(s, f"n{n}") for n, s in enumerate(specs[:3])}
    (request,) = next_jobs(views, [], cluster, speed, 100)
    assert sorted(request.avoid) == ["n0", "n1", "n2"]
    views = {run_id(s): waiting(s, f"n{n}") for n, s in enumerate(specs[:6])}
    (request,) = next_jobs(views, [], cluster, speed, 100)
    assert request.avoid == ()


class TwoNodes(AtOnce):
    """Refuses a job that may run nowhere, as Slurm does."""

    array_size = 1000

    def submit(self, order: Order) -> str:
        if {"n1", "n2"} <= set(order.exclude):
            raise Refused("Requested node configuration is not available", passing=False)
        return super().submit(order)


def driving(study: Study, home: Path, backend: AtOnce) -> Driver:
    place = StudyDir(home, study.name)
    place.path.mkdir(parents=True, exist_ok=True)
    display = Display(Console(quiet=True), study.name, Speed())
    return Driver(study, place, Speed(), display, backend)


def work(grants: list[tuple[Path, int]], job: str) -> None:
    fake_trainer.work(grants, job, 1, 0, 1, 0, Path("unused"))


def test_where_a_run_died_on_all_nodes_one_of_them_is_better_than_none(
    study: Study, specs: list[RunSpec], tmp_path: Path
) -> None:
    backend = TwoNodes(work)
    driver = driving(study, tmp_path, backend)
    request = next_jobs({"r": waiting(specs[0], "n1", "n2")}, [], Slurm(), Speed(), 100)[0]
    run = create_run(tmp_path, specs[0])
    run.claim(Attempt(number=1, host="n1"))
    assert driver.jobs.train("trials", request) is not None
    assert [order.exclude for order in backend.started] == [()]
    assert run.result() is not None


def granted(order: Order) -> int:
    return len(order.arguments[0][1])


def test_only_a_run_of_this_state_of_the_program_goes_for_a_proof(
    study: Study, specs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    first, second = specs[:4], specs[4:10]
    for batch, code in ((first, "one"), (second, "two")):
        backend = AtOnce(work)
        backend.chains = True
        driving_now = driving(
            study.model_copy(update={"cluster": Slurm(workers=8)}), tmp_path, backend
        )
        backend.array_size = driving_now.jobs.array_size = 100
        driving_now.jobs.__dict__["code"] = tmp_path / code
        driving_now.drive("trials", {run_id(s): s for s in (*first, *batch)}, lambda views: None)
        record = read(driving_now.place.ledger)
        assert code in record.proven
        # The smallest alone, whatever an earlier state of the program has trained.
        mine = [job for job in record.jobs if job.code == code]
        assert (len(mine[0].grants), mine[0].elements) == (1, 1)
        assert len(mine) > 1

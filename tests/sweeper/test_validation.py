"""The validation rung: chosen once, trained once, unseen by the fit, and held to its forecast."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import STUDY
from rich.console import Console

from analysis import store
from model.counts import params_active
from sweeper.designs import expand
from sweeper.errors import UserError
from sweeper.folders import StudyDir, driver_lock
from sweeper.gates import GateResult
from sweeper.launch import Standing, run_rung, run_trials, stand
from sweeper.opening import opened
from sweeper.overrides import with_values
from sweeper.record import Stage, replay
from sweeper.rehearse import Chance, rehearse
from sweeper.runs import RunView, planned_flops
from sweeper.simulated import Request, SimulatedDriver, Trainer
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.study_file import load
from sweeper.summary import promotion_lines
from sweeper.truth import CHINCHILLA
from sweeper.validation import choose, chosen
from sweeper.watch import Display
from train.config import RunSpec
from train.runlog import Result, RunDir

RUNG = 1.28e14
LAX = {"fit_quality": 100, "interval_width": 10.0, "backtest_error": 1.0, "extrapolation": 3.0}


def with_rung(study: Study) -> Study:
    """A study whose gates let anything pass but a missed rung."""
    limits = {f"promotion.gates.{name}": limit for name, limit in LAX.items()}
    return with_values(study, limits | {"promotion.rung": RUNG})


@pytest.fixture
def tested(study: Study) -> Study:
    return with_rung(study)


@dataclass(frozen=True)
class Elsewhere(Trainer):
    """A trainer whose runs of the rung measure `factor` times their loss, or diverge at 0."""

    factor: float = 1.0

    def result(self, spec: RunSpec) -> Result:
        true = super().result(spec)
        if spec.budget != RUNG or true.nats_per_token is None:
            return true
        if not self.factor:
            lost = {"state": "DIVERGED", "cause": "diverged", "nats_per_token": None}
            return true.model_copy(update=lost)
        return true.model_copy(update={"nats_per_token": true.nats_per_token * self.factor})


def elsewhere(factor: float) -> Trainer:
    return Elsewhere(CHINCHILLA, 0.002, 0.0, 0.0, "0", Speed(), factor)


TRUE = elsewhere(1.0)


class Died(BaseException):
    """The driver's end at an instant of the test's choosing."""


class Mortal(SimulatedDriver):
    """A driver that dies once the rung is in the ledger, or before or after its job."""

    instant = ""

    def drive(self, stage: Stage, *rest: object) -> None:  # pyright: ignore
        if stage == "validation" and self.instant == "chosen":
            raise Died
        super().drive(stage, *rest)  # pyright: ignore

    def _do(self, stage: Stage, request: Request) -> None:
        if stage == "validation" and self.instant == "submitting":
            raise Died
        super()._do(stage, request)
        if stage == "validation" and self.instant == "trained":
            raise Died


def driven(study: Study, place: StudyDir, simulated: Trainer = TRUE, instant: str = "") -> Standing:
    """Trials and rung brought to their ends, by a driver that dies at an instant."""
    with driver_lock(place), Display(Console(quiet=True), study.name, Speed()) as display:
        place.resolved.write_text(study.model_dump_json())
        driver = Mortal(study, place, display, simulated)
        driver.instant = instant
        run_trials(driver, expand(study))
        return run_rung(driver, stand(study, place.home))


def events(place: StudyDir, kind: str) -> list[dict[str, object]]:
    lines = [json.loads(line)["event"] for line in place.ledger.read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def gate(standing: Standing) -> GateResult:
    assert standing.proposal is not None
    return standing.proposal.gates[-1]


def rung_of(standing: Standing) -> RunView:
    assert standing.rung is not None
    return standing.views[standing.rung.run_id]


def write_study(corpus: Path, folder: Path) -> Path:
    path = folder / "small.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    return path


@dataclass(frozen=True)
class Finished:
    """A study whose rung was trained and hit."""

    study: Study
    place: StudyDir
    standing: Standing


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the trials of the study are done, and no rung was chosen."""
    folder = tmp_path_factory.mktemp("trained")
    study = load(write_study(corpus, folder))
    driven(study, StudyDir(folder / "home", study.name))
    return folder / "home"


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> StudyDir:
    return StudyDir(shutil.copytree(trained, tmp_path / "home"), "small")


@pytest.fixture(scope="module")
def finished(trained: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    study = with_rung(load(write_study(corpus, folder)))
    place = StudyDir(shutil.copytree(trained, folder / "home"), study.name)
    return Finished(study, place, driven(study, place))


def test_the_rung_is_trained_at_the_optimum_forecast_for_it_and_laid_out_as_the_promoted_run(
    finished: Finished,
) -> None:
    standing, plan = finished.standing, finished.study.promotion
    spec, said = rung_of(standing).spec, standing.findings.rung
    assert said is not None
    assert planned_flops(spec) == pytest.approx(RUNG, rel=0.02)
    assert params_active(spec.model) == pytest.approx(said.params, rel=0.15)
    assert (spec.parallel.dp, spec.seed) == (plan.dp, plan.seed)
    assert rung_of(standing).state == "DONE"
    assert gate(standing).passed
    assert not standing.rung_is_due


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["below", "above"])
def test_a_missed_rung_holds_the_promotion_and_says_by_how_much(
    tested: Study, place: StudyDir, factor: float
) -> None:
    standing = driven(tested, place, elsewhere(factor))
    assert standing.proposal is not None
    assert standing.proposal.held == ("validation_rung",)
    assert (gate(standing).observed or 0) > 1
    assert rung_of(standing).run_id in gate(standing).why
    said = "\n".join(promotion_lines(standing, "small.py"))
    assert "not promoted: held by validation_rung" in said
    assert '--force "your reason"' in said


def test_a_diverged_rung_holds_and_is_not_trained_again(tested: Study, place: StudyDir) -> None:
    first, again = (driven(tested, place, elsewhere(0)) for _ in range(2))
    assert "DIVERGED" in gate(first).why
    assert gate(again) == gate(first)
    assert not gate(again).passed
    assert len(events(place, "rung")) == 1
    assert rung_of(again).attempts == 1


def test_no_fit_is_given_the_rung(finished: Finished) -> None:
    asks_none = with_values(finished.study, {"promotion.rung": None})
    without, with_it = stand(asks_none, finished.place.home), finished.standing
    assert with_it.findings.forecast is not None
    assert without.findings.forecast is not None
    assert with_it.findings.forecast.loss == without.findings.forecast.loss
    name = rung_of(with_it).run_id
    assert all(name not in fit.run_ids for fit in with_it.findings.fits)


def test_nothing_is_spent_on_a_rung_where_another_gate_holds(
    tested: Study, place: StudyDir
) -> None:
    standing = driven(with_values(tested, {"promotion.gates.interval_width": 1e-6}), place)
    assert standing.proposal is not None
    assert standing.proposal.held == ("interval_width", "validation_rung")
    assert (standing.rung, standing.rung_is_due) == (None, False)
    assert events(place, "rung") == []


@pytest.mark.parametrize("instant", ["chosen", "submitting", "trained"])
def test_a_driver_that_dies_around_the_rung_trains_it_once(
    tested: Study, place: StudyDir, instant: str
) -> None:
    with pytest.raises(Died):
        driven(tested, place, instant=instant)
    standing = driven(tested, place)
    assert gate(standing).passed
    assert len(events(place, "rung")) == 1
    assert len(RunDir(place.runs / rung_of(standing).run_id).attempts()) == 1
    assert len(list(place.runs.iterdir())) == len({p.run_id for p in expand(tested)}) + 1


def test_a_killed_rung_is_said_to_be_due(tested: Study, place: StudyDir) -> None:
    with pytest.raises(Died):
        driven(tested, place, instant="chosen")
    said = "\n".join(promotion_lines(stand(tested, place.home), "small.py"))
    assert "validation rung of 1.28e+14 FLOPs: forecast " in said
    assert "the validation rung is to be trained" in said
    assert "sweeper promote small.py" in said


def test_another_study_of_the_same_runs_finds_the_rung_done(finished: Finished) -> None:
    other = finished.study.model_copy(update={"name": "other"})
    again = driven(other, StudyDir(finished.place.home, "other"), elsewhere(2.0))
    assert rung_of(again).result == rung_of(finished.standing).result
    assert rung_of(again).attempts == 1


def test_the_store_and_the_report_show_the_rung(finished: Finished) -> None:
    place, standing = finished.place, finished.standing
    stand(finished.study, place.home, write_report=True)
    name = rung_of(standing).run_id
    with opened(place) as con:
        sql = "select run_id, number, budget from trials where design = 'validation'"
        assert store.query(con, sql).rows() == [(name, len(standing.planned), RUNG)]
    text = place.report.read_text(encoding="utf-8")
    assert f"Run {name}, of " in text
    assert "inside the interval" in text
    assert f"{len(standing.planned)} of {len(standing.planned)} trials are done" in text


def test_the_rung_of_other_trials_is_another_studys(study: Study) -> None:
    asked = with_values(study, {"promotion.rung": RUNG})
    planned = expand(asked)
    said = SimpleNamespace(budget=RUNG, params=400_000.0)
    record = replay([choose(asked, planned, said)])  # pyright: ignore
    found = chosen(asked, planned, record)
    assert found is not None
    assert found.trial.number == len(planned)
    assert chosen(asked, planned[1:], record) is None
    assert chosen(with_values(asked, {"promotion.rung": 2e14}), planned, record) is None


def test_what_a_later_fit_would_choose_changes_no_rung(study: Study) -> None:
    """Trials may be added to those that it was chosen after."""
    asked = with_values(study, {"promotion.rung": RUNG})
    planned = expand(asked)
    said = SimpleNamespace(budget=RUNG, params=400_000.0)
    record = replay([choose(asked, planned[1:], said)])  # pyright: ignore
    found = chosen(asked, planned, record)
    assert found is not None
    assert found.run_id == chosen(asked, planned[1:], record).run_id  # pyright: ignore


def test_a_rung_that_is_a_trial_already_is_refused(study: Study) -> None:
    plan = {"promotion.rung": study.budgets[-1] * (1 + 1e-9), "promotion.dp": 1}
    asked = with_values(study, plan)
    planned = expand(asked)
    last = next(p for p in reversed(planned) if p.trial.design == "isoflop")
    size = float(params_active(last.spec.model))
    said = SimpleNamespace(budget=asked.promotion.rung, params=size)
    with pytest.raises(UserError, match="so near the ladder that it asks for a run of it"):
        choose(asked, planned, said)  # pyright: ignore


@pytest.mark.slow
def test_a_rehearsal_trains_the_rung_and_pays_for_it(tested: Study) -> None:
    chance = Chance(noise=0.002, diverge=0.0, fail=0.0, seed=0)
    (plain,) = rehearse(
        with_values(tested, {"promotion.rung": None}), CHINCHILLA, chance, 1, Speed()
    ).replicates
    (done,) = rehearse(tested, CHINCHILLA, chance, 1, Speed()).replicates
    assert done.flops == pytest.approx(plain.flops + RUNG, rel=0.01)
    assert done.states == plain.states
    assert done.promoted

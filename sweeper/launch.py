"""From a study to its report: trials, fit, gates, the promoted stages; resumable at any point."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from analysis.forecast import as_json
from analysis.report import write as report
from sweeper import adaptive, gates, promote
from sweeper.designs import Planned, expand
from sweeper.driver import Driver
from sweeper.folders import StudyDir, driver_lock
from sweeper.ledger import read
from sweeper.promote import Promotion, Proposal
from sweeper.results import Findings, opened, refresh
from sweeper.runs import Runs, RunView, look_now
from sweeper.speed import Speed, measured_speed
from sweeper.study import Study
from sweeper.trials import OptunaTrials
from sweeper.validation import choose, chosen
from sweeper.watch import Display
from train.config import RunSpec
from train.runlog import write_atomic


@dataclass(frozen=True)
class Standing:
    """Where a study stands: every trial and promoted run, and what they say of the target.

    `rung` is the validation rung, once it was chosen.
    """

    planned: Sequence[Planned]
    views: Mapping[str, RunView]
    findings: Findings
    proposal: Proposal | None
    promotion: Promotion | None
    rung: Planned | None = None

    @property
    def failed(self) -> list[RunView]:
        """Runs that gave no result, and promoted ones that diverged: a trial may."""
        promoted = self.promotion.run_ids if self.promotion else ()
        return [
            run
            for name, run in self.views.items()
            if run.state == "FAILED" or (run.state == "DIVERGED" and name in promoted)
        ]

    @property
    def rung_is_due(self) -> bool:
        """Whether a validation rung that has not ended is all that holds the promotion."""
        if self.promotion or self.proposal is None:
            return False
        run = self.views[self.rung.run_id] if self.rung else None
        return self.proposal.held == ("validation_rung",) and not (run and run.finished)


def stand(study: Study, home: Path, *, write_report: bool = False) -> Standing:
    """Bring the store of a study up to date and say where the study stands."""
    place = StudyDir(home, study.name)
    record, promotion = read(place.ledger), promote.load(place)
    planned = expand(study, record.batches)
    promote.check(study, promotion)
    rung = chosen(study, planned, record)
    runs = Runs(place.runs, all_specs(planned, promotion, rung))
    views = look_now(runs, record.jobs, home)
    findings = refresh(place, study, planned, record, views, promotion, rung)
    if write_report:
        with opened(place) as con:
            report.write(con, study.name, place.report)
    proposal = propose(study, planned, views, findings, measured_speed(place.runs), rung)
    return Standing(planned, views, findings, proposal, promotion, rung)


def all_specs(
    planned: Sequence[Planned], promotion: Promotion | None, rung: Planned | None
) -> list[RunSpec]:
    """Every run of a study: those of its trials, the validation rung, and the promoted ones."""
    trials = [*planned, *([rung] if rung else [])]
    return [p.spec for p in trials] + list(promotion.specs if promotion else ())


def propose(
    study: Study,
    planned: Sequence[Planned],
    views: Mapping[str, RunView],
    findings: Findings,
    speed: Speed,
    rung: Planned | None,
) -> Proposal | None:
    """The promotion that the forecast asks for, before every gate; None without a forecast."""
    if findings.forecast is None:
        return None
    chain = promote.specs(study, findings.forecast)
    expected = promote.cost(chain, speed)
    states = Counter(views[p.run_id].state for p in planned)
    said = findings.rung
    validation = said and gates.Validation(said, views[rung.run_id] if rung else None)
    evidence = gates.Evidence(findings.forecast, states, expected.gpu_hours, validation)
    return Proposal(chain, expected, gates.judge(evidence, study.promotion.gates))


def launch(study: Study, home: Path, console: Console) -> Standing:
    """Do all of a study that is not done yet, up to the report.

    Raises DriverBusy where another driver holds it, JobsFailed where jobs cannot run.
    """
    place = StudyDir(home, study.name)
    planned = expand(study, read(place.ledger).batches)
    with driver_lock(place):
        promote.check(study, promote.load(place))
        write_atomic(place.resolved, study.model_dump_json(indent=1))
        with Display(console, study.name, measured_speed(place.runs)) as display:
            driver = Driver(study, place, display.speed, display)
            run_trials(driver, planned)
            auto = study.promotion.approve == "auto"
            if (auto or study.promotion.rung) and promote.load(place) is None:
                standing = run_rung(driver, stand(study, home))
                if auto:
                    _decide(driver, standing, "gates", "every gate passed")
            run_promotion(driver)
        return stand(study, home, write_report=True)


def promote_by_hand(
    study: Study, home: Path, console: Console, person: str, force: str | None
) -> Standing:
    """Promote on a person's word: past the gates only where `force` gives a reason."""
    place = StudyDir(home, study.name)
    with driver_lock(place):
        with Display(console, study.name, measured_speed(place.runs)) as display:
            driver = Driver(study, place, display.speed, display)
            if promote.load(place) is None:
                reason, standing = force or "every gate passed", stand(study, home)
                standing = standing if force else run_rung(driver, standing)
                _decide(driver, standing, person, reason, bool(force))
            run_promotion(driver)
        return stand(study, home, write_report=True)


def run_trials(driver: Driver, planned: Sequence[Planned]) -> None:
    """Ask Optuna for every trial, run what has no result, tell Optuna how each ended.

    An adaptive design asks for more trials as results arrive, until it has enough.
    """
    place, study = driver.place, driver.study
    views = look_now(
        Runs(place.runs, all_specs(planned, None, None)), driver.ledger.record.jobs, place.home
    )
    trials = OptunaTrials(place.optuna, study, planned, views)
    known = list(planned)

    def finished(views: Mapping[str, RunView]) -> list[RunSpec]:
        trials.tell(views)
        more = adaptive.grow(study, known, views, driver.ledger, driver.display.say)
        known.extend(more)
        new = trials.ask(known)[len(specs) :] if more else []
        specs.extend(asked.spec for asked in new)
        return [asked.spec for asked in new]

    specs: list[RunSpec] = []
    try:
        specs.extend(asked.spec for asked in trials.ask(known))
        if not all(run.finished for run in views.values()):
            driver.prepare(spec.data for spec in specs)
        driven = -1
        # Until the last that was asked for has ended and nothing more was.
        while driven < len(specs):
            driven = len(specs)
            driver.drive("trials", list(specs), finished)
    finally:
        trials.close()


def run_rung(driver: Driver, standing: Standing) -> Standing:
    """Train the validation rung where it is all that the promotion waits for."""
    study, place, said = driver.study, driver.place, standing.findings.rung
    if said is None or not standing.rung_is_due:
        return standing
    if standing.rung is None:
        driver.ledger.append(choose(study, standing.planned, said))
    rung = chosen(study, standing.planned, driver.ledger.record)
    assert rung is not None
    driver.display.say(
        f"trial {rung.trial.number} is the validation rung of {said.budget:.3g} FLOPs: forecast "
        f"{said.loss:.4f} nats/token ({said.low:.4f} to {said.high:.4f})"
    )
    if not place.has_result(rung.run_id):
        driver.prepare([rung.spec.data])
    driver.drive("validation", [rung.spec], lambda views: None)
    return stand(study, place.home)


def _decide(
    driver: Driver, standing: Standing, person: str, reason: str, forced: bool = False
) -> None:
    """Write the promotion down where the gates let it pass, or a person does."""
    proposal, forecast = standing.proposal, standing.findings.forecast
    if proposal is None or forecast is None or (proposal.held and not forced):
        return
    decided = promote.decide(driver.place, proposal, as_json(forecast), person, reason)
    driver.ledger.append({"event": "promoted", "digest": decided.digest, "by": decided.decided_by})


def run_promotion(driver: Driver) -> None:
    """Run the promoted stages, each when the one before is DONE."""
    promotion = promote.load(driver.place)
    if promotion is None:
        return
    for spec, name in zip(promotion.specs, promotion.run_ids, strict=True):
        if not driver.place.has_result(name):
            driver.prepare([spec.data])
        ended: dict[str, RunView] = {}
        driver.drive("promotion", [spec], ended.update)
        if ended[name].state != "DONE":
            return

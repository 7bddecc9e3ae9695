"""From a study to its report: trials, fit, gates, the promoted stages; resumable at any point."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from analysis.forecast import as_json
from analysis.report import write as report
from sweeper import difference, gates, promote
from sweeper.driver import Driver
from sweeper.expansion import expanded
from sweeper.folders import StudyDir, driver_lock
from sweeper.growth import grow
from sweeper.ledger import read
from sweeper.opening import reading
from sweeper.plan import trained_by
from sweeper.plan_words import reuse_lines
from sweeper.planner import Planned
from sweeper.promote import Promotion, Proposal
from sweeper.pruning import Pruner
from sweeper.results import Findings, refresh
from sweeper.runs import Read, Runs, RunView, look_now
from sweeper.sight import by_id, look
from sweeper.speed import Speed, measured_speed
from sweeper.study import Study
from sweeper.trials import OptunaTrials
from sweeper.trunks import with_trunks
from sweeper.validation import choose, chosen
from sweeper.watch import Display
from train.config import RunSpec


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
    def rung_is_due(self) -> bool:
        """Whether a validation rung that has not ended is all that holds the promotion."""
        if self.promotion or self.proposal is None:
            return False
        run = self.views[self.rung.run_id] if self.rung else None
        return self.proposal.held == ("validation_rung",) and not (run and run.finished)


def stand(
    study: Study, home: Path, read_before: Read | None = None, *, write_report: bool = False
) -> Standing:
    """Bring the store of a study up to date and say where the study stands."""
    place, seen = StudyDir(home, study.name), look(study, home, read_before)
    planned, promotion, rung, views = seen.planned, seen.promotion, seen.rung, seen.views
    findings = refresh(place, study, planned, seen.record, views, promotion, rung)
    if write_report:
        with reading(place) as con:
            report.write(con, study.name, place.report)
    proposal = propose(study, planned, views, findings, measured_speed(place.runs), rung)
    return Standing(planned, views, findings, proposal, promotion, rung)


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
    planned = expanded(study, place, read(place.ledger).batches)
    with driver_lock(place):
        promote.check(study, promote.load(place))
        with Display(console, study.name, measured_speed(place.runs)) as display:
            driver = Driver(study, place, display.speed, display)
            _say_what_changed(driver, with_trunks(planned, place))
            run_trials(driver, planned)
            auto = study.promotion.approve == "auto"
            if (auto or study.promotion.rung) and promote.load(place) is None:
                standing = run_rung(driver, stand(study, home, driver.read))
                if auto:
                    _decide(driver, standing, "gates", "every gate passed")
            run_promotion(driver)
        return stand(study, home, driver.read, write_report=True)


def _say_what_changed(driver: Driver, planned: Sequence[Planned]) -> None:
    """The difference to the last launch and what others trained already, before anything starts."""
    study, place = driver.study, driver.place
    before = difference.launched(place, driver.ledger.record)
    if before is not None:
        found = difference.compare(before, study, planned, lambda run: trained_by(place, run))
        for line in difference.lines(found):
            driver.display.say(line)
    for line in reuse_lines(study, {p.run_id: trained_by(place, p.run_id) for p in planned}):
        driver.display.say(line)
    difference.remember(place, study, planned)


def promote_by_hand(
    study: Study, home: Path, console: Console, person: str, force: str | None
) -> Standing:
    """Promote on a person's word: past the gates only where `force` gives a reason."""
    place = StudyDir(home, study.name)
    with driver_lock(place):
        with Display(console, study.name, measured_speed(place.runs)) as display:
            driver = Driver(study, place, display.speed, display)
            if promote.load(place) is None:
                reason = force or "every gate passed"
                standing = stand(study, home, driver.read)
                standing = standing if force else run_rung(driver, standing)
                _decide(driver, standing, person, reason, bool(force))
            run_promotion(driver)
        return stand(study, home, driver.read, write_report=True)


def run_trials(driver: Driver, planned: Sequence[Planned]) -> None:
    """Ask Optuna for every trial, run what has no result, tell Optuna how each ended.

    A design that grows asks for more trials as results arrive, until it has enough.
    """
    place, study = driver.place, driver.study
    runs = Runs(place.runs, by_id(with_trunks(planned, place)), driver.read)
    views, _ = look_now(runs, driver.ledger.record, driver.backend)
    trials, pruner = OptunaTrials(place.optuna, study, planned, views), Pruner(study, place.runs)
    known = list(planned)

    def finished(views: Mapping[str, RunView]) -> dict[str, RunSpec]:
        trials.tell(views, pruner.curves)
        more = grow(study, known, views, driver.ledger, driver.display.say)
        known.extend(more)
        trials.ask(known)
        return by_id(more)

    def hopeless(views: Mapping[str, RunView]) -> list[tuple[str, str]]:
        return pruner.look(known, views)

    try:
        trials.ask(known)
        if not all(run.finished for run in views.values()):
            driver.prepare(p.spec.data for p in known)
        driven = -1
        # Until the last that was asked for has ended and nothing more was.
        while driven < len(known):
            driven = len(known)
            driver.drive("trials", by_id(with_trunks(known, place)), finished, hopeless)
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
    driver.drive("validation", by_id([rung]), lambda views: None)
    return stand(study, place.home, driver.read)


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
    specs = dict(zip(promotion.run_ids, promotion.specs, strict=True))
    left = [spec for name, spec in specs.items() if not driver.place.has_result(name)]
    if left:
        driver.prepare(spec.data for spec in left)
    driver.drive("promotion", specs, lambda views: None)

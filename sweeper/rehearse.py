"""A study rehearsed: run whole against a law that is known, and judged by that law.

A power analysis before anything is spent: what interval at the target would this design buy, does
it hold the truth as often as it says, and would the gates let it promote?
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import dataclasses
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from analysis.law import finite
from sweeper.designs import expand
from sweeper.folders import StudyDir, driver_lock
from sweeper.launch import Standing, run_rung, run_trials, stand
from sweeper.runs import RunView, own_flops
from sweeper.simulated import SimulatedDriver, Trainer
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.truth import Law, Optimum, optimum
from sweeper.watch import Display

if TYPE_CHECKING:
    from analysis.law import Forecast

QUANTITIES = ("loss", "params", "tokens")
NO_FORECAST = "no_forecast"


@dataclass(frozen=True)
class Chance:
    """What may happen to runs: `noise` of the log loss, probabilities to diverge and to die."""

    noise: float
    diverge: float
    fail: float
    seed: int


@dataclass(frozen=True)
class Estimate:
    """One quantity at the target as a replicate forecast it, beside its true value."""

    truth: float
    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """ln(forecast / truth)."""
        return math.log(self.value / self.truth)

    @property
    def width(self) -> float:
        """ln(high / low); infinite where the interval is open."""
        return math.log(self.high / self.low) if self.low > 0 else math.inf

    @property
    def covered(self) -> bool:
        return self.low <= self.truth <= self.high


@dataclass(frozen=True)
class Replicate:
    """What one rehearsal came to.

    `states` are of its trials, `flops` were spent on them and on the validation rung. `estimates`
    are empty where `refusal` says why there is no forecast; `held_by` names the gates that would
    not let the promotion pass.
    """

    number: int
    states: dict[str, int]
    flops: float
    estimates: dict[str, Estimate]
    refusal: str
    held_by: tuple[str, ...]

    @property
    def trials(self) -> int:
        return sum(self.states.values())

    @property
    def promoted(self) -> bool:
        return not self.held_by


@dataclass(frozen=True)
class Rehearsal:
    """All replicates of a study against one law."""

    study: str
    law: Law
    chance: Chance
    truth: Optimum
    replicates: tuple[Replicate, ...]


@dataclass(frozen=True)
class Summary:
    """One quantity over the replicates that had a forecast.

    `width` is the median of ln(high / low), `bias` and `rms_error` are of ln(forecast / truth).
    `covered` of `forecasts` intervals held the truth: a share between `coverage_low` and
    `coverage_high` (95 %, exact binomial).
    """

    forecasts: int
    width: float
    bias: float
    rms_error: float
    covered: int
    coverage_low: float
    coverage_high: float


def rehearse(
    study: Study,
    law: Law,
    chance: Chance,
    replicates: int,
    speed: Speed,
    seen: Callable[[Replicate], None] = lambda replicate: None,
) -> Rehearsal:
    """Run the study `replicates` times against a law, each in a folder that is gone afterwards.

    `seen` is told of every replicate when it ends. Raises UserError for a study that cannot be, or
    a law without an optimum at the target.
    """
    truth = optimum(law, study.base, study.promotion.target)
    done: list[Replicate] = []
    for number in range(1, replicates + 1):
        seed = f"{chance.seed}, replicate {number}"
        trainer = Trainer(law, chance.noise, chance.diverge, chance.fail, seed, speed)
        done.append(_replicate(number, study, trainer, truth))
        seen(done[-1])
    return Rehearsal(study.name, law, chance, truth, tuple(done))


def _replicate(number: int, study: Study, trainer: Trainer, truth: Optimum) -> Replicate:
    with tempfile.TemporaryDirectory(prefix="sweeper-rehearsal-") as folder:
        standing = _run(study, StudyDir(Path(folder).resolve(), study.name), trainer)
    views = [standing.views[p.run_id] for p in standing.planned]
    forecast = standing.findings.forecast
    return Replicate(
        number=number,
        states=dict(sorted(Counter(view.state for view in views).items())),
        flops=sum(map(_flops, standing.views.values())),
        estimates=_estimates(forecast, truth) if forecast else {},
        refusal=standing.findings.refusal,
        held_by=_held_by(standing),
    )


def _run(study: Study, place: StudyDir, trainer: Trainer) -> Standing:
    """The trials of a study brought to their ends, its fits, its rung, and its gates."""
    planned = expand(study)
    with driver_lock(place):
        with Display(Console(quiet=True), study.name, trainer.speed) as display:
            driver = SimulatedDriver(study, place, display, trainer)
            run_trials(driver, planned)
            return run_rung(driver, stand(study, place.home))


def _flops(run: RunView) -> float:
    """What a run cost; one that died for good is counted whole, for nobody knows when it did."""
    return run.result.trained_flops if run.result else own_flops(run.spec)


def _held_by(standing: Standing) -> tuple[str, ...]:
    if standing.proposal is None:
        return (NO_FORECAST,)
    return standing.proposal.held


def _estimates(said: "Forecast", truth: Optimum) -> dict[str, Estimate]:
    return {
        "loss": Estimate(truth.loss, said.loss, said.low, said.high),
        "params": Estimate(truth.params, said.params, said.params_low, said.params_high),
        "tokens": Estimate(truth.tokens, said.tokens, said.tokens_low, said.tokens_high),
    }


def summarise(replicates: Sequence[Replicate]) -> dict[str, Summary]:
    """Each quantity over all replicates with a forecast; nothing where none has one."""
    told = [replicate.estimates for replicate in replicates if replicate.estimates]
    return {name: _summary([one[name] for one in told]) for name in QUANTITIES} if told else {}


def _summary(estimates: Sequence[Estimate]) -> Summary:
    errors = [one.error for one in estimates]
    covered = sum(one.covered for one in estimates)
    low, high = _share(covered, len(estimates))
    return Summary(
        forecasts=len(estimates),
        width=statistics.median(one.width for one in estimates),
        bias=statistics.fmean(errors),
        rms_error=math.sqrt(statistics.fmean(error**2 for error in errors)),
        covered=covered,
        coverage_low=low,
        coverage_high=high,
    )


def _share(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n. Source: Clopper and Pearson 1934, Biometrika 26."""
    from scipy import stats

    low, high = stats.beta.ppf(
        [0.025, 0.975], [successes, successes + 1], [n - successes + 1, n - successes]
    )
    return 0.0 if successes == 0 else float(low), 1.0 if successes == n else float(high)


def states(replicates: Sequence[Replicate]) -> dict[str, int]:
    """Trials of all replicates by state."""
    counts: Counter[str] = Counter()
    for replicate in replicates:
        counts.update(replicate.states)
    return dict(sorted(counts.items()))


def held_by(replicates: Sequence[Replicate]) -> dict[str, int]:
    """How many replicates each gate held, those that held most first."""
    counts = Counter(gate for replicate in replicates for gate in replicate.held_by)
    return dict(counts.most_common())


def as_json(rehearsal: Rehearsal) -> dict[str, Any]:
    """A rehearsal as plain data; what is infinite is null."""
    done = rehearsal.replicates
    return {
        "study": rehearsal.study,
        "law": dataclasses.asdict(rehearsal.law),
        **dataclasses.asdict(rehearsal.chance),
        "truth": dataclasses.asdict(rehearsal.truth),
        "summary": {
            "replicates": len(done),
            "trials": statistics.fmean(replicate.trials for replicate in done),
            "flops": statistics.fmean(replicate.flops for replicate in done),
            "states": states(done),
            "promoted": sum(replicate.promoted for replicate in done),
            "held_by": held_by(done),
            **{name: _finite(dataclasses.asdict(said)) for name, said in summarise(done).items()},
        },
        "replicates": [_plain(replicate) for replicate in done],
    }


def _plain(replicate: Replicate) -> dict[str, Any]:
    plain = dataclasses.asdict(replicate) | {"promoted": replicate.promoted}
    plain["held_by"] = list(replicate.held_by)
    plain["estimates"] = {
        name: _finite(dataclasses.asdict(one))
        | _finite({"error": one.error, "width": one.width, "covered": one.covered})
        for name, one in replicate.estimates.items()
    }
    return plain


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: finite(value) for name, value in values.items()}

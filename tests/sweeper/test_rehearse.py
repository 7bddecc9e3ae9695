"""Studies rehearsed: the real manager against a law that is known."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from model.counts import flops_per_token, params_active
from sweeper import cli, truth
from sweeper.designs import expand
from sweeper.errors import UserError
from sweeper.folders import StudyDir, driver_lock
from sweeper.launch import Standing, run_trials, stand
from sweeper.overrides import with_values
from sweeper.recipe import shape
from sweeper.rehearse import (
    NO_FORECAST,
    Chance,
    Estimate,
    Rehearsal,
    Replicate,
    as_json,
    rehearse,
    summarise,
)
from sweeper.runs import read_files
from sweeper.simulated import DEATHS, SimulatedDriver, Trainer
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.truth import CHINCHILLA, Optimum, optimum, scaled, stated
from sweeper.verdict import ends, given_up
from sweeper.watch import Display
from train.runlog import Cause, RunDir

QUIET = Chance(noise=0.0, diverge=0.0, fail=0.0, seed=0)
PLAIN = Chance(noise=0.004, diverge=0.0, fail=0.0, seed=0)
ALL_DIE = Chance(noise=0.004, diverge=0.0, fail=1.0, seed=0)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def place(study: Study, home: Path) -> StudyDir:
    return StudyDir(home, study.name)


def trainer(**rates: float) -> Trainer:
    kept = {"noise": 0.0, "diverge": 0.0, "fail": 0.0} | rates
    return Trainer(CHINCHILLA, seed="0", speed=Speed(), **kept)


def driven(study: Study, place: StudyDir, simulated: Trainer) -> Standing:
    """The trials of a study brought to their ends in a home that stays."""
    with driver_lock(place), Display(Console(quiet=True), study.name, Speed()) as display:
        place.resolved.write_text(study.model_dump_json())
        run_trials(SimulatedDriver(study, place, display, simulated), expand(study))
    return stand(study, place.home)


def against_chinchilla(study: Study, chance: Chance, replicates: int = 1) -> Rehearsal:
    return rehearse(study, CHINCHILLA, chance, replicates, Speed())


# The law that is the truth


def test_the_shape_nearest_the_optimum_reaches_its_loss_and_no_other_is_below(
    study: Study,
) -> None:
    best = optimum(CHINCHILLA, study.base, 2.56e14)
    losses: list[float] = []
    for factor in (1 / 8, 1 / 2, 0.9, 1, 1.1, 2, 8):
        model = shape(study.base, best.params * factor)
        tokens = best.budget / flops_per_token(model)
        losses.append(CHINCHILLA.loss(params_active(model), tokens))
    # A rounded depth makes a shape a per cent cheaper or dearer, and the loss a tenth of that.
    assert losses[3] == pytest.approx(best.loss, rel=1e-3)
    assert min(losses) > best.loss * (1 - 1e-3)


def test_the_scaled_law_keeps_the_optimal_sizes_and_gives_plausible_losses(
    study: Study, place: StudyDir
) -> None:
    law = scaled(study, place)
    for budget in (*study.budgets, study.promotion.target):
        published = optimum(CHINCHILLA, study.base, budget)
        assert optimum(law, study.base, budget).params == pytest.approx(published.params)
    nothing = math.log(study.base.data.vocab_size)
    assert optimum(law, study.base, study.budgets[0]).loss == pytest.approx(2 / 3 * nothing)


def test_a_large_study_is_rehearsed_against_the_published_numbers(
    study: Study, place: StudyDir
) -> None:
    budgets = {"budgets": (1e19, 3e19, 1e20, 3e20), "promotion.target": 1e21}
    sizes = {"base.data.vocab_size": 32_000, "base.shape.d_head": 64}
    law = scaled(with_values(study, budgets | sizes), place)
    assert (law.E, law.A, law.B) == (CHINCHILLA.E, CHINCHILLA.A, CHINCHILLA.B)


def test_five_numbers_are_a_law(study: Study, place: StudyDir) -> None:
    law = stated("1.69,406.4,410.7,0.34,0.28", study, place)
    assert law == replace(truth.HOFFMANN, name="stated", source="as given")


@pytest.mark.parametrize("name", [*truth.TRUTHS])
def test_every_law_by_name_has_an_optimum_at_the_target(
    study: Study, place: StudyDir, name: str
) -> None:
    if name == "measured":
        driven(study, place, trainer(noise=1e-4))
    law = stated(name, study, place)
    best = optimum(law, study.base, study.promotion.target)
    assert best.loss > law.E


def test_a_study_with_results_is_rehearsed_against_them(study: Study, place: StudyDir) -> None:
    assert stated(None, study, place).name == "scaled"
    driven(study, place, trainer(noise=1e-6))
    law = stated(None, study, place)
    assert law.name == "measured"
    assert (law.alpha, law.beta) == pytest.approx((CHINCHILLA.alpha, CHINCHILLA.beta), rel=0.01)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chinchila", "did you mean 'chinchilla'?"),
        ("1,2,3", "is not the five numbers E,A,B,alpha,beta"),
        ("1,2,3,4,nan", "is not the five numbers"),
        ("1.7,400,-400,0.3,0.3", "must be above zero"),
        ("measured", "has no results yet; launch it, or state a law"),
    ],
)
def test_what_is_no_law_is_refused(study: Study, place: StudyDir, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        stated(text, study, place)


def test_a_law_whose_best_model_is_beyond_the_recipe_is_refused(study: Study) -> None:
    law = replace(CHINCHILLA, name="stated", A=1e-9)
    with pytest.raises(UserError, match="its loss has no minimum between"):
        optimum(law, study.base, 1e14)


# The simulated trainer


def test_losses_scatter_about_the_law_as_much_as_stated(study: Study) -> None:
    simulated = trainer(noise=0.01)
    spec = expand(study)[0].spec
    expected = CHINCHILLA.loss(params_active(spec.model), spec.tokens)
    logs: list[float] = []
    for seed in range(400):
        loss = simulated.result(spec.model_copy(update={"seed": seed})).nats_per_token
        assert loss is not None
        logs.append(math.log(loss / expected))
    # Four standard errors of a mean and of a standard deviation of 400.
    assert abs(statistics.fmean(logs)) < 4 * 0.01 / 20
    assert statistics.stdev(logs) == pytest.approx(0.01, rel=4 / math.sqrt(800))


@pytest.mark.slow
def test_a_rate_of_failures_moves_no_loss(study: Study, tmp_path: Path) -> None:
    calm = driven(study, StudyDir(tmp_path / "calm", study.name), trainer(noise=0.01))
    rough = driven(study, StudyDir(tmp_path / "rough", study.name), trainer(noise=0.01, fail=0.3))
    retried = [run for run in rough.views.values() if run.attempts > 1 and run.state == "DONE"]
    assert retried
    for run in retried:
        assert run.result == calm.views[run.run_id].result


def test_dying_attempts_are_repeated_as_often_as_their_cause_allows(
    study: Study, place: StudyDir
) -> None:
    standing = driven(study, place, trainer(fail=1.0))
    assert {run.state for run in standing.views.values()} == {"FAILED"}
    causes: set[Cause] = set()
    for name, run in standing.views.items():
        files = read_files(RunDir(place.runs / name))
        found = ends(files.attempts, files.failures, 0)
        causes.update(end.cause for end in found)
        assert given_up(run.spec, found)
        assert not any(given_up(run.spec, found[:n]) for n in range(1, len(found)))
    assert causes == set(DEATHS)


def test_divergence_is_a_result_that_optuna_is_told_of(study: Study, place: StudyDir) -> None:
    standing = driven(study, place, trainer(diverge=1.0))
    assert {run.state for run in standing.views.values()} == {"DIVERGED"}
    assert {run.attempts for run in standing.views.values()} == {1}
    held = optuna.load_study(study_name=study.name, storage=f"sqlite:///{place.optuna}")
    assert {trial.state.name for trial in held.trials} == {"FAIL"}
    assert {trial.user_attrs["state"] for trial in held.trials} == {"DIVERGED"}
    for run in standing.views.values():
        assert run.result is not None
        assert 0 < run.result.tokens <= run.spec.tokens


def test_every_attempt_was_granted_in_the_ledger_first(study: Study, place: StudyDir) -> None:
    driven(study, place, trainer(fail=0.4))
    lines = [json.loads(line)["event"] for line in place.ledger.read_text().splitlines()]
    intents = {line["job"]: line["grants"] for line in lines if line["event"] == "intent"}
    attempts = [
        (folder.name, attempt)
        for folder in place.runs.iterdir()
        for attempt in RunDir(folder).attempts()
    ]
    assert len(attempts) > len(expand(study))
    for name, attempt in attempts:
        assert [name, attempt.number] in intents[attempt.job]


# Rehearsals


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(study: Study) -> None:
    rough = replace(PLAIN, diverge=0.05, fail=0.1)
    first = as_json(against_chinchilla(study, rough))
    assert as_json(against_chinchilla(study, rough)) == first
    other = as_json(against_chinchilla(study, replace(rough, seed=1)))
    assert other["replicates"] != first["replicates"]


def test_without_noise_the_forecast_is_off_by_the_price_of_a_token_alone(study: Study) -> None:
    """The laws extrapolate FLOPs a token from the sizes tried; the truth has those of its shape."""
    (done,) = against_chinchilla(study, QUIET).replicates
    params, tokens = done.estimates["params"], done.estimates["tokens"]
    assert all(estimate.covered for estimate in done.estimates.values())
    at_its_price = CHINCHILLA.loss(params.value, tokens.value)
    assert done.estimates["loss"].value == pytest.approx(at_its_price, rel=1e-3)
    assert abs(params.error) < 0.03


@pytest.mark.slow
def test_more_noise_makes_wider_intervals(study: Study) -> None:
    widths: list[float] = []
    for noise in (0.0005, 0.008):
        done = against_chinchilla(study, replace(PLAIN, noise=noise), replicates=3)
        widths.append(summarise(done.replicates)["loss"].width)
    assert widths[0] * 2 < widths[1]


def test_a_rehearsal_spends_what_the_design_costs(study: Study) -> None:
    planned = {p.run_id: p.spec for p in expand(study)}
    cost = sum(spec.tokens * flops_per_token(spec.model) for spec in planned.values())
    (done,) = against_chinchilla(study, PLAIN).replicates
    assert done.flops == pytest.approx(cost)
    assert done.states == {"DONE": len(expand(study))}


def test_the_gate_that_would_hold_the_promotion_is_named(study: Study) -> None:
    lax = {"fit_quality": 100, "interval_width": 10.0, "backtest_error": 1.0, "extrapolation": 3.0}
    open_gates = with_values(study, {f"promotion.gates.{k}": v for k, v in lax.items()})
    assert against_chinchilla(open_gates, PLAIN).replicates[0].promoted
    strict = with_values(open_gates, {"promotion.gates.interval_width": 1e-6})
    assert against_chinchilla(strict, PLAIN).replicates[0].held_by == ("interval_width",)


def test_a_study_whose_runs_all_die_has_no_forecast_and_says_why(study: Study) -> None:
    done = against_chinchilla(study, ALL_DIE)
    (replicate,) = done.replicates
    assert replicate.estimates == {}
    assert replicate.refusal
    assert replicate.held_by == (NO_FORECAST,)
    said = as_json(done)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert "loss" not in said["summary"]


@pytest.mark.slow
def test_an_adaptive_design_asks_for_more_as_results_arrive_and_keeps_to_its_flops(
    study: Study,
) -> None:
    design = {"kind": "adaptive", "flops": 6e14, "loss_within": 1e-6, "params_within": 1e-6}
    growing = with_values(study, {"designs": (design,)})
    (done,) = against_chinchilla(growing, PLAIN).replicates
    assert done.trials > len(expand(growing))
    assert done.states == {"DONE": done.trials}
    # Whole batches of tokens: a run spends its budget to within half a batch.
    assert done.flops == pytest.approx(6e14, rel=0.15)
    assert done.flops < 6e14 * 1.001
    assert done.estimates.keys() == {"loss", "params", "tokens"}


def replicate(number: int, low: float, high: float) -> Replicate:
    estimate = Estimate(truth=2.0, value=2.02, low=low, high=high)
    return Replicate(
        number, {"DONE": 3}, 1e18, dict.fromkeys(("loss", "params", "tokens"), estimate), "", ()
    )


def test_coverage_has_the_error_of_its_number_of_replicates() -> None:
    done = [replicate(number, 1.9, 2.1) for number in range(19)] + [replicate(19, 2.01, 2.1)]
    loss = summarise(done)["loss"]
    assert (loss.covered, loss.forecasts) == (19, 20)
    # R: binom.test(19, 20)$conf.int
    assert (loss.coverage_low, loss.coverage_high) == pytest.approx((0.7512672, 0.9987349))
    assert loss.rms_error == pytest.approx(math.log(1.01))
    assert loss.width == pytest.approx(math.log(2.1 / 1.9))


@pytest.mark.parametrize(
    ("interval", "low", "high"), [((1.9, 2.1), 0.0251, 1), ((2.1, 3), 0, 0.9749)]
)
def test_a_single_replicate_says_next_to_nothing_of_coverage(
    interval: tuple[float, float], low: float, high: float
) -> None:
    one = summarise([replicate(0, *interval)])["loss"]
    assert (one.coverage_low, one.coverage_high) == pytest.approx((low, high), abs=0.001)


def test_an_open_interval_is_null_in_json() -> None:
    best = Optimum(1e21, 1e9, 1e11, 2.0)
    done = Rehearsal("x", CHINCHILLA, PLAIN, best, (replicate(0, 1.9, math.inf),))
    said = json.loads(json.dumps(as_json(done), allow_nan=False))
    assert said["replicates"][0]["estimates"]["loss"]["high"] is None
    assert said["summary"]["loss"]["width"] is None


# The verb


def call(study_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["rehearse", str(study_path), *arguments])


def test_json_is_one_object_and_the_home_stays_untouched(study_path: Path, home: Path) -> None:
    result = call(study_path, "--replicates", "1", "--fail", "0.1", "--json")
    assert result.exit_code == 0, result.exception
    assert result.stdout.count("\n") == 1
    said = json.loads(result.stdout)
    assert (said["study"], said["law"]["name"], said["fail"]) == ("small", "scaled", 0.1)
    assert len(said["replicates"]) == said["summary"]["replicates"] == 1
    assert not home.exists()


def test_in_words_every_replicate_has_a_line_and_coverage_its_error(
    study_path: Path, home: Path
) -> None:
    result = call(study_path, "--replicates", "2", "--law", "chinchilla")
    assert result.exit_code == 0, result.exception
    for part in (
        "small: 24 trials, 2 times, against L = 1.817 + 482/N^0.3478 + 2085/D^0.3658",
        "law: chinchilla (Besiroglu et al. 2024",
        "loss: interval ",
        "of 2 intervals of 95% hold the truth (",
        "trials of all replicates: 48 DONE",
        "gates: pass in ",
    ):
        assert part in result.stdout, part


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--law", "hofman"), "did you mean 'hoffmann'?"),
        (("--noise", "-0.1"), "--noise -0.1 is no standard deviation"),
        (("--noise", "nan"), "--noise nan is no standard deviation"),
        (("--fail", "1.5"), "--fail 1.5 is no probability; give one from 0 to 1"),
        (("--diverge", "-1"), "--diverge -1 is no probability"),
        (("--replicates", "0"), "--replicates 0 rehearses nothing"),
        (("promotion.target=1",), "is not above the ladder"),
        (("budgets=(1.0,2.0)",), "study 'small' cannot be expanded"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    study_path: Path, home: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = call(study_path, *arguments)
    assert isinstance(result.exception, UserError), repr(result.exception)
    assert result.exception.exit_code == 2
    assert says in str(result.exception)
    assert result.stdout == ""

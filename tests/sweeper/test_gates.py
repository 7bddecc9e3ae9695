"""Every gate lets good evidence pass, holds bad evidence, and says what it saw."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from analysis.law import BacktestRow, Diagnostic
from sweeper.gates import GATES, Evidence, Validation, half_widths, judge
from sweeper.runs import RunView
from sweeper.study import GateLimits
from train.config import RunSpec, State


def missed(loss: float) -> BacktestRow:
    """A budget whose loss was predicted with an error."""
    return BacktestRow(5e11, 1e12, 0.3, 0.0, 0.0, loss, 0.1, 0.1, 0.01)


@dataclass(frozen=True)
class Said:
    """The part of a Forecast that gates read."""

    budget: float = 1e13
    loss: float = 2.0
    low: float = 1.95
    high: float = 2.05
    level: float = 0.95
    extrapolation: float = 0.6
    diagnostics: tuple[Diagnostic, ...] = (Diagnostic("plain_power_law", "three budgets"),)
    backtest: tuple[BacktestRow, ...] = (missed(-0.01),)


@dataclass(frozen=True)
class Case:
    """Evidence that a gate holds, what it observes, and a part of its reason."""

    change: Callable[[Evidence], Evidence]
    observed: float | None
    why: str


GOOD = Evidence(Said(), {"DONE": 19, "DIVERGED": 1}, gpu_hours=2.0)  # pyright: ignore
SPEC = RunSpec.model_construct(tokens=1)


def rung(loss: float | None, state: State = "DONE", message: str = "") -> Validation:
    """A validation rung whose forecast is 2.0 (1.95 to 2.05), and which measured a loss."""
    view = RunView("abc", SPEC, state, 1, message=message)
    if loss is not None:
        view = replace(view, result=SimpleNamespace(nats_per_token=loss))  # pyright: ignore
    return Validation(Said(), view)  # pyright: ignore


def validated(validation: Validation) -> Callable[[Evidence], Evidence]:
    return lambda good: replace(good, validation=validation)


def saying(**changes: object) -> Callable[[Evidence], Evidence]:
    return lambda good: replace(good, forecast=replace(good.forecast, **changes))


HELD = {
    "fit_quality": Case(
        saying(diagnostics=(Diagnostic("minimum_at_edge", "budget 1e12"),)), 1, "minimum_at_edge"
    ),
    "interval_width": Case(saying(low=1.0, high=3.0), 1.0, "interval 1 to 3 around 2"),
    "extrapolation": Case(saying(extrapolation=2.0), 2.0, "100 times the largest"),
    "backtest_error": Case(saying(backtest=(missed(-0.25),)), 0.25, "1 budgets predicted"),
    "trials_complete": Case(
        lambda good: replace(good, states={"DONE": 1, "FAILED": 1}), 0.5, "1 DONE, 1 FAILED"
    ),
    "budget": Case(lambda good: replace(good, gpu_hours=25.0), 25.0, "GPU-hours"),
    "validation_rung": Case(
        validated(rung(2.1)),
        math.log(2.1 / 2) / math.log(2.05 / 2),
        "1e+13 FLOPs: measured 2.1000 (run abc), forecast without it 2.0000 (1.9500 to 2.0500)",
    ),
}


def test_every_gate_has_a_case_and_a_limit() -> None:
    assert set(HELD) == set(GATES) == set(GateLimits.model_fields)


def test_good_evidence_passes_every_gate() -> None:
    assert [gate.name for gate in judge(GOOD, GateLimits()) if not gate.passed] == []


@pytest.mark.parametrize("name", GATES)
def test_a_gate_holds_what_is_beyond_its_limit_and_only_that(name: str) -> None:
    case = HELD[name]
    results = {gate.name: gate for gate in judge(case.change(GOOD), GateLimits())}
    assert [other for other, gate in results.items() if not gate.passed] == [name]
    assert results[name].observed == pytest.approx(case.observed)
    assert case.why in results[name].why


@pytest.mark.parametrize("name", GATES)
def test_a_gate_opens_when_its_limit_is_moved(name: str) -> None:
    limits = GateLimits.model_validate({name: 0.4 if name == "trials_complete" else 100})
    assert all(gate.passed for gate in judge(HELD[name].change(GOOD), limits))


def test_without_a_back_test_nothing_is_promoted() -> None:
    unproven = saying(backtest=())(GOOD)
    held = [gate for gate in judge(unproven, GateLimits()) if not gate.passed]
    assert [(gate.name, gate.observed) for gate in held] == [("backtest_error", None)]
    assert "needs four usable budgets" in held[0].why


def test_a_study_without_a_rung_passes_that_gate_and_says_so() -> None:
    (gate,) = [gate for gate in judge(GOOD, GateLimits()) if gate.name == "validation_rung"]
    assert (gate.passed, gate.observed) == (True, None)
    assert gate.why == "no validation rung was asked for"


@pytest.mark.parametrize(
    ("loss", "observed", "passed"),
    [
        (2.0, 0.0, True),
        (2.05, 1.0, True),
        (1.95, 1.0, True),
        (2.051, 1.02, False),
        (1.9, 2.03, False),
    ],
)
def test_the_rung_is_hit_where_it_lies_inside_the_interval(
    loss: float, observed: float, passed: bool
) -> None:
    gate = judge(validated(rung(loss))(GOOD), GateLimits())[-1]
    assert (gate.name, gate.passed) == ("validation_rung", passed)
    assert gate.observed == pytest.approx(observed, abs=0.01)


@pytest.mark.parametrize(
    ("validation", "why"),
    [
        (rung(None, "FAILED", "out of memory"), "run abc of 1e+13 FLOPs FAILED: out of memory"),
        (rung(None, "DIVERGED", "diverged"), "run abc of 1e+13 FLOPs DIVERGED: diverged"),
        (rung(None, "RUNNING"), "its run of 1e+13 FLOPs has not ended"),
        (replace(rung(2.0), run=None), "it is trained where every other gate passes"),
    ],
)
def test_a_rung_without_a_loss_holds_and_says_why(validation: Validation, why: str) -> None:
    gate = judge(validated(validation)(GOOD), GateLimits(validation_rung=100))[-1]
    assert (gate.passed, gate.observed) == (False, None)
    assert why in gate.why


def test_an_interval_without_width_is_hit_by_its_forecast_alone() -> None:
    exact = Said(loss=2.0, low=2.0, high=2.0)
    assert half_widths(2.0, exact) == 0  # pyright: ignore
    assert half_widths(2.01, exact) == math.inf  # pyright: ignore


def test_what_a_gate_sees_without_bound_is_said_without_a_number() -> None:
    """A promotion is sealed as JSON, which has no infinity."""
    (gate,) = [g for g in judge(saying(high=math.inf)(GOOD), GateLimits()) if not g.passed]
    assert (gate.name, gate.observed) == ("interval_width", None)

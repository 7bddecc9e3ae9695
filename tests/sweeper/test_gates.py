"""Every gate lets good evidence pass, holds bad evidence, and says what it saw."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from analysis.law import BacktestRow, Diagnostic
from sweeper.gates import GATES, Evidence, judge
from sweeper.study import GateLimits


def missed(loss: float) -> BacktestRow:
    """A budget whose loss was predicted with an error."""
    return BacktestRow(5e11, 1e12, 0.3, 0.0, 0.0, loss, 0.1, 0.1, 0.01)


@dataclass(frozen=True)
class Said:
    """The part of a Forecast that gates read."""

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

"""A promotion is decided once, sealed, and made of runs that follow each other."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_trainer
import pytest

from model.counts import params_active
from sweeper import promote
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.gates import GateResult
from sweeper.overrides import with_values
from sweeper.promote import Promotion, Proposal
from sweeper.runs import RunView, planned_flops
from sweeper.speed import Speed
from sweeper.study import Study
from train.config import RunSpec, run_id

GATES = (GateResult(name="budget", passed=True, observed=1.0, limit=2.0, why="GPU-hours"),)
FORECAST: dict[str, Any] = {"loss": 1.5, "low": 1.4, "high": 1.6, "backtest": (float("nan"),)}


@pytest.fixture
def chain(study: Study) -> tuple[RunSpec, ...]:
    return promote.specs(study, SimpleNamespace(params=700_000.0))  # pyright: ignore


@pytest.fixture
def place(study: Study, tmp_path: Path) -> StudyDir:
    place = StudyDir(tmp_path, study.name)
    place.path.mkdir(parents=True)
    return place


def decided(place: StudyDir, chain: tuple[RunSpec, ...], by: str = "gates") -> Promotion:
    proposal = Proposal(chain, promote.cost(chain, Speed()), GATES)
    return promote.decide(place, proposal, FORECAST, by, "every gate passed")


def test_the_promoted_shape_and_tokens_follow_the_laws(
    study: Study, chain: tuple[RunSpec, ...]
) -> None:
    assert params_active(chain[0].model) == pytest.approx(700_000, rel=0.1)
    assert planned_flops(chain[0]) == pytest.approx(study.promotion.target, rel=0.01)
    assert chain[0].parallel.dp == study.promotion.dp


def test_each_stage_starts_from_the_one_before(chain: tuple[RunSpec, ...]) -> None:
    assert [spec.stage for spec in chain] == ["pretrain", "sft", "dpo"]
    assert [spec.parent for spec in chain] == [None, run_id(chain[0]), run_id(chain[1])]
    assert [spec.tokens for spec in chain[1:]] == [4096, 2048]
    assert {spec.model.d_model for spec in chain} == {chain[0].model.d_model}


def test_a_stage_has_a_rate_of_its_own(chain: tuple[RunSpec, ...]) -> None:
    assert [spec.optim.lr for spec in chain[1:]] == [1e-3, 1e-4]


def test_the_cost_is_that_of_all_stages(chain: tuple[RunSpec, ...]) -> None:
    cost = promote.cost(chain, Speed())
    assert cost.flops == pytest.approx(sum(map(planned_flops, chain)))
    assert cost.gpu_hours == pytest.approx(cost.seconds * 2 / 3600)


def test_a_decision_is_read_back_as_it_was_made(
    place: StudyDir, chain: tuple[RunSpec, ...]
) -> None:
    made = decided(place, chain)
    assert promote.load(place) == made
    assert made.run_ids == tuple(map(run_id, chain))
    assert made.forecast["backtest"] == [None]


def test_a_second_decision_finds_the_first(place: StudyDir, chain: tuple[RunSpec, ...]) -> None:
    first = decided(place, chain)
    second = decided(place, chain[:1], by="somebody else")
    assert second == first


def test_a_promotion_that_was_changed_is_refused(
    place: StudyDir, chain: tuple[RunSpec, ...]
) -> None:
    decided(place, chain)
    text = place.promotion.read_text()
    place.promotion.write_text(text.replace('"decided_by": "gates"', '"decided_by": "me"'))
    with pytest.raises(UserError, match="was changed after it was decided"):
        promote.load(place)


def test_a_torn_promotion_is_refused(place: StudyDir, chain: tuple[RunSpec, ...]) -> None:
    decided(place, chain)
    place.promotion.write_text(place.promotion.read_text()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        promote.load(place)


def test_a_study_cannot_be_promoted_for_two_targets(
    study: Study, place: StudyDir, chain: tuple[RunSpec, ...]
) -> None:
    made = decided(place, chain)
    promote.check(study, made)
    further = with_values(study, {"promotion.target": 9e14})
    with pytest.raises(UserError, match=r"for the target 2.56e\+14, and now asks for 9e\+14"):
        promote.check(further, made)


@pytest.mark.parametrize(("low", "inside"), [(1.0, True), (1.52, False)])
def test_measured_is_compared_with_forecast(
    place: StudyDir, chain: tuple[RunSpec, ...], low: float, inside: bool
) -> None:
    result = fake_trainer.result(chain[0], 1.0)
    assert result.nats_per_token is not None
    made = decided(place, chain).model_copy(
        update={"forecast": {"loss": result.nats_per_token / 1.02, "low": low, "high": 1.7}}
    )
    view = RunView(run_id(chain[0]), chain[0], "DONE", 1, result=result)
    found = promote.compare(made, {view.run_id: view})
    assert found is not None
    assert found.error == pytest.approx(0.02)
    assert found.inside is inside


def test_a_target_whose_shape_cannot_be_is_refused(study: Study) -> None:
    with pytest.raises(UserError, match=r"the promoted run: .* no shape near it"):
        promote.specs(study, SimpleNamespace(params=3.0))  # pyright: ignore

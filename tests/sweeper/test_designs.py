"""The contract of every design: it repeats, stays in bounds, has no duplicates, and can be run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import params_active
from sweeper.designs import DESIGNS, expand, plan_trial, trials
from sweeper.errors import UserError
from sweeper.overrides import with_values
from sweeper.recipe import Recipe, ShapeRule, centre_params
from sweeper.runs import planned_flops
from sweeper.study import Adaptive, Axis, Design, Grid, IsoFLOP, OneAtATime, PromotionPlan, Study
from train.config import BatchConfig, DataConfig

SPECIMENS: dict[str, Design] = {
    "isoflop": IsoFLOP(sizes_per_budget=6, spread=4.0, tokens_per_param=20),
    "adaptive": Adaptive(flops=2e15, start_budgets=3),
    "one_at_a_time": OneAtATime(budget=1e13, seeds=(0, 3)),
    "grid": Grid(budgets=(1e13, 3e13), seeds=(0, 1)),
}


def study_of(*designs: Design, budgets: tuple[float, ...] = (1e13, 4e13, 1.6e14)) -> Study:
    return Study(
        name="designed",
        question="Which trials?",
        base=Recipe(
            data=DataConfig(vocab_size=300, digest="0"),
            seq_len=64,
            batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=16),
            shape=ShapeRule(aspect=16, d_head=4),
        ),
        budgets=budgets,
        seeds=(0, 1),
        axes=(
            Axis(name="activation", path="model.activation", levels=("swiglu", "gelu")),
            Axis(name="rate", path="lr.scale", levels=(0.5, 1.0, 2.0), scale="log"),
        ),
        designs=designs,
        promotion=PromotionPlan(target=budgets[-1] * 10),
    )


def test_every_design_has_a_specimen_here() -> None:
    assert set(SPECIMENS) == set(DESIGNS)


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_design_repeats(kind: str) -> None:
    study = study_of(SPECIMENS[kind])
    assert trials(study) == trials(study)


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_design_has_no_duplicates(kind: str) -> None:
    found = trials(study_of(SPECIMENS[kind]))
    points = [(str(t.params()), str(sorted(t.values.items()))) for t in found]
    assert len(points) == len(set(points)) > 0


@pytest.mark.parametrize("kind", DESIGNS)
def test_every_trial_of_a_design_is_a_run_that_spends_its_budget(kind: str) -> None:
    study = study_of(SPECIMENS[kind])
    for planned in expand(study):
        assert planned.trial.design == kind
        assert planned.spec.budget == planned.trial.budget
        assert planned_flops(planned.spec) == pytest.approx(planned.trial.budget, rel=0.05)
        assert planned.spec.seed == planned.trial.seed


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_trial_made_of_its_own_parameters_is_the_same_run(kind: str) -> None:
    study = study_of(SPECIMENS[kind])
    for planned in expand(study):
        again = planned.trial.with_params(planned.trial.params())
        assert plan_trial(study, again).run_id == planned.run_id


@settings(max_examples=30, deadline=None)
@given(
    st.floats(min_value=1e12, max_value=1e22),
    st.integers(min_value=4, max_value=9),
    st.floats(min_value=2.5, max_value=6),
)
def test_a_ladder_has_distinct_sizes_around_its_centre(
    budget: float, sizes: int, spread: float
) -> None:
    design = IsoFLOP(sizes_per_budget=sizes, spread=spread)
    study = study_of(design, budgets=(budget,))
    centre = centre_params(study.base, budget, design.tokens_per_param)
    found = [p for p in expand(study) if p.trial.seed == 0]
    params = [params_active(p.spec.model) for p in found]
    assert params == sorted(set(params))
    assert 4 <= len(params) <= sizes
    assert centre / spread / 2 < params[0] < centre < params[-1] < centre * spread * 2
    assert [p.trial.params_target for p in found] == params


def test_an_ablation_names_axis_level_and_baseline() -> None:
    found = trials(study_of(OneAtATime(budget=1e13)))
    assert [(t.values["axis"], t.values["level"], t.values["baseline"]) for t in found] == [
        ("activation", "swiglu", True),
        ("activation", "gelu", False),
        ("rate", 0.5, False),
        ("rate", 1.0, True),
        ("rate", 2.0, False),
    ]


def test_one_baseline_run_serves_every_axis() -> None:
    planned = expand(study_of(OneAtATime(budget=1e13)))
    baselines = {p.run_id for p in planned if p.trial.values["baseline"]}
    assert len(baselines) == 1
    assert len({p.run_id for p in planned}) == len(planned) - 1


def test_a_level_changes_the_run_by_its_path() -> None:
    planned = expand(study_of(OneAtATime(budget=1e13)))
    by_level = {p.trial.values["level"]: p.spec for p in planned}
    assert by_level["gelu"].model.activation == "gelu"
    assert by_level[2.0].optim.lr == pytest.approx(4 * by_level[0.5].optim.lr)


def test_numbers_run_through_all_designs() -> None:
    found = trials(study_of(*SPECIMENS.values()))
    assert [trial.number for trial in found] == list(range(len(found)))


def test_the_run_follows_the_text_that_it_reads(study: Study) -> None:
    before = {p.run_id for p in expand(study)}
    digested = with_values(study, {"base.data.digest": "another text"})
    assert before.isdisjoint(p.run_id for p in expand(digested))


def test_a_ladder_too_narrow_for_its_sizes_is_refused() -> None:
    with pytest.raises(UserError, match=r"round to only \d shapes .* raise spread=1.01"):
        expand(study_of(IsoFLOP(spread=1.01)))

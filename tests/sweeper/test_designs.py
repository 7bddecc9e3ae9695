"""The contract of every design: it repeats, stays in bounds, has no duplicates, and can be run."""

import hashlib
from statistics import median_low
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.counts import params_active
from sweeper.axes import Axis, Constraint
from sweeper.constraints import measured
from sweeper.designs import DESIGNS, expand, survey
from sweeper.errors import UserError
from sweeper.layouts import (
    Adaptive,
    Fractional,
    Grid,
    IsoFLOP,
    OneAtATime,
    Random,
    Search,
    Sobol,
)
from sweeper.overrides import with_values
from sweeper.planner import plan_trial
from sweeper.recipe import Recipe, ShapeRule, centre_params
from sweeper.runs import planned_flops
from sweeper.study import Design, PromotionPlan, Study
from train.config import BatchConfig, DataConfig, RunSpec, run_id

SPECIMENS: dict[str, Design] = {
    "isoflop": IsoFLOP(sizes_per_budget=6, spread=4.0, tokens_per_param=20),
    "adaptive": Adaptive(flops=2e15, start_budgets=3),
    "one_at_a_time": OneAtATime(budget=1e13, seeds=(0, 3)),
    "grid": Grid(budgets=(1e13, 3e13), seeds=(0, 1)),
    "fractional": Fractional(resolution=3, budgets=(1e13, 3e13), seeds=(0, 1)),
    "random": Random(trials=12, budget=1e13, seeds=(0, 1)),
    "sobol": Sobol(trials=12, budget=1e13, seeds=(0, 1)),
    "search": Search(trials=30, budget=1e13, batch=12, seeds=(0, 1)),
}
SWITCH = Axis(name="activation", path="model.activation", levels=("swiglu", "gelu"))
RATE = Axis(name="rate", path="lr.scale", levels=(0.5, 1.0, 2.0), scale="log")
DECAY = Axis(name="decay", path="optim.weight_decay", levels=(0.1, 0.0), scale="linear")
HEADS = Axis(name="layers", path="shape.min_layers", levels=(1, 4), scale="linear")


def study_of(
    *designs: Design, budgets: tuple[float, ...] = (1e13, 4e13, 1.6e14), **changes: Any
) -> Study:
    two_levels = any(isinstance(design, Fractional) for design in designs)
    content: dict[str, Any] = {
        "name": "designed",
        "question": "Which trials?",
        "base": Recipe(
            data=DataConfig(vocab_size=300, digest="0"),
            seq_len=64,
            batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=16),
            shape=ShapeRule(aspect=16, d_head=4),
        ),
        "budgets": budgets,
        "seeds": (0, 1),
        "axes": (SWITCH, DECAY, HEADS) if two_levels else (SWITCH, RATE),
        "designs": designs,
        "promotion": PromotionPlan(target=budgets[-1] * 10),
    }
    return Study.model_validate(content | changes)


def test_every_design_has_a_specimen_here() -> None:
    assert set(SPECIMENS) == set(DESIGNS)


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_design_repeats(kind: str) -> None:
    study = study_of(SPECIMENS[kind])
    assert expand(study) == expand(study)


@pytest.mark.parametrize("kind", DESIGNS)
def test_a_design_has_no_duplicates(kind: str) -> None:
    found = [p.trial for p in expand(study_of(SPECIMENS[kind]))]
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


MEASURE = {
    "isoflop": "params_active",
    "adaptive": "params_active",
    "fractional": "optim.weight_decay",
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_every_trial_of_a_design_keeps_the_constraints_and_the_others_are_named(kind: str) -> None:
    measure = MEASURE.get(kind, "optim.lr")
    free = survey(study_of(SPECIMENS[kind])).planned
    limit = median_low(measured(p.spec, measure) for p in free)
    constraint = Constraint(measure=measure, at_most=limit)
    held = survey(study_of(SPECIMENS[kind], constraints=(constraint,)))
    assert all(measured(p.spec, measure) <= limit for p in held.planned)
    assert [p.trial.number for p in held.planned] == list(range(len(held.planned)))
    assert held.left_out
    assert all(one.why.startswith(f"{measure}=") for one in held.left_out)
    if kind == "search":
        assert len(held.planned) == len(free)
    else:
        assert len(held.planned) + len(held.left_out) == len(free)
        assert {p.run_id for p in held.planned} <= {p.run_id for p in free}


@pytest.mark.parametrize(
    "kind", ["one_at_a_time", "grid", "fractional", "random", "sobol", "search"]
)
def test_levels_lie_within_the_axes_and_every_point_has_all_its_seeds(kind: str) -> None:
    study = study_of(SPECIMENS[kind])
    axes = {axis.path: axis for axis in study.axes}
    seeds: dict[str, set[int]] = {}
    for p in expand(study):
        assert all(axes[path].holds(level) for path, level in p.trial.levels.items())
        point = f"{p.trial.budget} {p.trial.levels} {p.trial.values}"
        seeds.setdefault(point, set()).add(p.trial.seed)
    assert all(found == set(SPECIMENS[kind].seeds) for found in seeds.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_more_trials_keep_the_earlier_ones(kind: str) -> None:
    few, many = (
        [p.run_id for p in expand(study_of(SPECIMENS[kind].model_copy(update={"trials": n})))]
        for n in (5, 80)
    )
    assert many[: len(few)] == few
    assert len(set(many)) == 2 * 80


@pytest.mark.parametrize("kind", ["random", "sobol", "search"])
def test_another_draw_gives_other_points(kind: str) -> None:
    other = SPECIMENS[kind].model_copy(update={"draw": 1})
    assert {p.run_id for p in expand(study_of(other))}.isdisjoint(
        p.run_id for p in expand(study_of(SPECIMENS[kind]))
    )


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_drawn_points_run_from_end_to_end_of_every_axis(kind: str) -> None:
    axes = (SWITCH, RATE, HEADS)
    found = expand(study_of(SPECIMENS[kind].model_copy(update={"trials": 64}), axes=axes))
    rates = [float(p.trial.levels["lr.scale"]) for p in found]
    assert {p.trial.levels["shape.min_layers"] for p in found} == {1, 2, 3, 4}
    assert 0.5 <= min(rates) < 0.55
    assert 1.8 < max(rates) <= 2.0
    assert {p.trial.levels["model.activation"] for p in found} == {"swiglu", "gelu"}


def test_a_sobol_design_fills_a_range_evenly() -> None:
    found = expand(study_of(Sobol(trials=32, budget=1e13), axes=(RATE, DECAY)))
    decays = sorted(float(p.trial.levels["optim.weight_decay"]) for p in found)
    assert [int(decay / 0.1 * 32) for decay in decays] == pytest.approx(range(32), abs=1)


def test_as_many_points_as_choices_are_all_of_them() -> None:
    axes = (SWITCH, HEADS)
    for design in (Random(trials=8, budget=1e13), Sobol(trials=8, budget=1e13)):
        points = {str(p.trial.levels) for p in expand(study_of(design, axes=axes))}
        assert len(points) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"designs": (Random(trials=9, budget=1e13),), "axes": (SWITCH, HEADS)},
         "trials=9 of design 'random', but the axes have only 8 points"),
        ({"designs": (Search(sampler="cmaes", trials=9, budget=1e13),)},
         "sampler='cmaes' moves through two ranges or more"),
        ({"designs": (SPECIMENS["search"], SPECIMENS["search"])},
         "2 search designs would chase the same answer"),
        ({"designs": (SPECIMENS["sobol"],), "axes": ()}, "design 'sobol' has no axes to vary"),
    ],
)  # fmt: skip
def test_a_design_that_the_axes_cannot_bear_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        study_of(**({"designs": ()} | changes))


def test_a_fraction_of_axes_with_three_levels_is_refused() -> None:
    with pytest.raises(UserError, match="axis 'rate' has 3 levels, and a fractional design"):
        expand(study_of(SPECIMENS["fractional"], axes=(SWITCH, RATE)))


def test_a_drawn_point_that_cannot_be_built_is_left_out_and_named() -> None:
    width = Axis(name="head", path="shape.d_head", levels=(4, 60), scale="linear")
    found = survey(study_of(Random(trials=12, budget=1e13), axes=(SWITCH, width)))
    assert found.left_out
    assert found.planned
    assert all(one.why.startswith("cannot be built: ") for one in found.left_out)


def test_a_study_whose_trials_are_all_left_out_is_refused() -> None:
    limit = Constraint(measure="params_active", at_most=10)
    with pytest.raises(
        UserError, match=r"all 6 trials are left out; .* params_active=\d+ is above"
    ):
        expand(
            study_of(Grid(budgets=(1e13,), seeds=(0,)), axes=(SWITCH, RATE), constraints=(limit,))
        )


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"measure": "params_activ", "at_most": 1}, "did you mean 'params_active'"),
        ({"measure": "model.d_heads", "at_most": 1}, "did you mean 'd_head'"),
        ({"measure": "model.position", "at_most": 1}, "is no number"),
        ({"measure": "model", "at_most": 1}, "is no number"),
        ({"measure": "tokens.x", "at_most": 1}, "the path goes below a value"),
        ({"measure": "tokens"}, "without a limit"),
        ({"measure": "tokens", "at_least": 2, "at_most": 1}, "swap them"),
    ],
)
def test_a_constraint_that_means_nothing_is_refused(
    constraint: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Constraint(**constraint)


def test_constraints_reach_every_number_of_a_run() -> None:
    spec = expand(study_of(Grid(budgets=(1e13,))))[0].spec
    assert measured(spec, "model.d_ff") == spec.model.d_ff
    assert measured(spec, "optim.lr") == spec.optim.lr
    assert measured(spec, "flops") == planned_flops(spec)


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
    found = [p.trial for p in expand(study_of(OneAtATime(budget=1e13)))]
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
    some = [design for kind, design in SPECIMENS.items() if kind != "fractional"]
    found = [p.trial for p in expand(study_of(*some))]
    assert [trial.number for trial in found] == list(range(len(found)))


def test_the_run_follows_the_text_that_it_reads(study: Study) -> None:
    before = {p.run_id for p in expand(study)}
    digested = with_values(study, {"base.data.digest": "another text"})
    assert before.isdisjoint(p.run_id for p in expand(digested))


def test_a_ladder_too_narrow_for_its_sizes_is_refused() -> None:
    with pytest.raises(UserError, match=r"round to only \d shapes .* raise spread=1.01"):
        expand(study_of(IsoFLOP(spread=1.01)))


def test_the_ids_of_a_reference_study_are_what_they_were(study: Study) -> None:
    # Another id for the same run would train it again in every store.
    ids = " ".join(p.run_id for p in expand(study))
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "a5052c9ae4c1a1d2"


def test_planning_together_is_planning_one_by_one(study: Study) -> None:
    for together in expand(study):
        alone = plan_trial(study, together.trial)
        assert together == alone
        assert together.run_id == run_id(together.spec)
        assert RunSpec.model_validate(together.spec.model_dump()) == together.spec

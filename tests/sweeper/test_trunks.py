"""Trunks in a study: what shares one, what it saves, and when its branches may begin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fake_trainer
import pytest

from sweeper import trunks
from sweeper.designs import expand, survey
from sweeper.dispatch import next_jobs
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.jobs import Scan
from sweeper.layouts import Adaptive, IsoFLOP, Pruning
from sweeper.plan import plan_rows, saving, totals
from sweeper.plan_words import plan_table, summary_lines
from sweeper.planner import Planned
from sweeper.recipe import LearningRate, Recipe, ScheduleRule, ShapeRule
from sweeper.record import Record
from sweeper.rehearse import Chance, rehearse
from sweeper.runs import Progress, Runs, RunView, own_flops, planned_flops
from sweeper.sight import all_specs
from sweeper.speed import Speed, calibrate
from sweeper.study import Cluster, PromotionPlan, Study
from sweeper.truth import CHINCHILLA
from sweeper.watch import label, summarise
from train.choices import BatchConfig, ObjectiveConfig, Phase
from train.config import DataConfig, RunSpec, run_id
from train.lineage import leaf, state
from train.runlog import CHECKPOINT_MANIFEST, Attempt, Failure, RunDir, create_run

BUDGETS = (1e12, 1.73e12, 3e12, 5.2e12)
LADDER = IsoFLOP(sizes_per_budget=5, spread=4.0, tokens_per_param=80, trunks=True)


def study_of(design: IsoFLOP = LADDER, **changes: Any) -> Study:
    recipe: dict[str, Any] = {
        "data": DataConfig(vocab_size=300, digest="0"),
        "seq_len": 64,
        "batch": BatchConfig(global_batch_tokens=1024, micro_batch_size=16),
        "shape": ShapeRule(aspect=16, d_head=4),
        "lr": LearningRate(rule="constant", value=0.01),
        "schedule": ScheduleRule(kind="wsd"),
    }
    content: dict[str, Any] = {
        "name": "branching",
        "question": "What does a trunk save?",
        "budgets": BUDGETS,
        "designs": (design,),
        "promotion": PromotionPlan(target=5e13),
    }
    own = {key: value for key, value in changes.items() if key in Recipe.model_fields}
    rest = {key: value for key, value in changes.items() if key not in own}
    return Study.model_validate(content | {"base": Recipe(**(recipe | own))} | rest)


@pytest.fixture
def place(tmp_path: Path) -> StudyDir:
    return StudyDir(tmp_path, "branching")


def keep(place: StudyDir, spec: RunSpec, tokens: int) -> None:
    """The state of a trunk as far as the manager looks at it."""
    folder = state(place.home, spec, tokens)
    folder.mkdir(parents=True)
    (folder / CHECKPOINT_MANIFEST).write_text("{}")


def test_all_budgets_have_the_same_sizes_and_a_trunk_serves_each() -> None:
    planned = expand(study_of())
    sizes = {p.trial.budget: [p.trial.params_target for p in planned] for p in planned}
    assert len(planned) == 20
    assert len({tuple(found) for found in sizes.values()}) == 1
    found = trunks.trunks(planned)
    assert len(found) == 5
    for trunk in found:
        branches = [p.spec for p in planned if p.spec.trunk == trunk.run_id]
        assert [leaf(spec) for spec in branches] == list(trunk.spec.leaves)
        assert len({spec.schedule.warmup_tokens for spec in branches}) == 1
        assert trunk.run_id == run_id(trunk.spec)


def test_another_budget_leaves_the_runs_of_the_others_as_they_are() -> None:
    sizes = LADDER.model_copy(update={"spread": 6.0})
    low, high = (expand(study_of(sizes, budgets=b)) for b in (BUDGETS, (*BUDGETS[:1], 5.2e12)))
    assert {p.run_id for p in high} <= {p.run_id for p in low}


def test_seeds_have_trunks_of_their_own() -> None:
    assert len(trunks.trunks(expand(study_of(seeds=(0, 1))))) == 10


def test_four_budgets_of_five_sizes_cost_less_than_sixty_percent(place: StudyDir) -> None:
    study = study_of()
    planned = expand(study)
    rows = plan_rows(trunks.with_trunks(planned, place), place, Speed())
    together, alone = saving(rows) or (0.0, 0.0)
    assert alone == pytest.approx(5 * sum(BUDGETS), rel=0.02)
    assert together / alone < 0.6
    found = totals(study, rows)
    assert (found.trials, found.runs) == (20, 25)
    assert found.flops == pytest.approx(together)
    said = "\n".join(summary_lines(study, rows, Speed()))
    assert f"5 serve 20 runs; together {together:.3g} FLOPs, {together / alone:.0%} of" in said
    assert plan_table(rows).row_count == 25
    apart = plan_rows(expand(study_of(LADDER.model_copy(update={"trunks": False}))), place, Speed())
    assert saving(apart) is None


STEPLAW = LearningRate(rule="steplaw")
BY_TOKENS = LearningRate.model_validate(
    {"rule": "power", "power": {"coefficient": 1.0, "tokens": 0.1}}
)
PREFIX = Phase(start=0.5, objective=ObjectiveConfig(kind="prefix"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": ScheduleRule(kind="cosine")}, r"schedule.kind='cosine'.*use one of"),
        ({"lr": STEPLAW}, r"lr.rule='steplaw'.*use lr.rule='constant'"),
        ({"lr": BY_TOKENS}, r"lr.rule='power'.*power of N alone"),
        ({"batch_rule": {"rule": "steplaw"}}, r"batch_rule.rule='steplaw'.*'constant'"),
        ({"ramp": {"until_fraction": 0.1}}, r"ramp.until_fraction=0.1.*batch.ramp"),
        ({"phases": (PREFIX,)}, r"1 phases.*leave them out"),
        ({"budgets": (1e12,)}, r"budgets=\(1000000000000.0,\).*add a budget"),
        ({"pruning": Pruning(designs=("isoflop",))}, r"pruning of isoflop.*pruning.designs"),
        ({"designs": (Adaptive(flops=1e14, start=LADDER),)}, r"start.trunks=True"),
    ],
)
def test_what_depends_on_the_length_of_a_run_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        study_of(**changes)


def test_a_power_of_the_size_alone_may_give_the_rate() -> None:
    power = {"rule": "power", "power": {"coefficient": 1.0, "params": -0.3}}
    found = trunks.trunks(expand(study_of(lr=LearningRate.model_validate(power))))
    assert len({trunk.spec.optim.lr for trunk in found}) == 5


def test_sizes_that_do_not_reach_the_outer_optima_are_refused() -> None:
    with pytest.raises(UserError, match=r"spread=1\.5"):
        expand(study_of(LADDER.model_copy(update={"spread": 1.5, "sizes_per_budget": 4})))


def test_a_trunk_that_no_run_needs_any_more_is_left_out(place: StudyDir) -> None:
    planned = expand(study_of())
    (trunk, *_) = trunks.trunks(planned)
    for one in planned:
        if one.spec.trunk == trunk.run_id:
            run = create_run(place.home, one.spec)
            run.write_result(fake_trainer.result(one.spec, 1.0))
    names = {one.run_id for one in trunks.with_trunks(planned, place)}
    assert len(names) == 24
    assert trunk.run_id not in names


class Grove(NamedTuple):
    """A study in its folder, one of its trunks, and the branches of that, shortest first."""

    place: StudyDir
    planned: list[Planned]
    trunk: RunSpec
    branches: list[str]

    @property
    def run(self) -> RunDir:
        return RunDir(self.place.runs / run_id(self.trunk))

    def look(self) -> dict[str, RunView]:
        return Runs(self.place.runs, self.specs).look(Record(), Scan())

    def states(self) -> list[str]:
        return [self.look()[name].state for name in self.branches]

    @property
    def specs(self) -> dict[str, RunSpec]:
        return all_specs(self.place, self.planned, None, None)


@pytest.fixture
def grove(place: StudyDir) -> Grove:
    planned = expand(study_of())
    trunk = trunks.trunks(planned)[0]
    create_run(place.home, trunk.spec)
    branches = [p.run_id for p in planned if p.spec.trunk == trunk.run_id]
    return Grove(place, planned, trunk.spec, branches)


def asked_for(views: Mapping[str, RunView]) -> set[str]:
    requests = next_jobs(views, (), Cluster(workers=2), Speed())
    return {run for request in requests for run, _ in request.grants}


def test_a_branch_begins_when_its_own_state_is_kept_not_when_the_trunk_ends(grove: Grove) -> None:
    assert asked_for(grove.look()) == {p.run_id for p in trunks.trunks(grove.planned)}
    keep(grove.place, grove.trunk, grove.trunk.leaves[0])
    views = grove.look()
    assert set(grove.branches) & asked_for(views) == {grove.branches[0]}
    assert [views[name].waits for name in grove.branches] == [False, True, True, True]
    assert views[grove.branches[1]].message == f"waits for its trunk {run_id(grove.trunk)}"


def test_branches_of_a_diverged_trunk_diverge_where_it_gave_them_nothing(grove: Grove) -> None:
    keep(grove.place, grove.trunk, grove.trunk.leaves[0])
    whole = fake_trainer.result(grove.trunk, 1.0)
    grove.run.write_result(whole.model_copy(update={"state": "DIVERGED", "cause": "diverged"}))
    assert grove.states() == ["PLANNED", *["DIVERGED"] * 3]
    said = grove.look()[grove.branches[1]].message
    assert said == f"its trunk {run_id(grove.trunk)} is DIVERGED: diverged"
    assert grove.branches[1] not in asked_for(grove.look())


def test_branches_of_a_failed_trunk_are_cancelled_with_its_cause(grove: Grove) -> None:
    grove.run.claim(Attempt(number=1))
    grove.run.write_failure(Failure(attempt=1, cause="exception", message="it broke"))
    assert grove.states() == ["CANCELLED"] * 4
    assert grove.look()[grove.branches[0]].message.endswith("is FAILED: it broke")


def test_a_trunk_whose_states_are_gone_is_trained_again_for_who_needs_them(grove: Grove) -> None:
    grove.run.claim(Attempt(number=1))
    grove.run.write_result(fake_trainer.result(grove.trunk, 1.0))
    for tokens in grove.trunk.leaves[:3]:
        keep(grove.place, grove.trunk, tokens)
    last = next(p.spec for p in grove.planned if p.run_id == grove.branches[3])
    done = create_run(grove.place.home, last)
    done.write_result(fake_trainer.result(last, 1.0))
    assert trunks.reopen(grove.place, grove.specs) == []
    (done.path / "result.json").unlink()
    assert trunks.reopen(grove.place, grove.specs) == [run_id(grove.trunk)]
    assert grove.look()[run_id(grove.trunk)].state == "PLANNED"
    assert grove.states() == ["PLANNED"] * 4
    assert set(grove.branches) - asked_for(grove.look()) == {grove.branches[3]}


def test_time_and_progress_leave_out_what_the_trunk_does(grove: Grove) -> None:
    views = list(grove.look().values())
    total = sum(own_flops(view.spec) for view in views)
    branch = next(view for view in views if view.spec.trunk)
    assert own_flops(branch.spec) == pytest.approx(0.2 * planned_flops(branch.spec), rel=0.1)
    begun = Progress(leaf(branch.spec), 2.0, 1e6)
    at = summarise(views, {branch.run_id: begun}, Speed(), 2)
    assert (at.flops, at.total_flops) == (0.0, pytest.approx(total))
    result = fake_trainer.result(branch.spec, 1.0)
    inherits = result.model_copy(update={"inherited_tokens": leaf(branch.spec)})
    assert calibrate([inherits]).scale == pytest.approx(
        calibrate([result]).scale * own_flops(branch.spec) / planned_flops(branch.spec)
    )


def test_a_rehearsal_counts_trunks_once_and_its_trials_alone() -> None:
    study = study_of(LADDER.model_copy(update={"spread": 6.0}))
    done = rehearse(study, CHINCHILLA, Chance(0.004, 0.0, 0.0, 0), 1, Speed())
    (replicate,) = done.replicates
    specs = {p.run_id: p.spec for p in expand(study)}
    specs |= {p.run_id: p.spec for p in trunks.trunks(expand(study))}
    assert replicate.states == {"DONE": 20}
    assert replicate.flops == pytest.approx(sum(map(own_flops, specs.values())))


def test_a_trunk_is_shown_as_one_and_answers_no_trial(grove: Grove) -> None:
    assert label(grove.trunk) == "trunk"
    assert survey(study_of()).planned == grove.planned
    assert [p.trial.number for p in grove.planned] == list(range(20))

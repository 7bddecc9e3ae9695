"""What a changed study file means for the trials that were launched with the file as it was."""

import json
from pathlib import Path

import fake_trainer
import pytest

from sweeper.designs import expand
from sweeper.difference import Difference, compare, launched, lines, remember
from sweeper.folders import StudyDir
from sweeper.overrides import with_values
from sweeper.plan import trained_by
from sweeper.planner import Planned
from sweeper.record import Job, Record
from sweeper.study import Study
from train.runlog import create_run


@pytest.fixture
def place(study: Study, tmp_path: Path) -> StudyDir:
    place = StudyDir(tmp_path / "home", study.name)
    place.path.mkdir(parents=True)
    remember(place, study, expand(study))
    return place


def against(place: StudyDir, study: Study, record: Record | None = None) -> Difference:
    before = launched(place, record or Record())
    assert before is not None
    return compare(before, study, expand(study), lambda run: trained_by(place, run))


def train(place: StudyDir, planned: Planned, name: str) -> None:
    spec = planned.spec.model_copy(update={"study": name})
    create_run(place.home, spec).write_result(fake_trainer.result(spec, 1.0))


def test_nothing_is_said_of_a_study_that_did_not_change(place: StudyDir, study: Study) -> None:
    same = against(place, study)
    assert same.empty
    assert len(same.kept) == len({p.run_id for p in expand(study)})
    assert list(lines(same)) == []


def test_before_the_first_launch_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    assert launched(StudyDir(tmp_path, "small"), Record()) is None


def test_more_seeds_are_new_runs_and_the_others_stay(place: StudyDir, study: Study) -> None:
    more = with_values(study, {"designs.1.seeds": (0, 1, 2)})
    found = against(place, more)
    old = {p.run_id for p in expand(study)}
    assert set(found.new) == {p.run_id for p in expand(more)} - old
    assert set(found.kept) == old
    assert found.orphaned == ()
    assert [(c.path, c.before, c.now) for c in found.changes] == [
        ("designs.1.seeds", [0, 1], [0, 1, 2])
    ]


def test_another_recipe_orphans_every_run_and_says_how_many_had_results(
    place: StudyDir, study: Study
) -> None:
    train(place, expand(study)[0], "small")
    found = against(place, with_values(study, {"base.lr.scale": 2.0}))
    assert (len(found.kept), len(found.new)) == (0, len(found.orphaned))
    assert found.unread == (expand(study)[0].run_id,)
    said = "\n".join(lines(found))
    assert "0 kept" in said
    assert "base.lr.scale: 1.0 -> 2.0" in said
    assert "1 of the orphaned runs have results" in said


def test_new_runs_that_another_study_trained_are_said(place: StudyDir, study: Study) -> None:
    changed = with_values(study, {"base.lr.scale": 2.0})
    train(place, expand(changed)[3], "another")
    found = against(place, changed)
    assert dict(found.reused) == {expand(changed)[3].run_id: "another"}
    assert "1 of the new runs are trained already (1 by 'another')" in "\n".join(lines(found))


def test_the_same_study_over_another_text_is_said(
    place: StudyDir, study: Study, tmp_path: Path
) -> None:
    remembered = json.loads(place.planned.read_text())
    place.planned.write_text(json.dumps(["0123456789abcdef", *remembered[1:]]))
    found = against(place, study)
    assert (found.changes, len(found.new), len(found.orphaned)) == ((), 1, 1)
    assert any("the study is the same: its text" in line for line in lines(found))


def test_trials_submitted_after_the_launch_were_planned_too(place: StudyDir, study: Study) -> None:
    more = with_values(study, {"designs.1.seeds": (0, 1, 2)})
    new = against(place, more).new
    job = Job("swp-0-0001", "trials", tuple((run, 1) for run in new), 1, 0.0)
    found = against(place, more, Record(jobs=(job,)))
    assert found.new == ()
    assert set(new) <= set(found.kept)


def test_an_axis_that_came_and_one_that_went_are_changes(place: StudyDir, study: Study) -> None:
    content = study.model_dump()
    content["axes"] = [*content["axes"], {"name": "lr", "path": "lr.scale", "levels": (1.0, 2.0)}]
    found = against(place, Study.model_validate(content))
    assert [(c.path, c.before) for c in found.changes] == [("axes.1", None)]


def test_many_changes_are_counted_and_not_all_said(place: StudyDir, study: Study) -> None:
    rates = {f"base.optim.{name}": 0.5 for name in ("beta1", "beta2", "eps", "weight_decay")}
    gates = {
        f"promotion.gates.{name}": 0.77
        for name in ("interval_width", "extrapolation", "backtest_error", "budget")
    }
    rest = {"base.lr.scale": 2.0, "cluster.workers": 3, "question": "?", "promotion.seed": 3,
            "base.shape.aspect": 17.0, "base.optim.gradient_clipping": 2.0}  # fmt: skip
    said = list(lines(against(place, with_values(study, rates | gates | rest))))
    assert "  and 2 more changes" in said

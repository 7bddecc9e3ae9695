"""Which runs of a study share a trunk, and the trunks as runs of their own."""

import dataclasses
from collections.abc import Mapping, Sequence

from sweeper.folders import StudyDir
from sweeper.planner import Planned
from sweeper.trial import NO_TRIAL, Trial
from train.config import RunSpec, lineage_id, run_id
from train.lineage import leaf, missing, trunk_of
from train.runlog import RunDir

# As a design of no study: a trunk answers no trial.
DESIGN = "trunk"


def shared(planned: Sequence[Planned]) -> list[Planned]:
    """The same runs, those that may share a trunk told which.

    A trunk pays where it has two places to leave from; otherwise its branch trains alone.
    """
    groups: dict[str, list[Planned]] = {}
    for one in planned:
        if one.trial.trunk_budget is not None and leaf(one.spec) > 0:
            groups.setdefault(lineage_id(one.spec), []).append(one)
    told: dict[str, str] = {}
    for group in groups.values():
        if len({leaf(one.spec) for one in group}) > 1:
            trunk = run_id(trunk_of([one.spec for one in group], NO_TRIAL))
            told |= {one.run_id: trunk for one in group}
    return [_on(one, told[one.run_id]) if one.run_id in told else one for one in planned]


def _on(one: Planned, trunk: str) -> Planned:
    return dataclasses.replace(one, spec=one.spec.model_copy(update={"trunk": trunk}))


def trunks(planned: Sequence[Planned]) -> list[Planned]:
    """The trunks that runs of a study go on from, each with its own run."""
    groups: dict[str, list[Planned]] = {}
    for one in planned:
        if one.spec.trunk is not None:
            groups.setdefault(one.spec.trunk, []).append(one)
    return [_trunk(name, branches) for name, branches in groups.items()]


def _trunk(name: str, branches: Sequence[Planned]) -> Planned:
    spec, first = trunk_of([one.spec for one in branches], NO_TRIAL), branches[0].trial
    assert run_id(spec) == name, "all branches of a trunk are planned together"
    return Planned(Trial(DESIGN, spec.budget, first.seed, first.params_target), spec, name)


def reopen(place: StudyDir, specs: Mapping[str, RunSpec]) -> list[str]:
    """Have trunks trained again that are done, while a state is gone that some run still needs.

    Returns their ids.
    """
    needed: dict[str, set[int]] = {}
    for name, spec in specs.items():
        if spec.trunk is not None and not place.has_result(name):
            needed.setdefault(spec.trunk, set()).add(leaf(spec))
    opened: list[str] = []
    for name, leaves in needed.items():
        gone = leaves.intersection(missing(place.home, specs[name]))
        if gone and place.has_result(name):
            why = f"its states after {sorted(gone)} tokens are gone"
            RunDir(place.runs / name).withdraw_result(why)
            opened.append(name)
    return opened


def with_trunks(planned: Sequence[Planned], place: StudyDir) -> list[Planned]:
    """The runs with their trunks, these first: others wait for them.

    A trunk that was not trained is left out where every run that needs it has a result already.
    """
    branches = [one for one in planned if one.spec.trunk is not None]
    needed = {one.spec.trunk for one in branches if not place.has_result(one.run_id)}
    found = trunks(branches)
    return [t for t in found if t.run_id in needed or place.has_result(t.run_id)] + list(planned)

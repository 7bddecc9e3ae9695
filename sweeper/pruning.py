"""Multi-fidelity pruning: which running trials others of their design have left behind.

Optuna's pruners decide, in studies in memory: one for each design and budget, for only there do
losses mean the same. A study is told the trials that ended first, then those that run, so that the
same run directories give the same answer whoever looks at them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from sweeper.curves import CurveReader, Curves, Reached
from sweeper.layouts import Pruning
from sweeper.planner import Planned
from sweeper.runs import RunView
from sweeper.study import Study

optuna.logging.set_verbosity(optuna.logging.WARNING)

# Optuna counts resources in whole steps: here of `min_fraction` of a trial's tokens.
PRUNERS: dict[str, Callable[[Pruning], BasePruner]] = {
    "asha": lambda rule: SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=rule.reduction_factor
    ),
    "hyperband": lambda rule: HyperbandPruner(
        min_resource=1,
        max_resource=int(1 / rule.min_fraction),
        reduction_factor=rule.reduction_factor,
    ),
    "median": lambda rule: MedianPruner(),
}

Arena = tuple[str, float]


def marks(rule: Pruning) -> dict[float, int]:
    """The fractions of a trial's tokens where it is compared, and Optuna's step of each."""
    steps = [1]
    while True:
        step = steps[-1] + 1 if rule.kind == "median" else steps[-1] * rule.reduction_factor
        if step * rule.min_fraction >= 1:
            return {step * rule.min_fraction: step for step in steps}
        steps.append(step)


@dataclass
class _Rival:
    """A trial in its arena: what was told of it, and whether it is behind."""

    planned: Planned
    proposal: optuna.Trial
    told: int = 0
    ended: bool = False
    behind: str = ""


@dataclass
class _Arena:
    held: optuna.Study
    rivals: list[_Rival] = field(default_factory=list[_Rival])


class Pruner:
    """Decides which trials of a study to end; one for each driver, fed at every look.

    It does nothing for a study without `pruning`.
    """

    def __init__(self, study: Study, runs: Path) -> None:
        self.study = study
        self._marks = marks(study.pruning) if study.pruning else {}
        self._reader = CurveReader(runs, tuple(self._marks))
        self._arenas: dict[Arena, _Arena] = {}
        self._placed: set[int] = set()
        # A run that another design asks for as well has to give a loss.
        self._kept: set[str] = set()
        self.curves: Curves = {}

    def look(
        self, planned: Sequence[Planned], views: Mapping[str, RunView]
    ) -> list[tuple[str, str]]:
        """The running trials that are to end, with the reason; the same until they have."""
        if self.study.pruning is None:
            return []
        self._place(self.study.pruning, planned)
        for arena in self._arenas.values():
            # Where nothing runs, nothing is left to be decided.
            if any(_state(rival, views) == "RUNNING" for rival in arena.rivals):
                self._feed(arena, views)
        found = {
            rival.planned.run_id: rival.behind
            for arena in self._arenas.values()
            for rival in arena.rivals
            if rival.behind and _state(rival, views) == "RUNNING"
        }
        return [(run, why) for run, why in found.items() if run not in self._kept]

    def _place(self, rule: Pruning, planned: Sequence[Planned]) -> None:
        for p in planned:
            if p.trial.number in self._placed:
                continue
            self._placed.add(p.trial.number)
            if p.trial.design not in rule.designs:
                self._kept.add(p.run_id)
                continue
            arena = self._arena(rule, p.trial.design, p.trial.budget)
            arena.rivals.append(_Rival(p, arena.held.ask()))

    def _arena(self, rule: Pruning, design: str, budget: float) -> _Arena:
        if (design, budget) not in self._arenas:
            held = optuna.create_study(
                # Hyperband deals trials to its brackets by this name and their number.
                study_name=f"{self.study.name} {design} {budget!r}",
                sampler=RandomSampler(seed=0),
                pruner=PRUNERS[rule.kind](rule),
            )
            self._arenas[design, budget] = _Arena(held)
        return self._arenas[design, budget]

    def _feed(self, arena: _Arena, views: Mapping[str, RunView]) -> None:
        known = [rival for rival in arena.rivals if rival.planned.run_id in views]
        seen = {r.planned.run_id: views[r.planned.run_id] for r in known if not r.ended}
        curves = self._reader.look(seen)
        self.curves = {**self.curves, **curves}
        ended = [r for r in known if not r.ended and views[r.planned.run_id].finished]
        for rival in ended:
            for point in curves[rival.planned.run_id][rival.told :]:
                self._report(rival, point)
            _end(arena, rival, views[rival.planned.run_id])
        news = [
            (point.fraction, rival.planned.trial.number, rival, point)
            for rival in known
            if not rival.ended
            for point in curves[rival.planned.run_id][rival.told :]
        ]
        for _, _, rival, point in sorted(news, key=lambda new: new[:2]):
            if self._report(rival, point) and not rival.behind:
                rival.behind = self._reason(rival, point)

    def _report(self, rival: _Rival, point: Reached) -> bool:
        rival.told += 1
        rival.proposal.report(point.loss, self._marks[point.fraction])
        return rival.proposal.should_prune()

    def _reason(self, rival: _Rival, point: Reached) -> str:
        trial, rule = rival.planned.trial, self.study.pruning
        assert rule is not None
        return (
            f"{rule.kind}: {point.loss:.4f} nats/token at {point.fraction:.0%} of its tokens is "
            f"behind other trials of {trial.design} at {trial.budget:.3g} FLOPs"
        )


def _state(rival: _Rival, views: Mapping[str, RunView]) -> str:
    view = views.get(rival.planned.run_id)
    return view.state if view else "PLANNED"


def _end(arena: _Arena, rival: _Rival, run: RunView) -> None:
    rival.ended = True
    loss = run.result.nats_per_token if run.state == "DONE" and run.result else None
    if loss is not None:
        arena.held.tell(rival.proposal, loss)
    else:
        pruned = run.state == "PRUNED"
        arena.held.tell(rival.proposal, state=TrialState.PRUNED if pruned else TrialState.FAIL)

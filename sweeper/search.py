"""The search: which points Optuna's samplers propose next, given the runs that ended.

Optuna's study lives in memory and is played again from the ledger each time: every batch is asked
for after the runs that it saw were told, with dice that follow from the study and the place of the
point. So the same ledger and the same results give the same points, in whatever process.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import Trial as Proposal
from optuna.trial import TrialState

from sweeper.axes import Axis, Level
from sweeper.constraints import excess
from sweeper.distributions import distribution
from sweeper.factorials import axes_trial
from sweeper.layouts import Search
from sweeper.planner import Planned, holds, plan_trial
from sweeper.recipe import centre_params
from sweeper.record import Asked, Batch
from sweeper.runs import RunView
from sweeper.study import Design, Study

optuna.logging.set_verbosity(optuna.logging.WARNING)

# Proposals in a row that repeat a point or break a constraint, before a search gives up.
FUTILE_PROPOSALS = 100
# By name of a constraint, how far a point is beyond it. Of what cannot be built only that is known.
Faults = Mapping[str, float]
Key = tuple[Level, ...]

# Source: TPE, Bergstra et al. 2011, NeurIPS; CMA-ES, Hansen 2016, arXiv:1604.00772; as Optuna has
# them.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "cmaes": lambda seed: CmaEsSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}


@dataclass(frozen=True)
class Outcome:
    """How all runs of a point ended: their mean loss, or none where they gave none."""

    state: TrialState
    loss: float | None = None


def _dice(draw: int, number: int) -> int:
    """The seed of one proposal: a sampler seeded once would propose the same again on resuming."""
    return int.from_bytes(hashlib.sha256(f"{draw} {number}".encode()).digest()[:4], "big")


def first_batch(study: Study, design: Search) -> Batch:
    """The points that a search starts with."""
    return next_batch(study, design, (), {}, ())


def next_batch(
    study: Study,
    design: Design,
    planned: Sequence[Planned],
    views: Mapping[str, RunView],
    batches: Sequence[Batch],
) -> Batch:
    """The next points by the runs that ended, those in flight told as running; pure.

    Without points the search has all it asked for, or finds no more: `why` says which.
    """
    assert isinstance(design, Search)
    runs = _runs_of_points(study, planned)
    saw = frozenset(p.run_id for p in _all(runs) if _ended(p, views))
    left = design.trials - len(runs)
    if left <= 0:
        why = f"ends: {len(runs)} points of trials={design.trials} were asked for"
        return Batch("search", tuple(sorted(saw)), (), why)
    replay = _Replay(study, design, runs, views)
    if planned:
        replay.play([first_batch(study, design)])
        replay.play(b for b in batches if b.design == "search" and holds(study, b, planned))
    replay.tell(saw)
    points, count = replay.propose(min(design.batch, left))
    return Batch("search", tuple(sorted(saw)), points, _why(design, count, runs, views))


def _runs_of_points(study: Study, planned: Sequence[Planned]) -> dict[Key, list[Planned]]:
    """The runs of every point of the search, replicates together."""
    found: dict[Key, list[Planned]] = {}
    for p in planned:
        if p.trial.design == "search":
            found.setdefault(_key(study.axes, p.trial.levels), []).append(p)
    return found


def _all(runs: Mapping[Key, list[Planned]]) -> list[Planned]:
    return [p for some in runs.values() for p in some]


def _key(axes: Sequence[Axis], levels: Mapping[str, Level]) -> Key:
    return tuple(levels[axis.path] for axis in axes)


def _ended(planned: Planned, views: Mapping[str, RunView]) -> bool:
    view = views.get(planned.run_id)
    return view is not None and view.finished


def outcome(runs: Sequence[RunView]) -> Outcome:
    """What a sampler is told of a point whose runs all ended.

    One that diverged, or was ended for being behind, is worse than every loss, without a number for
    it. A run that failed says nothing of its point.
    """
    if any(run.state in ("DIVERGED", "PRUNED") for run in runs):
        return Outcome(TrialState.PRUNED)
    losses = [run.result.nats_per_token for run in runs if run.state == "DONE" and run.result]
    numbers = [loss for loss in losses if loss is not None]
    return Outcome(TrialState.COMPLETE, fmean(numbers)) if numbers else Outcome(TrialState.FAIL)


def _why(
    design: Search,
    count: int,
    runs: Mapping[Key, list[Planned]],
    views: Mapping[str, RunView],
) -> str:
    if not count:
        return (
            f"ends: {FUTILE_PROPOSALS} proposals in a row repeat a point or break a constraint, "
            f"after {len(runs)} points of trials={design.trials}"
        )
    ended = [
        outcome([views[p.run_id] for p in some])
        for some in runs.values()
        if all(_ended(p, views) for p in some)
    ]
    losses = [one.loss for one in ended if one.loss is not None]
    least = f"; least so far {min(losses):.4f} nats/token" if losses else ""
    return f"{count} points more by {design.sampler}; points seen: {len(ended)}{least}"


class _Replay:
    """Optuna's study as it was asked and told so far."""

    def __init__(
        self,
        study: Study,
        design: Search,
        runs: Mapping[Key, list[Planned]],
        views: Mapping[str, RunView],
    ) -> None:
        self.study, self.design, self.runs, self.views = study, design, runs, views
        self.space = {axis.path: distribution(axis) for axis in study.axes}
        self.size = float(centre_params(study.base, design.budget, design.tokens_per_param))
        self.asked: set[Key] = set()
        self.running: dict[Key, Proposal] = {}
        self.held = optuna.create_study(direction="minimize")

    def play(self, batches: Iterable[Batch]) -> None:
        """Ask for the points of batches again, each after the runs that it saw."""
        for batch in batches:
            self.tell(frozenset(batch.saw))
            for asked in batch.points:
                key = _key(self.study.axes, asked.levels)
                if key not in self.asked:
                    self.held.enqueue_trial(dict(asked.levels))
                    self._place(self._ask(), asked.levels)

    def tell(self, saw: frozenset[str]) -> None:
        """Tell every point whose runs were all seen, in the order in which they were asked for."""
        for key, proposal in list(self.running.items()):
            runs = self.runs.get(key, [])
            if runs and all(p.run_id in saw and _ended(p, self.views) for p in runs):
                told = outcome([self.views[p.run_id] for p in runs])
                self.held.tell(proposal, told.loss, state=told.state)
                del self.running[key]

    def propose(self, count: int) -> tuple[tuple[Asked, ...], int]:
        """So many new points, each at every seed, or how many fewer were found.

        Among them are those proposed on the way that break a constraint: the next batch has to know
        of them, and the study names them.
        """
        points: list[Asked] = []
        found = futile = 0
        while found < count and futile < FUTILE_PROPOSALS:
            proposal = self._ask(proposing=True)
            levels = {axis.path: _level(axis, proposal) for axis in self.study.axes}
            futile += 1
            if _key(self.study.axes, levels) in self.asked:
                self.held.tell(proposal, state=TrialState.FAIL)
                continue
            seeds = self.design.seeds
            if self._place(proposal, levels):
                found, futile = found + 1, 0
            points += [Asked(self.design.budget, self.size, seed, levels) for seed in seeds]
        return (tuple(points), found) if found else ((), 0)

    def _ask(self, *, proposing: bool = False) -> Proposal:
        # CMA-ES keeps what it learnt in the trials that it was asked for, so it is asked again for
        # those it had proposed; the others read parameters alone, and need not think twice.
        number = len(self.held.get_trials(deepcopy=False))
        thinks = proposing or self.design.sampler == "cmaes"
        sampler = SAMPLERS[self.design.sampler if thinks else "random"]
        self.held.sampler = sampler(_dice(self.design.draw, number))
        return self.held.ask(self.space)

    def _place(self, proposal: Proposal, levels: Mapping[str, Level]) -> bool:
        """Whether a point can be run; one that cannot is told so, without a number for its loss."""
        self.asked.add(_key(self.study.axes, levels))
        faults = self._faults(levels)
        if not faults:
            self.running[_key(self.study.axes, levels)] = proposal
            return True
        for name, amount in faults.items():
            proposal.set_constraint(name, amount)
        self.held.tell(proposal, state=TrialState.PRUNED)
        return False

    def _faults(self, levels: Mapping[str, Level]) -> Faults:
        if _key(self.study.axes, levels) in self.runs:
            return {}
        asked = Asked(self.design.budget, self.size, self.design.seeds[0], levels)
        try:
            spec = plan_trial(self.study, axes_trial(self.study, asked, kind="search")).spec
        except ValueError:
            return {"cannot be built": 1.0}
        beyond = [(c.measure, excess(spec, c)) for c in self.study.constraints]
        return {f"{i} {name}": amount for i, (name, amount) in enumerate(beyond) if amount > 0}


def _level(axis: Axis, proposal: Proposal) -> Level:
    value: Level = proposal.params[axis.path]
    if axis.scale == "categorical" or isinstance(value, str):
        return value
    return axis.held(value)

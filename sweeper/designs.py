"""Designs: from a study to its trials, and from a trial to the run it asks for."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from model.config import params_active
from sweeper.errors import UserError
from sweeper.ledger import Batch
from sweeper.overrides import value_at, with_values
from sweeper.recipe import Recipe, centre_params, horizon, pretrain_spec, shape
from sweeper.study import Adaptive, Axis, Design, Grid, IsoFLOP, Level, OneAtATime, Study
from sweeper.study_file import explain
from train.config import DataConfig, RunSpec, run_id


@dataclass(frozen=True)
class Trial:
    """One point of a design.

    `params()` decide the run and are what Optuna is asked for; `values` say what the design meant
    by it, for the analysis. `levels` are values in the recipe by dotted path.
    """

    design: str
    budget: float
    seed: int
    params_target: float
    levels: Mapping[str, Level] = field(default_factory=dict[str, Level])
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    number: int = -1

    def params(self) -> dict[str, Level]:
        point = {"budget": self.budget, "seed": self.seed, "params_target": self.params_target}
        return point | dict(self.levels)

    def with_params(self, params: Mapping[str, Any]) -> "Trial":
        levels = {name: params[name] for name in self.levels}
        return replace(
            self,
            budget=params["budget"],
            seed=params["seed"],
            params_target=params["params_target"],
            levels=levels,
        )


@dataclass(frozen=True)
class Planned:
    """A trial with the run that it asks for."""

    trial: Trial
    spec: RunSpec
    run_id: str


def isoflop(study: Study, design: Design) -> Iterator[Trial]:
    """Sizes around the expected optimum of every budget, distinct in shape, for every seed.

    Raises ValueError where fewer than four of them have shapes of their own.
    """
    assert isinstance(design, IsoFLOP)
    for budget in study.budgets:
        targets = _ladder(study.base, design, budget)
        for params_target, seed in itertools.product(targets, study.seeds):
            values = {"params_target": params_target}
            yield Trial("isoflop", budget, seed, params_target, values=values)


def _ladder(recipe: Recipe, design: IsoFLOP, budget: float) -> list[float]:
    centre = centre_params(recipe, budget, design.tokens_per_param)
    last = design.sizes_per_budget - 1
    wanted = (centre * design.spread ** (2 * i / last - 1) for i in range(last + 1))
    # Two targets that round to one shape would be one run under two names.
    shapes = {params_active(shape(recipe, target)): None for target in wanted}
    if len(shapes) < 4:
        raise ValueError(
            f"budget {budget:g}: {design.sizes_per_budget} sizes round to only {len(shapes)} "
            f"shapes {sorted(shapes)}, and a parabola needs 4; raise spread={design.spread:g} or "
            "the budget, or lower base.shape.d_head"
        )
    return [float(params) for params in shapes]


def adaptive(study: Study, design: Design) -> Iterator[Trial]:
    """The start of an adaptive ladder: its cheapest budgets, one seed; the rest comes by batches.

    Raises ValueError where the start alone spends more than the design may.
    """
    assert isinstance(design, Adaptive)
    points = [
        (budget, target)
        for budget in study.budgets[: design.start_budgets]
        for target in _ladder(study.base, design.start, budget)
    ]
    cost = sum(budget for budget, _ in points)
    if cost > design.flops:
        raise ValueError(
            f"flops={design.flops:g} of the adaptive design do not pay for its start, "
            f"{len(points)} runs of {cost:.3g} FLOPs; raise flops, lower start_budgets="
            f"{design.start_budgets}, or add cheaper budgets"
        )
    for budget, target in points:
        yield adaptive_trial(budget, target, study.seeds[0], batch=0)


def adaptive_trial(budget: float, params_target: float, seed: int, *, batch: int) -> Trial:
    """A trial of an adaptive ladder; `batch` 0 is its start."""
    values = {"params_target": params_target, "batch": batch}
    return Trial("adaptive", budget, seed, params_target, values=values)


def one_at_a_time(study: Study, design: Design) -> Iterator[Trial]:
    """Every level of every axis at one budget, size and set of seeds; the baseline once an axis."""
    assert isinstance(design, OneAtATime)
    size = float(centre_params(study.base, design.budget, design.tokens_per_param))
    for axis in study.axes:
        baseline = value_at(study.base, axis.path)
        for level, seed in itertools.product(axis.levels, design.seeds):
            values = {
                "axis": axis.name,
                "path": axis.path,
                "level": level,
                "baseline": level == baseline,
            }
            yield Trial("one_at_a_time", design.budget, seed, size, {axis.path: level}, values)


def grid(study: Study, design: Design) -> Iterator[Trial]:
    """Every combination of levels at every budget and seed of the design."""
    assert isinstance(design, Grid)
    for budget in design.budgets:
        size = float(centre_params(study.base, budget, design.tokens_per_param))
        for levels, seed in itertools.product(_combinations(study.axes), design.seeds):
            values = {axis.name: levels[axis.path] for axis in study.axes}
            yield Trial("grid", budget, seed, size, levels, values)


def _combinations(axes: tuple[Axis, ...]) -> list[dict[str, Level]]:
    rows = itertools.product(*(axis.levels for axis in axes))
    return [dict(zip((axis.path for axis in axes), row, strict=True)) for row in rows]


DESIGNS: dict[str, Callable[[Study, Design], Iterator[Trial]]] = {
    "isoflop": isoflop,
    "adaptive": adaptive,
    "one_at_a_time": one_at_a_time,
    "grid": grid,
}


def trials(study: Study) -> list[Trial]:
    """All trials of a study, numbered in the order of its designs."""
    rows = itertools.chain.from_iterable(DESIGNS[d.kind](study, d) for d in study.designs)
    return [replace(trial, number=number) for number, trial in enumerate(rows)]


@functools.lru_cache(maxsize=64)
def _digest(content: str) -> str:
    # Here, not at the top: `status` and `--help` need no corpus.
    from train.data.curate import digest

    return digest(DataConfig.model_validate_json(content))


def with_digest(recipe: Recipe) -> Recipe:
    """The recipe with the digest of its text: the run id follows the data.

    Raises ValueError for a corpus that cannot be read.
    """
    if recipe.data.digest:
        return recipe
    return with_values(recipe, {"data.digest": _digest(recipe.data.model_dump_json())})


def plan_trial(study: Study, trial: Trial) -> Planned:
    """The run of a trial. Raises ValueError where its shape, batch or horizon is impossible."""
    recipe = with_values(study.base, trial.levels)
    model = shape(recipe, trial.params_target)
    spec = pretrain_spec(
        with_digest(recipe),
        model,
        horizon(recipe, model, trial.budget),
        study=study.name,
        trial=trial.number,
        budget=trial.budget,
        seed=trial.seed,
    )
    return Planned(trial, spec, run_id(spec))


def expand(study: Study, batches: Sequence[Batch] = ()) -> list[Planned]:
    """Every trial with its run: those of the designs, then those of an adaptive one's batches.

    A batch that saw runs which are no longer the study's was another study's answer, and is left
    out. Raises UserError naming the design and budget that cannot be.
    """
    try:
        planned = [plan_trial(study, trial) for trial in trials(study)]
        for number, batch in enumerate(batches, start=1):
            if set(batch.saw) <= {p.run_id for p in planned}:
                planned += plan_batch(study, batch, number, len(planned))
        return planned
    except ValueError as error:
        raise UserError(f"study {study.name!r} cannot be expanded: {explain(error)}") from error


def plan_batch(study: Study, batch: Batch, number: int, first: int) -> list[Planned]:
    """The trials of a batch, numbered from `first`, with their runs."""
    points = [adaptive_trial(*point, batch=number) for point in batch.points]
    return [plan_trial(study, replace(p, number=first + i)) for i, p in enumerate(points)]

"""From a trial to the run that it asks for."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeper.errors import shortened
from sweeper.overrides import with_values
from sweeper.recipe import Recipe, horizon, pretrain_spec, shape
from sweeper.record import Batch
from sweeper.study import Study
from sweeper.trial import Trial
from train import start
from train.config import DataConfig, RunSpec, ids_by_seed


@dataclass(frozen=True)
class Planned:
    """A trial with the run that it asks for."""

    trial: Trial
    spec: RunSpec
    run_id: str


@functools.lru_cache(maxsize=64)
def _digest(content: str) -> str:
    # Here, not at the top: `status` and `--help` need no corpus.
    from train.data.curate import digest

    data = DataConfig.model_validate_json(content)
    try:
        return digest(data)
    except OSError as error:
        raise ValueError(
            f"data.corpus={shortened(data.corpus)} cannot be read: {error.strerror}; name a folder "
            "of text, or 'builtin'"
        ) from error


def with_digest(recipe: Recipe) -> Recipe:
    """The recipe with the digests of its text and of the weights that it starts from.

    The run id follows them. Raises ValueError for what cannot be read.
    """
    # A digest that we made needs no validation, and this is done for every level of an axis.
    if recipe.start is not None:
        recipe = recipe.model_copy(update={"start": start.with_digest(recipe.start)})
    if recipe.data.digest:
        return recipe
    digest = {"digest": _digest(recipe.data.model_dump_json())}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=digest)})


class Planner:
    """Plans the trials of one study; what they share is worked out, and validated, once.

    Trials of equal levels share a recipe, and those of equal budget and size all but the seed.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._recipes: dict[str, Recipe] = {}
        self._replicates: dict[tuple[object, ...], tuple[RunSpec, Callable[[int], str]]] = {}

    def plan(self, trial: Trial) -> Planned:
        """The run of a trial. Raises ValueError where its shape, batch or horizon is impossible."""
        # As text, because True, 1 and 1.0 are one key of a dict and three levels.
        levels = repr(sorted(trial.levels.items())) if trial.levels else ""
        key = (levels, trial.budget, trial.params_target, trial.trunk_budget)
        if key not in self._replicates:
            spec = self._first(trial, levels)
            self._replicates[key] = spec, ids_by_seed(spec)
        spec, id_of = self._replicates[key]
        # A study's seeds are validated, and its trials are numbered by us.
        numbered = spec.model_copy(update={"trial": trial.number, "seed": trial.seed})
        return Planned(trial, numbered, id_of(trial.seed))

    def _first(self, trial: Trial, levels: str) -> RunSpec:
        if levels not in self._recipes:
            self._recipes[levels] = with_digest(with_values(self.study.base, trial.levels))
        recipe = self._recipes[levels]
        model = shape(recipe, trial.params_target)
        if recipe.start is not None:
            start.check(recipe.start, model)
        cheapest = trial.trunk_budget
        return pretrain_spec(
            recipe,
            model,
            horizon(recipe, model, trial.budget),
            shortest=horizon(recipe, model, cheapest) if cheapest else None,
            study=self.study.name,
            trial=trial.number,
            budget=trial.budget,
            seed=trial.seed,
        )


def plan_trial(study: Study, trial: Trial) -> Planned:
    """The run of a trial. Raises ValueError where its shape, batch or horizon is impossible."""
    return Planner(study).plan(trial)


def holds(study: Study, batch: Batch, planned: Sequence[Planned]) -> bool:
    """Whether a batch answers this study: it saw runs of it alone, and set its axes legally.

    Otherwise it was the answer of the study as it was before a change.
    """
    levels = {axis.path: axis for axis in study.axes if batch.design != "adaptive"}
    legal = all(
        asked.levels.keys() == levels.keys()
        and all(levels[path].holds(level) for path, level in asked.levels.items())
        for asked in batch.points
    )
    asks = any(design.kind == batch.design for design in study.designs)
    return legal and asks and set(batch.saw) <= {p.run_id for p in planned}

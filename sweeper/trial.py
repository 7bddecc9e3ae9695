"""A trial: one point of a design, before it is a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweeper.axes import Level

# The number of runs that answer no trial of a design.
NO_TRIAL = -1


@dataclass(frozen=True)
class Trial:
    """One point of a design.

    `params()` decide the run and are what Optuna is asked for; `values` say what the design meant
    by it, for the analysis. `levels` are values in the recipe by dotted path. Where the runs of a
    size share a trunk, `trunk_budget` is the cheapest budget among them: its warm-up is theirs.
    """

    design: str
    budget: float
    seed: int
    params_target: float
    levels: Mapping[str, Level] = field(default_factory=dict[str, Level])
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    number: int = NO_TRIAL
    trunk_budget: float | None = None

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

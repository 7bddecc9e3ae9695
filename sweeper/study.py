"""The declarations of a study file: data only, validated whole before anything starts."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sweeper import axes as space
from sweeper.axes import Axis, Constraint
from sweeper.cluster import LOCAL, AnyCluster, Debug
from sweeper.cluster import Cluster as Cluster
from sweeper.cluster import Slurm as Slurm
from sweeper.folders import NAME
from sweeper.layouts import (
    Adaptive,
    Fractional,
    Grid,
    IsoFLOP,
    OneAtATime,
    Positive,
    Pruning,
    Random,
    Search,
    Seed,
    Sobol,
)
from sweeper.overrides import value_at, with_values
from sweeper.rates import micro_batch
from sweeper.recipe import Recipe
from sweeper.trunk_rules import check as check_trunks
from train.config import Frozen

Metric = Literal["val/nats_per_token"]

Design = Annotated[
    IsoFLOP | Adaptive | OneAtATime | Grid | Fractional | Random | Sobol | Search,
    Field(discriminator="kind"),
]
# Designs that vary the axes, and those of them that draw points rather than take levels as given.
OF_AXES = (OneAtATime, Grid, Fractional, Random, Sobol, Search)
DRAWN = (Random, Sobol, Search)
# Designs that ask for more trials as results arrive.
GROWING = (Adaptive, Search)


class GateLimits(Frozen):
    """What evidence must reach before a promotion starts by itself; a limit for each of GATES.

    `fit_quality` is a number of named doubts, `interval_width` and `backtest_error` are fractions
    of the loss, `extrapolation` decades of compute, `trials_complete` a fraction of the trials,
    `budget` GPU-hours (process-hours where there is no GPU), `validation_rung` half-widths of the
    forecast's interval at the rung.
    """

    fit_quality: int = Field(default=0, ge=0)
    interval_width: Positive = 0.2
    extrapolation: Positive = 1.5
    backtest_error: Positive = 0.05
    trials_complete: float = Field(default=0.9, ge=0, le=1)
    budget: Positive = 24.0
    validation_rung: Positive = 1.0


class PostTraining(Frozen):
    """One stage after pretraining: tokens (padding included) and peak learning rate."""

    stage: Literal["sft", "dpo"]
    tokens: int = Field(gt=0)
    lr: Positive


class PromotionPlan(Frozen):
    """The large run: its budget in FLOPs, its layout, the stages after it, and who approves.

    `rung` is a budget between the ladder and the target: one run of it, at the optimum forecast for
    it, has to be hit by the forecast first. It is trained where every other gate passes.
    """

    target: Positive
    rung: Positive | None = None
    dp: int = Field(default=2, gt=0)
    seed: Seed = 0
    stages: tuple[PostTraining, ...] = ()
    approve: Literal["auto", "hold"] = "auto"
    gates: GateLimits = GateLimits()


class Study(Frozen):
    """A question, a recipe, the budgets of a ladder, and the designs that spend them."""

    name: str = Field(pattern=NAME)
    question: str
    base: Recipe
    budgets: tuple[Positive, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    metric: Metric = "val/nats_per_token"
    axes: tuple[Axis, ...] = ()
    designs: tuple[Design, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    pruning: Pruning | None = None
    cluster: AnyCluster = LOCAL
    # In the user's own money; `plan` says what the study costs where it is given.
    gpu_hour_price: Positive | None = None
    promotion: PromotionPlan

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(
                f"budgets={self.budgets} must ascend without repeats; "
                f"write {tuple(sorted(set(self.budgets)))}"
            )
        if self.promotion.target <= self.budgets[-1]:
            raise ValueError(
                f"promotion.target={self.promotion.target:g} is not above the ladder, whose top "
                f"budget is {self.budgets[-1]:g}; raise the target or drop budgets"
            )
        self._check_rung()
        if isinstance(self.cluster, Debug) and self.promotion.dp > 1:
            raise ValueError(
                f"cluster debug is one process, and promotion.dp={self.promotion.dp} needs more; "
                "add promotion.dp=1"
            )
        self._check_stages()
        for design in self.designs:
            if not self.axes and isinstance(design, OF_AXES):
                raise ValueError(
                    f"design {design.kind!r} has no axes to vary; add axes=(Axis(...), ...)"
                )
        self._check_axes()
        self._check_drawn()
        self._check_growing()
        self._check_adaptive()
        self._check_trunks()
        return self

    def _check_rung(self) -> None:
        rung, top, target = self.promotion.rung, self.budgets[-1], self.promotion.target
        if rung is not None and not top < rung < target:
            raise ValueError(
                f"promotion.rung={rung:g} is not between the ladder, whose top budget is {top:g}, "
                f"and the target {target:g}; use one such as {(top * target) ** 0.5:.2g}"
            )

    def _check_drawn(self) -> None:
        most = space.points(self.axes)
        for design in self.designs:
            if isinstance(design, DRAWN) and design.trials > most:
                raise ValueError(
                    f"trials={design.trials} of design {design.kind!r}, but the axes have only "
                    f"{most:g} points; lower trials, or use a grid"
                )
            if isinstance(design, Search) and design.sampler == "cmaes":
                ranges = sum(axis.scale != "categorical" for axis in self.axes)
                if ranges < len(self.axes) or ranges < 2:
                    raise ValueError(
                        "sampler='cmaes' moves through two ranges or more and knows no choices: "
                        "give every axis scale='linear' or 'log', or use sampler='tpe'"
                    )

    def _check_growing(self) -> None:
        for kind in GROWING:
            found = [design for design in self.designs if isinstance(design, kind)]
            if len(found) > 1:
                raise ValueError(
                    f"{len(found)} {found[0].kind} designs would chase the same answer; keep one"
                )

    def _check_stages(self) -> None:
        """A promoted run that cannot be laid out would be found out after the whole ladder."""
        plan, tokens = self.promotion, self.base.batch.global_batch_tokens
        size = micro_batch(self.base, plan.dp).micro_batch_size
        for stage in plan.stages:
            if stage.tokens < tokens:
                raise ValueError(
                    f"promotion.stages: {stage.stage} has {stage.tokens} tokens, less than one "
                    f"batch of {tokens}; raise them, or shrink the batch"
                )
            if stage.stage == "dpo" and size % 2:
                raise ValueError(
                    f"promotion.stages: dpo with dp={plan.dp} has {size} sequences in a micro "
                    "batch, an odd number, and keeps the two answers of a pair together; lower "
                    "promotion.dp, or raise batch.micro_batch_size"
                )

    def _check_adaptive(self) -> None:
        found = [design for design in self.designs if isinstance(design, Adaptive)]
        for design in found:
            if design.start_budgets > len(self.budgets):
                raise ValueError(
                    f"start_budgets={design.start_budgets} of an adaptive design, but the study "
                    f"has {len(self.budgets)} budgets; add budgets, or start with 3"
                )
            if design.start.trunks:
                raise ValueError(
                    "start.trunks=True of an adaptive design, which chooses each size anew; only "
                    "a ladder of its own has trunks: leave it out"
                )

    def _check_trunks(self) -> None:
        if any(isinstance(design, IsoFLOP) and design.trunks for design in self.designs):
            check_trunks(self.base, self.budgets, self.pruning)

    def _check_axes(self) -> None:
        for field in ("name", "path"):
            values = [getattr(axis, field) for axis in self.axes]
            if len(set(values)) < len(values):
                raise ValueError(f"axes repeat a {field}: {values}; each must be its own")
        for axis in self.axes:
            baseline = value_at(self.base, axis.path)
            if baseline not in axis.levels:
                raise ValueError(
                    f"axis {axis.name!r}: base.{axis.path}={baseline!r} is the baseline, but not "
                    f"among levels={axis.levels}; add it, or change the base"
                )
            for level in axis.levels:
                with_values(self.base, {axis.path: level})

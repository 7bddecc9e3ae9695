"""The declarations of a study file: data only, validated whole before anything starts."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sweeper.overrides import value_at, with_values
from sweeper.recipe import Recipe
from train.config import Frozen

Level = bool | int | float | str
Metric = Literal["val/nats_per_token"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class Axis(Frozen):
    """One knob of the recipe and the levels it is tried at; the baseline is the recipe's own."""

    name: str = Field(pattern=NAME)
    path: str
    levels: tuple[Level, ...] = Field(min_length=2)
    scale: Literal["categorical", "linear", "log"] = "categorical"

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels={self.levels} repeat a level; name each once")
        numbers = all(isinstance(x, int | float) and x is not True for x in self.levels)
        if self.scale != "categorical" and not numbers:
            raise ValueError(f"scale={self.scale!r} needs numbers, but levels={self.levels}")
        return self


class IsoFLOP(Frozen):
    """A ladder: at every budget of the study, sizes around the expected optimum.

    Sizes run geometrically from centre / spread to centre x spread, where the centre spends the
    budget at `tokens_per_param` tokens an active parameter.
    Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. 3.2; about 20 tokens a parameter.
    """

    kind: Literal["isoflop"] = "isoflop"
    # A parabola and its noise need four points; fewer are refused by the fit.
    sizes_per_budget: int = Field(default=5, ge=4, le=100)
    spread: float = Field(default=4.0, gt=1)
    tokens_per_param: Positive = 20.0


class Adaptive(Frozen):
    """A ladder that grows: after a small start, the runs worth most to the forecast, a FLOP.

    It starts with the `start_budgets` cheapest budgets of the study, laid out by `start`: four give
    back-tests and minima to every law. Then batches of `batch` runs at any budget of the study,
    sizes within the spread of the optimum fitted so far, until the calibrated interval at the
    target is within `loss_within` and `params_within` (half its width in ln L and in ln N*), or
    `flops` are spent.
    """

    kind: Literal["adaptive"] = "adaptive"
    flops: Positive
    loss_within: Positive = 0.03
    params_within: Positive = 0.25
    start: IsoFLOP = IsoFLOP()
    start_budgets: int = Field(default=4, ge=3)
    batch: int = Field(default=8, gt=0)


class OneAtATime(Frozen):
    """An ablation: each level of each axis against the baseline, everything else the same."""

    kind: Literal["one_at_a_time"] = "one_at_a_time"
    budget: Positive
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    tokens_per_param: Positive = 20.0


class Grid(Frozen):
    """Every combination of the levels of all axes, at every one of its budgets and seeds."""

    kind: Literal["grid"] = "grid"
    budgets: tuple[Positive, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    tokens_per_param: Positive = 20.0


Design = Annotated[IsoFLOP | Adaptive | OneAtATime | Grid, Field(discriminator="kind")]


class Cluster(Frozen):
    """Where jobs run: processes on this machine, at most `workers` at once."""

    kind: Literal["local"] = "local"
    workers: int = Field(default=2, gt=0)
    # submitit's own default of two minutes would end a job in the middle of its work.
    timeout_minutes: int = Field(default=30 * 24 * 60, gt=0)


LOCAL = Cluster()


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
    cluster: Cluster = LOCAL
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
        for kind in ("one_at_a_time", "grid"):
            if not self.axes and any(design.kind == kind for design in self.designs):
                raise ValueError(f"design {kind!r} has no axes to vary; add axes=(Axis(...), ...)")
        self._check_axes()
        self._check_adaptive()
        return self

    def _check_rung(self) -> None:
        rung, top, target = self.promotion.rung, self.budgets[-1], self.promotion.target
        if rung is not None and not top < rung < target:
            raise ValueError(
                f"promotion.rung={rung:g} is not between the ladder, whose top budget is {top:g}, "
                f"and the target {target:g}; use one such as {(top * target) ** 0.5:.2g}"
            )

    def _check_adaptive(self) -> None:
        found = [design for design in self.designs if isinstance(design, Adaptive)]
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} adaptive designs would chase the same forecast; keep one, with "
                "their flops together"
            )
        for design in found:
            if design.start_budgets > len(self.budgets):
                raise ValueError(
                    f"start_budgets={design.start_budgets} of an adaptive design, but the study "
                    f"has {len(self.budgets)} budgets; add budgets, or start with 3"
                )

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

"""The parts of a recipe that decide how a model trains: optimizer, schedule, rates, batches."""

from collections.abc import Iterator, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from train.choices import OptimizerName, ScheduleKind
from train.config import Frozen, OptimConfig, ScheduleConfig

LearningRateRule = Literal["constant", "power", "deepseek", "steplaw", "mup"]
BatchSizeRule = Literal["constant", "power", "deepseek", "steplaw"]

# Where a recipe names no betas. Lion: Chen et al. 2023, arXiv:2302.06675, alg. 2.
BETAS: dict[OptimizerName, tuple[float, float]] = {
    "adamw": (0.9, 0.95),
    "adafactor": (0.9, 0.95),
    "muon": (0.9, 0.95),
    "lion": (0.9, 0.99),
}


class PowerLaw(Frozen):
    """coefficient x N^params x D^tokens x C^flops.

    N are active parameters, D tokens, C the run's FLOPs: what our own analysis fits
    (`sweeper fit --law lr-batch`).
    """

    coefficient: float = Field(gt=0)
    params: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0

    def at(self, params: float, tokens: float, flops: float) -> float:
        powers = params**self.params * tokens**self.tokens * flops**self.flops
        return self.coefficient * powers


def fitted(coef: Mapping[str, float], knob: str) -> PowerLaw | None:
    """The law of a knob ("lr", "batch_tokens") among fitted coefficients, or None without it."""
    if f"{knob}_coefficient" not in coef:
        return None
    sizes = ("params", "tokens", "flops")
    exponents = {size: coef.get(f"{knob}_{size}_exponent", 0.0) for size in sizes}
    return PowerLaw(coefficient=coef[f"{knob}_coefficient"], **exponents)


def recipe_lines(coef: Mapping[str, float]) -> Iterator[str]:
    """Fitted laws as values that a study takes."""
    for knob, field in (("lr", "lr"), ("batch_tokens", "batch_rule")):
        if law := fitted(coef, knob):
            power = {name: float(f"{value:.6g}") for name, value in law.model_dump().items()}
            rule = {"rule": "power", "power": power}
            yield f'  a study follows it with: "base.{field}={rule}"'


class LearningRate(Frozen):
    """The peak learning rate: a rule of LR_RULES times `scale`.

    `value` belongs to "constant" and "mup", `power` to "power"; the others compute their own.
    """

    rule: LearningRateRule = "deepseek"
    value: float | None = Field(default=None, gt=0)
    power: PowerLaw | None = None
    scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if (self.value is None) == (self.rule in ("constant", "mup")):
            raise ValueError(
                f"rule={self.rule!r} with value={self.value}: rule='constant' needs a value, as "
                "'mup' does; every other rule computes its own (use scale to change it)"
            )
        _check_power("lr", self.rule, self.power)
        return self


class BatchRule(Frozen):
    """The full batch: a rule of BATCH_RULES times `scale`; "constant" is the recipe's own.

    Rounded to whole micro-batches of the recipe.
    """

    rule: BatchSizeRule = "constant"
    power: PowerLaw | None = None
    scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        _check_power("batch_rule", self.rule, self.power)
        return self


def _check_power(name: str, rule: str, power: PowerLaw | None) -> None:
    if (power is None) == (rule == "power"):
        raise ValueError(
            f"{name}.rule={rule!r} with power={power}: rule='power' needs the coefficients of a "
            "power law, and no other rule takes them"
        )


class RampRule(Frozen):
    """A batch that grows along a line, in `pieces` steps, from `start_fraction` of the full batch.

    It is full after `until_fraction` of the run; 0 is no ramp.
    Source: Brown et al. 2020, arXiv:2005.14165, app. B.
    """

    until_fraction: float = Field(default=0.0, ge=0, lt=1)
    start_fraction: float = Field(default=0.125, gt=0, lt=1)
    pieces: int = Field(default=8, ge=2)


class OptimRule(Frozen):
    """The fields of OptimConfig that do not follow from the size; betas of None are BETAS'."""

    name: OptimizerName = "adamw"
    beta1: float | None = Field(default=None, ge=0, lt=1)
    beta2: float | None = Field(default=None, ge=0, lt=1)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    decay_all: bool = False
    decay_embeddings: bool = True
    gradient_clipping: float = Field(default=1.0, gt=0)
    value_clipping: float | None = Field(default=None, gt=0)

    def at(self, lr: float) -> OptimConfig:
        """The optimizer of a run at a peak rate."""
        content = {key: value for key, value in self.model_dump().items() if value is not None}
        betas = dict(zip(("beta1", "beta2"), BETAS[self.name], strict=True))
        return OptimConfig.model_validate({"lr": lr} | betas | content)


class ScheduleRule(Frozen):
    """Warm-up as a fraction of the run; the rest as ScheduleConfig has it."""

    kind: ScheduleKind = "cosine"
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    decay_fraction: float = Field(default=0.2, gt=0, le=1)

    def over(self, tokens: int, shortest: int | None = None) -> ScheduleConfig:
        """The schedule of a run of this many tokens; of several that share it, the shortest's."""
        content = self.model_dump(exclude={"warmup_fraction"})
        warmup = int(self.warmup_fraction * (shortest or tokens))
        return ScheduleConfig(warmup_tokens=warmup, **content)

"""The choices of a training recipe: objective, batch, optimizer, schedule. No torch here."""

import math
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config import Activation

ObjectiveKind = Literal["causal", "prefix", "span", "ul2"]
OptimizerName = Literal["adamw", "adafactor", "muon", "lion"]
ScheduleKind = Literal["cosine", "linear", "inverse_sqrt", "plateau_linear", "wsd", "constant"]
ZeroStage = Literal[0, 1, 2, 3]


class Frozen(BaseModel):
    """Base of all that crosses a process: immutable, and a misspelt field is an error.

    JSON has no infinity and no NaN: what held one would not be read back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ObjectiveConfig(Frozen):
    """What is learned from a window of text.

    `corruption` and `mean_span` belong to "span": the share of tokens taken out, and the mean
    length of what is taken out in one piece. Source: Raffel et al. 2020, arXiv:1910.10683, sec.
    3.1.4 and 3.3.4. "ul2" has its own table of settings (train.denoisers).
    """

    kind: ObjectiveKind = "causal"
    corruption: float = Field(default=0.15, gt=0, lt=1)
    mean_span: float = Field(default=3.0, ge=1)


def check_weights(mixture: dict[str, float]) -> None:
    """Raises ValueError for weights that no sampling can follow; none at all means by size."""
    weights = mixture.values()
    if weights and not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
        raise ValueError(f"mixture={mixture} must have finite weights >= 0 with a positive sum")


class Start(Frozen):
    """Weights to start from instead of drawn ones: a folder of a finished run's, or transformers'.

    A smaller model is grown to the run's shape. `digest` is the hash of the folder's content,
    filled in when a study is expanded: the run id follows the weights, not the place.
    """

    folder: str
    digest: str = ""


class Phase(Frozen):
    """From `start`, a fraction of the tokens, on: what changes of the run.

    A phase begins with the first whole step at or after its start; what is None goes on as it was.
    A new `optim`, peak rate `lr` or `activation` is a restart of the engine (train.phases); an
    optimizer of another kind begins without memory.
    """

    start: float = Field(gt=0, lt=1)
    objective: ObjectiveConfig | None = None
    mixture: dict[str, float] | None = None
    optim: "OptimConfig | None" = None
    lr: float | None = Field(default=None, gt=0)
    activation: Activation | None = None

    @model_validator(mode="after")
    def _legal(self) -> Self:
        check_weights(self.mixture or {})
        if all(value is None for name, value in self if name != "start"):
            raise ValueError(
                f"the phase from start={self.start:g} changes nothing; give it an objective, a "
                "mixture, an optimizer, a rate or an activation"
            )
        return self


class BatchConfig(Frozen):
    """Batch sizes: `global_batch_tokens` decides the result, `micro_batch_size` only the memory.

    `ramp` are pairs (from_tokens, batch_tokens), both ascending, the first from 0: the batch of a
    step is that of the last pair whose from_tokens had been seen before it. The last pair has the
    full `global_batch_tokens`. Empty: the full batch throughout. Source: Brown et al. 2020,
    arXiv:2005.14165, app. B (32k to the full value over the first 4 to 12 billion tokens).
    """

    global_batch_tokens: int = Field(gt=0)
    micro_batch_size: int = Field(gt=0)
    ramp: tuple[tuple[int, int], ...] = ()

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if not self.ramp:
            return self
        rises = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(self.ramp))
        if self.ramp[0][0] != 0 or self.ramp[0][1] <= 0 or not rises:
            raise ValueError(
                f"ramp={self.ramp} must be pairs (from_tokens, batch_tokens) that begin with "
                "from_tokens=0 and rise in both; write for instance ((0, 1024), (100000, 2048))"
            )
        if self.ramp[-1][1] != self.global_batch_tokens:
            raise ValueError(
                f"ramp={self.ramp} ends with {self.ramp[-1][1]} tokens, but global_batch_tokens="
                f"{self.global_batch_tokens}; end it with the full batch"
            )
        return self


class OptimConfig(Frozen):
    """The optimizer of a run; what each name means stands in train.optim.

    `momentum` is Muon's for hidden matrices, the betas and eps AdamW's (of Muon: for the rest) and
    Lion's; Adafactor has none of them. Matrices decay; so do embedding tables unless
    `decay_embeddings` is off, and norms and biases only with `decay_all`. Gradients are clipped to
    a norm of `gradient_clipping`, then each of their numbers to `value_clipping`.
    Defaults: Brown et al. 2020, arXiv:2005.14165, app. B.
    """

    name: OptimizerName = "adamw"
    lr: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    decay_all: bool = False
    decay_embeddings: bool = True
    gradient_clipping: float = Field(default=1.0, gt=0)
    value_clipping: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.decay_all and not self.decay_embeddings:
            raise ValueError(
                "decay_all=True decays embeddings too, but decay_embeddings=False; choose one"
            )
        return self


class ScheduleConfig(Frozen):
    """How the rate moves: linear warm-up, then by `kind` (train.schedule.SCHEDULES).

    Horizons are tokens. `final_fraction` of the peak is where decays end; `decay_fraction` of the
    run is the last part of "wsd" and of "plateau_linear", in which they decay.
    """

    kind: ScheduleKind = "cosine"
    warmup_tokens: int = Field(ge=0)
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    decay_fraction: float = Field(default=0.2, gt=0, le=1)


# Schedules that hold the peak before they decay: their runs can share a trunk.
PLATEAUS: tuple[ScheduleKind, ...] = ("wsd", "plateau_linear")

# ZeRO cuts all parameters, laid end to end, into equal parts: what works number by number does not
# notice. Factored moments and orthogonalised matrices need their matrices whole. The first is used
# where nothing else is asked for.
ZERO_STAGES: dict[OptimizerName, tuple[ZeroStage, ...]] = {
    "adamw": (1, 2, 3, 0),
    "lion": (1, 2, 3, 0),
    "adafactor": (0,),
    "muon": (0,),
}

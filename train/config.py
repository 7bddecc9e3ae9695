"""RunSpec: everything that decides the result of one run, and its content address.

No torch here. A RunSpec is written to run.json by the driver and read by `python -m train`.
"""

import hashlib
import json
import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config import ModelConfig

Stage = Literal["pretrain", "sft", "dpo"]
State = Literal["PLANNED", "QUEUED", "RUNNING", "DONE", "DIVERGED", "FAILED", "PRUNED", "CANCELLED"]


class Frozen(BaseModel):
    """Base of all that crosses a process: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Frozen):
    """The text, its cleaning, its tokenizer and its mixture.

    `corpus` is "builtin" (the text of this project's own pinned wheels) or a folder of text, code,
    .jsonl files. `digest` is the hash of the raw text, filled in when a study is expanded: it makes
    the run id follow the data. `mixture` gives sampling weights by source; empty means by size.
    """

    corpus: str = "builtin"
    digest: str = ""
    bytes_per_source: int = Field(default=4_000_000, gt=0)
    validation_fraction: float = Field(default=0.02, gt=0, lt=0.5)
    vocab_size: int = Field(default=512, ge=261)
    mixture: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        weights = self.mixture.values()
        if weights and not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise ValueError(
                f"mixture={self.mixture} must have finite weights >= 0 with a positive sum"
            )
        return self


class BatchConfig(Frozen):
    """Batch sizes: `global_batch_tokens` decides the result, `micro_batch_size` only the memory."""

    global_batch_tokens: int = Field(gt=0)
    micro_batch_size: int = Field(gt=0)


class OptimConfig(Frozen):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Defaults: Brown et al. 2020, arXiv:2005.14165, app. B.
    """

    lr: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    gradient_clipping: float = Field(default=1.0, gt=0)


class ScheduleConfig(Frozen):
    """Linear warm-up, then cosine to `final_fraction` of the peak rate; horizons are tokens."""

    warmup_tokens: int = Field(ge=0)
    final_fraction: float = Field(default=0.1, ge=0, le=1)


class StabilityConfig(Frozen):
    """When a run is DIVERGED: its median loss rises `diverged_nats` above its own lowest."""

    # Ours, measured over 80 runs of a ladder and its post-training: healthy ones rise by 0.44 at
    # most, those with a hundred times the rate by 0.9 and more.
    diverged_nats: float = Field(default=0.7, gt=0)
    smoothing_steps: int = Field(default=10, ge=5)


class ParallelConfig(Frozen):
    """How the run is laid out over processes; not part of what it computes."""

    dp: int = Field(default=1, gt=0)
    # Stage 1 is the floor: ZeRO 0 in fp32 reports no gradient norm and clips wrongly when split.
    zero_stage: Literal[1, 2, 3] = 1


class EvalConfig(Frozen):
    """Validation at the end of the run, over the same held-out text for every model."""

    validation_tokens: int = Field(default=65_536, gt=0)


class PreferenceConfig(Frozen):
    """DPO. Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; NLL term: Llama 3, sec. 4.1.4."""

    beta: float = Field(default=0.1, gt=0)
    nll_weight: float = Field(default=0.2, ge=0)


class RunSpec(Frozen):
    """One stage of training, complete: what `python -m train` needs and nothing else.

    `study`, `trial` and `budget` are labels: two studies that ask for the same run share it.
    `parent` is the run whose final weights this one starts from (post-training stages).
    `tokens` is the horizon of the run in tokens, padding included.
    """

    study: str
    trial: int
    budget: float
    stage: Stage = "pretrain"
    parent: str | None = None
    seed: int = 0
    model: ModelConfig
    data: DataConfig
    batch: BatchConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    tokens: int = Field(gt=0)
    stability: StabilityConfig = StabilityConfig()
    parallel: ParallelConfig = ParallelConfig()
    evals: EvalConfig = EvalConfig()
    preference: PreferenceConfig = PreferenceConfig()

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.model.vocab_size != self.data.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} differs from data.vocab_size="
                f"{self.data.vocab_size}; the tokenizer and the tables must have one size"
            )
        step = self.batch.micro_batch_size * self.model.seq_len * self.parallel.dp
        if self.batch.global_batch_tokens % step:
            raise ValueError(
                f"batch.global_batch_tokens={self.batch.global_batch_tokens} is not a multiple of "
                f"micro_batch_size x seq_len x dp = {step}; change one of them"
            )
        if self.tokens < self.batch.global_batch_tokens:
            raise ValueError(
                f"tokens={self.tokens} is less than one batch of "
                f"{self.batch.global_batch_tokens}; raise the budget or shrink the batch"
            )
        if self.stage == "dpo" and self.batch.micro_batch_size % 2:
            raise ValueError(
                f"batch.micro_batch_size={self.batch.micro_batch_size} is odd, but dpo keeps the "
                "two answers of a pair together; use an even one"
            )
        if (self.parent is None) != (self.stage == "pretrain"):
            raise ValueError(
                f"stage={self.stage!r} with parent={self.parent!r}: pretraining starts from "
                "nothing, every other stage from the weights of a parent run"
            )
        return self


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def run_content(spec: RunSpec) -> dict[str, Any]:
    """What identifies a run: everything but the labels and the place where its text lies."""
    content = spec.model_dump(mode="json", exclude={"study", "trial", "budget"})
    del content["data"]["corpus"]
    return content


def run_id(spec: RunSpec) -> str:
    """Content address of a run: 16 hex digits."""
    return _digest(run_content(spec))


def config_id(spec: RunSpec) -> str:
    """Content address without seed, layout and micro-batch: replicates share it."""
    content = run_content(spec)
    del content["seed"], content["parallel"], content["batch"]["micro_batch_size"]
    return _digest(content)


def data_id(data: DataConfig) -> str:
    """Content address of the prepared data: mixture weights choose from it, and change nothing."""
    return _digest(data.model_dump(mode="json", exclude={"mixture", "corpus"}))


def steps(spec: RunSpec) -> int:
    """Optimizer steps that the horizon holds (whole batches; at least one by validation)."""
    return spec.tokens // spec.batch.global_batch_tokens

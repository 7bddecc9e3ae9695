"""RunSpec: everything that decides the result of one run, and its content address.

No torch here. A RunSpec is written to run.json by the driver and read by `python -m train`.
"""

import hashlib
import json
from collections.abc import Callable
from math import gcd
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from model.config import ModelConfig
from train.choices import (
    BatchConfig,
    Frozen,
    ObjectiveConfig,
    OptimConfig,
    Phase,
    ScheduleConfig,
    Start,
    ZeroStage,
    check_weights,
)
from train.legal import check_recipe
from train.ramp import seen_after, segments, steps_within

Stage = Literal["pretrain", "sft", "dpo"]
State = Literal["PLANNED", "QUEUED", "RUNNING", "DONE", "DIVERGED", "FAILED", "PRUNED", "CANCELLED"]


class DataConfig(Frozen):
    """The text, its cleaning, its tokenizer and its mixture.

    `corpus` is "builtin" (the text of this project's own pinned wheels) or a folder of text, code,
    .jsonl files. `digest` is the hash of the raw text, filled in when a study is expanded: it makes
    the run id follow the data. `mixture` gives sampling weights by source; empty means by size.
    `sentinels` ids of the vocabulary are reserved for denoising objectives, and its mode tokens
    with them; runs that are to be compared over objectives need the same tokenizer, so the same.
    """

    corpus: str = "builtin"
    digest: str = ""
    bytes_per_source: int = Field(default=4_000_000, gt=0)
    validation_fraction: float = Field(default=0.02, gt=0, lt=0.5)
    vocab_size: int = Field(default=512, ge=261)
    mixture: dict[str, float] = Field(default_factory=dict)
    sentinels: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        check_weights(self.mixture)
        if self.sentinels > self.vocab_size - 264:
            raise ValueError(
                f"sentinels={self.sentinels} leave no token for text: vocab_size={self.vocab_size} "
                f"holds 256 bytes and 7 other special tokens; use sentinels <= "
                f"{max(0, self.vocab_size - 264)} or a larger vocabulary"
            )
        return self


class SpikeConfig(Frozen):
    """When a step is a spike, and what is done about it (train.spikes).

    A spike: the loss or the log of the gradient norm lies `deviations` robust standard deviations
    above the median of the last `window` steps, or is no number; None looks for none. The run goes
    back `rewind` steps, skips the batches that it saw since, and goes on; from the second spike on
    at a rate times `lr_factor` each. One more than `limit` of them is DIVERGED.
    Source: Chowdhery et al. 2022, arXiv:2204.02311, sec. 5.1 (going back, skipping); the numbers
    are ours.
    """

    deviations: float | None = Field(default=None, gt=0)
    window: int = Field(default=50, ge=10)
    rewind: int = Field(default=10, ge=1)
    lr_factor: float = Field(default=0.5, gt=0, le=1)
    limit: int = Field(default=3, ge=1)


class StabilityConfig(Frozen):
    """What keeps a run stable, and when it is DIVERGED.

    Diverged: its median loss rises `diverged_nats` above its own lowest. `z_loss` weighs the square
    of the log of the softmax's normaliser (Chowdhery et al. 2022, arXiv:2204.02311, sec. 5: 1e-4),
    `max_z_loss` the square of the largest logit (Yang et al. 2023, arXiv:2309.10305, sec. 3.4:
    2e-4). Of its gradient the input table keeps `embedding_gradient` (Zeng et al. 2022,
    arXiv:2210.02414, sec. 2: 0.1). Every `replica_check_every` steps, and before a state is kept,
    the ranks are compared bit for bit (train.replicas); 0 is never. It changes no result, so it is
    no part of what a run is; with one process it does nothing.
    """

    # Ours, measured over 80 runs of a ladder and its post-training: healthy ones rise by 0.44 at
    # most, those with a hundred times the rate by 0.9 and more.
    diverged_nats: float = Field(default=0.7, gt=0)
    smoothing_steps: int = Field(default=10, ge=5)
    z_loss: float = Field(default=0.0, ge=0)
    max_z_loss: float = Field(default=0.0, ge=0)
    embedding_gradient: float = Field(default=1.0, ge=0, le=1)
    spikes: SpikeConfig = SpikeConfig()
    replica_check_every: int = Field(default=0, ge=0)


class CheckpointConfig(Frozen):
    """States to resume from: how a run is kept, and no part of what it is.

    One is written every `every_seconds` of training: so much work a killed process loses. The
    newest `keep` are retained, and a finished run needs none; what a run holds when it passes each
    multiple of `keep_every_tokens` stays for good.
    """

    every_seconds: float = Field(default=30.0, gt=0)
    # The newest, and the one before it should the newest be damaged.
    keep: int = Field(default=2, ge=1)
    keep_every_tokens: int | None = Field(default=None, gt=0)


class ParallelConfig(Frozen):
    """How the run is laid out over processes; not part of what it computes."""

    dp: int = Field(default=1, gt=0)
    # Which stages an optimizer can have: train.choices.ZERO_STAGES.
    zero_stage: ZeroStage = 1


class EvalConfig(Frozen):
    """Validation at the end of the run, over the same held-out text for every model.

    `noise_scale_every` steps the gradient noise scale is measured (train.noise), and every
    `layer_norms_every` the norms of each layer (train.norms); 0 is never.
    """

    validation_tokens: int = Field(default=65_536, gt=0)
    noise_scale_every: int = Field(default=0, ge=0)
    layer_norms_every: int = Field(default=0, ge=0)


class PreferenceConfig(Frozen):
    """DPO. Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; NLL term: Llama 3, sec. 4.1.4."""

    beta: float = Field(default=0.1, gt=0)
    nll_weight: float = Field(default=0.2, ge=0)


class RunSpec(Frozen):
    """One stage of training, complete: what `python -m train` needs and nothing else.

    `study`, `trial` and `budget` are labels: two studies that ask for the same run share it.
    `parent` is the run whose final weights this one starts from (post-training stages).
    `tokens` is the horizon of the run in tokens, padding included. A trunk keeps its state after
    each of `leaves`, in tokens; a branch goes on from one of those, kept by the run `trunk`, as
    from a checkpoint of its own (train.lineage). That is how it is trained, and no part of what it
    is: it stays the run that it would be alone.
    """

    study: str
    trial: int
    budget: float
    stage: Stage = "pretrain"
    parent: str | None = None
    start: Start | None = None
    trunk: str | None = None
    leaves: tuple[int, ...] = ()
    seed: int = 0
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    phases: tuple[Phase, ...] = ()
    batch: BatchConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    tokens: int = Field(gt=0)
    stability: StabilityConfig = StabilityConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
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
        if self.tokens < (first := segments(self.batch)[0].batch_tokens):
            raise ValueError(
                f"tokens={self.tokens} is less than one batch of "
                f"{first}; raise the budget or shrink the batch"
            )
        if self.stage == "dpo" and self.batch.micro_batch_size % 2:
            raise ValueError(
                f"batch.micro_batch_size={self.batch.micro_batch_size} is odd, but dpo keeps the "
                "two answers of a pair together; use an even one"
            )
        if self.start is not None and self.parent is not None:
            raise ValueError(
                f"start.folder={self.start.folder!r} with parent={self.parent!r}: a stage starts "
                "from its parent; leave start out"
            )
        if (self.parent is None) != (self.stage == "pretrain"):
            raise ValueError(
                f"stage={self.stage!r} with parent={self.parent!r}: pretraining starts from "
                "nothing, every other stage from the weights of a parent run"
            )
        check_recipe(self)
        return self


# What a run is called, where it goes on from, and what is kept of it on the way.
LABELS = {"study", "trial", "budget", "trunk", "checkpoints"}

_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _digest(content: dict[str, Any]) -> str:
    return _address(_json(content))


def _address(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def run_content(spec: RunSpec) -> dict[str, Any]:
    """What identifies a run: all but the labels, how it is kept and checked, and where its text
    lies.
    """
    content = spec.model_dump(mode="json", exclude=LABELS)
    del content["data"]["corpus"], content["stability"]["replica_check_every"]
    if not spec.leaves:
        del content["leaves"]
    if spec.start is not None:
        del content["start"]["folder"]
    return content


def run_id(spec: RunSpec) -> str:
    """Content address of a run: 16 hex digits."""
    return _digest(run_content(spec))


def ids_by_seed(spec: RunSpec) -> Callable[[int], str]:
    """`run_id` of this run as a function of its seed: all but the seed is serialised once."""
    content = run_content(spec)
    before = _json({key: value for key, value in content.items() if key < "seed"})
    after = _json({key: value for key, value in content.items() if key > "seed"})
    return lambda seed: _address(f'{before[:-1]},"seed":{seed},{after[1:]}')


def config_id(spec: RunSpec) -> str:
    """Content address without seed, layout and micro-batch: replicates share it."""
    content = run_content(spec)
    del content["seed"], content["parallel"], content["batch"]["micro_batch_size"]
    return _digest(content)


def lineage_id(spec: RunSpec) -> str:
    """Content address of what a run is until its rate decays: runs of any length share it."""
    content = run_content(spec)
    content = {k: v for k, v in content.items() if k not in ("tokens", "leaves", "phases")}
    content["schedule"] = spec.schedule.warmup_tokens
    return _digest(content)


def data_id(data: DataConfig) -> str:
    """Content address of the prepared data: mixture weights choose from it, and change nothing."""
    return _digest(data.model_dump(mode="json", exclude={"mixture", "corpus"}))


def steps(spec: RunSpec) -> int:
    """Optimizer steps that the horizon holds (whole batches; at least one by validation)."""
    return steps_within(spec.batch, spec.tokens)


def steps_by(spec: RunSpec, tokens: int) -> int:
    """Optimizer steps after which this many tokens have been seen."""
    return steps_within(spec.batch, tokens)


def tokens_after(spec: RunSpec, step: int) -> int:
    """Tokens seen by the end of a step, padding included."""
    return seen_after(spec.batch, step)


def sequences_per_rank(spec: RunSpec) -> int:
    """Sequences of the global batch that each data-parallel rank trains on in one step."""
    return spec.batch.global_batch_tokens // (spec.model.seq_len * spec.parallel.dp)


def reduced_micro_batch(spec: RunSpec, times: int) -> int | None:
    """Sequences of a forward after `times` attempts ran out of memory, or None where none is left.

    Every time the largest divisor of a rank's share that is at most half: the global batch stays,
    so the result does, up to the rounding of sums in another order.
    """
    together = 2 if spec.stage == "dpo" else 1
    size, share = spec.batch.micro_batch_size, sequences_per_rank(spec)
    for _, tokens in spec.batch.ramp:
        share = gcd(share, tokens // (spec.model.seq_len * spec.parallel.dp))
    for _ in range(times):
        smaller = [n for n in range(together, size // 2 + 1, together) if share % n == 0]
        if not smaller:
            return None
        size = smaller[-1]
    return size


def with_micro_batch(spec: RunSpec, size: int) -> RunSpec:
    """The same training in forwards of `size` sequences. Its run id is not the run's."""
    batch = spec.batch.model_copy(update={"micro_batch_size": size})
    return spec.model_copy(update={"batch": batch})

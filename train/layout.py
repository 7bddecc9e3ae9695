"""How a run is laid out over its processes, and what each of them then holds of the layers.

No torch here. A layout may name what the trainer does not do yet: the planner's models of memory
(train.memory) and of time (train.step_time) are over layouts, and train.layout_legal says which of
them this engine trains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from model.config import ModelConfig
from train.choices import OptimizerName, ZeroStage
from train.config import RunSpec, sequences_per_rank

Recompute = Literal["none", "selective", "full"]
ContextKind = Literal["ring", "all_gather", "ulysses"]


@dataclass(frozen=True)
class Layout:
    """Degrees of every kind of parallelism, and what decides memory and time beside them.

    `cp` ranks share a sequence: "ring" passes keys and values around, "all_gather" collects them,
    "ulysses" exchanges positions for heads. `ep` ranks out of the `dp` share the experts.
    `recompute` is what the backward pass computes anew: nothing, the attention scores
    ("selective"), or all of a layer from its input ("full"). `chunks` are the pieces of layers that
    each of the `pp` stages holds: more than one is the interleaved schedule. A rank accumulates
    `microbatches` of `micro_batch_size` sequences a step. Weights and activations are numbers of
    `number_bytes`, gradients of `gradient_bytes`.
    Source: Korthikanti et al. 2022, arXiv:2205.05198 (recomputation, `sequence_parallel`);
    Narayanan et al. 2021, arXiv:2104.04473 (chunks); Liu et al. 2023, arXiv:2310.01889 (ring);
    Dubey et al. 2024, arXiv:2407.21783, sec. 3.3.2 (all-gather); Jacobs et al. 2023,
    arXiv:2309.14509 (Ulysses); Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO).
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    zero_stage: ZeroStage = 1
    recompute: Recompute = "none"
    sequence_parallel: bool = False
    context_kind: ContextKind = "ring"
    micro_batch_size: int = 1
    microbatches: int = 1
    chunks: int = 1
    number_bytes: int = 4
    gradient_bytes: int = 4

    @property
    def world_size(self) -> int:
        return self.dp * self.tp * self.pp * self.cp

    @property
    def data_ranks(self) -> int:
        """Ranks that hold the same weights: ZeRO shares among them."""
        return self.dp * self.cp

    @property
    def sequences(self) -> int:
        """The global batch."""
        return self.dp * self.micro_batch_size * self.microbatches

    @property
    def stream_ranks(self) -> int:
        """Ranks that share what tensor parallelism alone leaves whole."""
        return self.tp if self.sequence_parallel else 1


@dataclass(frozen=True)
class Case:
    """A layout for a model, on so many GPUs where their number is given."""

    model: ModelConfig
    layout: Layout
    gpus: int | None = None
    optimizer: OptimizerName = "adamw"


# What is wrong with a case: value, rule and way out, or nothing.
Rule = Callable[[Case], str | None]


def layout_of(spec: RunSpec) -> Layout:
    """The layout that the trainer gives a run: data parallel with ZeRO, all of it fp32."""
    size = spec.batch.micro_batch_size
    return Layout(
        dp=spec.parallel.dp,
        zero_stage=spec.parallel.zero_stage,
        micro_batch_size=size,
        microbatches=sequences_per_rank(spec) // size,
    )


def total_layers(model: ModelConfig) -> int:
    return model.n_layers + model.n_encoder_layers


def ends_count(model: ModelConfig, layout: Layout) -> bool:
    """Whether the embedding and the head take the place of a layer each.

    So where the layers do not divide, and would with two more. Source: Dubey et al. 2024,
    arXiv:2407.21783, sec. 3.3.2 (126 layers and the two ends in 128 chunks).
    """
    pieces = layout.pp * layout.chunks
    return total_layers(model) % pieces != 0 and (total_layers(model) + 2) % pieces == 0


def layers_on(model: ModelConfig, layout: Layout, stage: int) -> Fraction:
    """Layers of one pipeline stage: whole in a legal layout, else an even share."""
    if not ends_count(model, layout):
        return Fraction(total_layers(model), layout.pp)
    ends = (stage == 0) + (stage == layout.pp - 1)
    return Fraction(total_layers(model) + 2, layout.pp) - ends


def tokens_of_rank(model: ModelConfig, layout: Layout) -> int:
    """Tokens of one micro-batch that one rank has, once its sequences are shared."""
    return layout.micro_batch_size * model.seq_len // layout.cp

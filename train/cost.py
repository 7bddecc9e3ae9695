"""What a run takes: bytes per rank while it trains, bytes on disk while it trains and afterwards.

No torch here: `plan` says these on a login node. All of it is fp32, as the engine trains.
"""

from collections.abc import Callable
from dataclasses import dataclass

from model.config import GATED, ModelConfig
from model.counts import (
    mlp_matrices,
    params_embedding,
    params_matrices,
    params_non_embedding,
    params_total,
)
from train.choices import OptimizerName
from train.config import RunSpec, steps

FLOAT_BYTES = 4
# A step's line of metrics.N.jsonl. Ours, measured: 185 bytes of pretraining, dpo says more.
METRICS_LINE_BYTES = 200
# A layer's norms in it. Ours, measured: six numbers with their names.
LAYER_NORMS_BYTES = 250


@dataclass(frozen=True)
class RankBytes:
    """Bytes of one process at the peak of a step, without the libraries' own."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def bytes_per_rank(spec: RunSpec) -> RankBytes:
    """What one process of a run holds.

    ZeRO stage 1 shares the optimizer's part (a master copy and the moments) among the processes, 2
    the gradients too, 3 the weights too; stage 0 nothing, and needs no master copy. Source:
    Rajbhandari et al. 2020, arXiv:1910.02054, sec. 3.1 and 5.
    """
    params, dp, stage = params_total(spec.model), spec.parallel.dp, spec.parallel.zero_stage
    whole, share = FLOAT_BYTES * params, _share(params, dp)
    tokens = spec.batch.micro_batch_size * spec.model.seq_len
    return RankBytes(
        weights=share if stage >= 3 else whole,
        gradients=share if stage >= 2 else whole,
        optimizer=_share(optimizer_numbers(spec), dp if stage else 1),
        activations=FLOAT_BYTES * tokens * activations_per_token(spec.model),
        # The logits, their log-probabilities, and the gradient of either.
        logits=3 * FLOAT_BYTES * tokens * spec.model.vocab_size,
    )


def _share(numbers: int, dp: int) -> int:
    return -(-FLOAT_BYTES * numbers // dp)


def optimizer_numbers(spec: RunSpec) -> int:
    """Numbers of the whole optimizer: its moments, and ZeRO's master copy of the weights."""
    master = params_total(spec.model) if spec.parallel.zero_stage else 0
    return master + MOMENTS[spec.optim.name](spec.model)


def factored_moments(model: ModelConfig) -> int:
    """Adafactor's: a number a row and a column of every matrix, one for each of a vector's."""
    width, queries = model.d_model, model.n_heads * model.d_head
    keys, stacks = model.n_kv_heads * model.d_head, 2 if model.n_encoder_layers else 1
    attention = 2 * (width + queries) + 2 * (width + keys)
    experts = model.moe.n_experts + model.moe.n_shared if model.moe else 1
    router = width + model.moe.n_experts if model.moe else 0
    feed_forward = experts * mlp_matrices(model) * (width + model.d_expert) + router
    layers = model.n_layers + model.n_encoder_layers
    attentions = layers + (model.n_layers if stacks == 2 else 0)
    tables = 2 - model.tied_embeddings + (model.position == "learned")
    rows = params_embedding(model) // width + tables * width
    vectors = params_non_embedding(model) - params_matrices(model, active=False)
    if model.position == "relative":
        rows += stacks * (model.relative_buckets + model.n_heads)
        vectors -= stacks * model.relative_buckets * model.n_heads
    return attentions * attention + layers * feed_forward + rows + vectors


def muon_moments(model: ModelConfig) -> int:
    """One of each number in a hidden matrix, AdamW's two of all others, routers among them."""
    layers = model.n_layers + model.n_encoder_layers
    routers = layers * model.d_model * model.moe.n_experts if model.moe else 0
    return 2 * params_total(model) - params_matrices(model, active=False) + routers


MOMENTS: dict[OptimizerName, Callable[[ModelConfig], int]] = {
    "adamw": lambda model: 2 * params_total(model),
    "lion": params_total,
    "adafactor": factored_moments,
    "muon": muon_moments,
}


def activations_per_token(model: ModelConfig) -> int:
    """Numbers kept for the backward pass, a token, below the logits.

    A layer keeps four streams of d_model (inputs and outputs of its norms), six of the heads
    (queries, keys and values as attended to, what they mix, and what rotation and projection keep),
    a normaliser a head, and four of d_ff where gated, else two. Attention scores are not kept.
    Source: Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.1, counted for this model.
    """
    heads = model.n_heads * model.d_head
    hidden = (4 if model.activation in GATED else 2) * model.d_ff
    layer = 4 * model.d_model + 6 * heads + model.n_heads + hidden
    return model.n_layers * layer + 2 * model.d_model


def checkpoint_bytes(spec: RunSpec) -> int:
    """One state to resume from, all ranks: weights, and what the optimizer holds.

    Stage 3 has no weights but the master copy.
    """
    weights = 0 if spec.parallel.zero_stage == 3 else params_total(spec.model)
    return FLOAT_BYTES * (weights + optimizer_numbers(spec))


def storage_bytes(spec: RunSpec) -> int:
    """What a finished run leaves on disk: weights, a metrics line a step, states kept for good."""
    every = spec.checkpoints.keep_every_tokens
    kept = len(spec.leaves) + (spec.tokens // every if every else 0)
    weights = FLOAT_BYTES * params_total(spec.model)
    return kept * checkpoint_bytes(spec) + weights + metrics_bytes(spec)


def metrics_bytes(spec: RunSpec) -> int:
    """What a run logs: a line a step, and the norms of layers in those that are measured."""
    count, every = steps(spec), spec.evals.layer_norms_every
    layers = spec.model.n_layers + spec.model.n_encoder_layers + 3  # embedding, last norm, head
    measured = count // every if every else 0
    return METRICS_LINE_BYTES * count + LAYER_NORMS_BYTES * layers * measured


def working_bytes(spec: RunSpec) -> int:
    """What a run needs on disk beside that while it trains: its states to resume from.

    The oldest goes once a newer one is whole; where spikes are looked for one from before them
    stays too.
    """
    rewound = spec.stability.spikes.deviations is not None
    return (spec.checkpoints.keep + 1 + rewound) * checkpoint_bytes(spec)

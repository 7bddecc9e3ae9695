"""What a run takes: bytes per rank while it trains, bytes on disk while it trains and afterwards.

No torch here: `plan` says these on a login node. All of it is fp32, as the engine trains.
"""

from model.counts import params_total
from train.activations import FLOAT_BYTES
from train.config import RunSpec, steps
from train.layout import layout_of
from train.memory import RankBytes, rank_bytes
from train.moments import MOMENTS

# A step's line of metrics.N.jsonl. Ours, measured: 185 bytes of pretraining, dpo says more.
METRICS_LINE_BYTES = 200
# A layer's norms in it. Ours, measured: six numbers with their names.
LAYER_NORMS_BYTES = 250


def bytes_per_rank(spec: RunSpec) -> RankBytes:
    """What one process of a run holds."""
    return rank_bytes(spec.model, layout_of(spec), spec.optim.name)


def optimizer_numbers(spec: RunSpec) -> int:
    """Numbers of the whole optimizer: its moments, and ZeRO's master copy of the weights."""
    master = params_total(spec.model) if spec.parallel.zero_stage else 0
    return master + MOMENTS[spec.optim.name](spec.model)


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

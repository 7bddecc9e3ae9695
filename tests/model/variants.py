"""Small models, one for every choice that the config offers."""

from typing import Any, get_args

from model.config import (
    Activation,
    Initialisation,
    ModelConfig,
    Norm,
    NormPlacement,
    Position,
)

TINY = ModelConfig(
    vocab_size=50,
    seq_len=16,
    n_layers=2,
    d_model=24,
    n_heads=4,
    n_kv_heads=2,
    d_head=6,
    d_ff=40,
)
MOE = {"n_experts": 4, "top_k": 2, "n_shared": 1, "d_expert": 12}
CHOICES: tuple[dict[str, Any], ...] = (
    *({"activation": a} for a in get_args(Activation)),
    *({"position": p} for p in get_args(Position)),
    {"rope_fraction": 1 / 3},
    {"rope_theta": 100.0},
    {"position": "relative", "relative_buckets": 6, "relative_max_distance": 9},
    *({"norm": n, "bias": b} for n in get_args(Norm) for b in (False, True)),
    *({"norm_placement": p} for p in get_args(NormPlacement)),
    {"norm": "layernorm", "bias": True, "norm_placement": "sandwich"},
    {"qk_norm": True},
    {"norm_eps": 0.1},
    {"parallel_blocks": True},
    {"parallel_blocks": True, "shared_norm": True},
    {"window": 5},
    {"window": 5, "sinks": 2},
    {"window": 5, "sinks": 2, "position": "alibi"},
    {"window": 5, "position": "relative"},
    {"document_mask": True},
    {"tied_embeddings": True},
    {"tied_embeddings": True, "position": "learned"},
    {"n_kv_heads": 1},
    {"n_kv_heads": 4},
    {"dropout": 0.1},
    {"logit_softcap": 30.0},
    {"moe": MOE},
    {"moe": MOE | {"capacity_factor": 1.0}, "bias": True, "activation": "gelu"},
    *({"init": i} for i in get_args(Initialisation) if i != "mup"),
    {"init": "normal", "init_std": 0.1},
    {"init": "mup", "mup_base_width": 12},
)
DECODERS = tuple(ModelConfig.model_validate(TINY.model_dump() | c) for c in CHOICES)
PREFIX = tuple(
    ModelConfig.model_validate(TINY.model_dump() | c | {"architecture": "prefix_decoder"})
    for c in ({}, {"position": "relative"}, {"position": "alibi"}, {"document_mask": True})
)
BOTH = {"architecture": "encoder_decoder", "n_encoder_layers": 3}
ENCODER_DECODERS = tuple(
    ModelConfig.model_validate(TINY.model_dump() | c | BOTH)
    for c in (
        *({"position": p} for p in get_args(Position)),
        *({"norm_placement": p, "bias": True, "qk_norm": True} for p in get_args(NormPlacement)),
        {"moe": MOE},
        {"init": "tfixup"},
    )
)
ALL = DECODERS + PREFIX + ENCODER_DECODERS


def label(config: ModelConfig) -> str:
    """What a variant has that the plain model has not."""
    plain = TINY.model_dump()
    changed = {k: v for k, v in config.model_dump().items() if v != plain[k]}
    return ",".join(f"{k}={'yes' if isinstance(v, dict) else v}" for k, v in changed.items())

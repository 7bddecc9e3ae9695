"""Numbers that an optimizer remembers of a model: what its states hold beside the weights.

Exact: torch's own states have as many. No torch here.
"""

from collections.abc import Callable

from model.config import ModelConfig
from model.counts import (
    mlp_matrices,
    params_embedding,
    params_matrices,
    params_non_embedding,
    params_total,
)
from train.choices import OptimizerName


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

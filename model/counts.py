"""Counts that follow from a model's shape in closed form: parameters, FLOPs, bytes of its cache.

Exact: the built module and torch's FLOP counter say the same. No torch here.
"""

from model.config import GATED, ModelConfig, Traits


def mlp_matrices(config: Traits) -> int:
    """Weight matrices of one feed-forward block: gated activations have three, the others two."""
    return 3 if config.activation in GATED else 2


def _norm(config: ModelConfig) -> int:
    return config.d_model * (2 if config.norm == "layernorm" and config.bias else 1)


def _attention_matrices(config: ModelConfig) -> int:
    return 2 * config.d_model * config.d_head * (config.n_heads + config.n_kv_heads)


def _attention_vectors(config: ModelConfig) -> int:
    """Biases, and the gains of normalised queries and keys."""
    heads = (config.n_heads + 2 * config.n_kv_heads) * config.d_head
    biases = heads + config.d_model if config.bias else 0
    return biases + (2 * config.d_head if config.qk_norm else 0)


def _mlp_matrices_of(config: ModelConfig, experts: int) -> int:
    return experts * mlp_matrices(config) * config.d_model * config.d_expert


def _mlp_vectors(config: ModelConfig, experts: int) -> int:
    wide = mlp_matrices(config) - 1
    return experts * (wide * config.d_expert + config.d_model) if config.bias else 0


def _experts(config: ModelConfig, *, active: bool) -> int:
    """Feed-forward blocks of one layer, or those of them that a token meets."""
    if config.moe is None:
        return 1
    return config.moe.n_shared + (config.moe.top_k if active else config.moe.n_experts)


def _router(config: ModelConfig) -> int:
    return config.d_model * config.moe.n_experts if config.moe else 0


def _norms_of_layer(config: ModelConfig, *, cross: bool) -> int:
    if config.shared_norm:
        return 1
    return (3 if cross else 2) * (2 if config.norm_placement == "sandwich" else 1)


def _layer_matrices(config: ModelConfig, *, cross: bool, active: bool) -> int:
    attention = (2 if cross else 1) * _attention_matrices(config)
    experts = _mlp_matrices_of(config, _experts(config, active=active))
    return attention + experts + _router(config)


def _layer_vectors(config: ModelConfig, *, cross: bool, active: bool) -> int:
    attention = (2 if cross else 1) * _attention_vectors(config)
    norms = _norms_of_layer(config, cross=cross) * _norm(config)
    return attention + norms + _mlp_vectors(config, _experts(config, active=active))


def _stacks(config: ModelConfig) -> list[tuple[int, bool]]:
    """(layers, whether they attend to an encoder too) of each stack."""
    if config.architecture == "encoder_decoder":
        return [(config.n_encoder_layers, False), (config.n_layers, True)]
    return [(config.n_layers, False)]


def params_matrices(config: ModelConfig, *, active: bool = True) -> int:
    """Parameters of the matrices of all layers; of experts, those that a token meets if `active`.

    Of an encoder-decoder the sum of both stacks.
    """
    return sum(
        layers * _layer_matrices(config, cross=cross, active=active)
        for layers, cross in _stacks(config)
    )


def _params_layers(config: ModelConfig, *, active: bool) -> int:
    vectors = sum(
        layers * _layer_vectors(config, cross=cross, active=active)
        for layers, cross in _stacks(config)
    )
    stacks = len(_stacks(config))
    last_norms = 0 if config.norm_placement == "post" else stacks * _norm(config)
    buckets = config.relative_buckets * config.n_heads if config.position == "relative" else 0
    matrices = params_matrices(config, active=active)
    return matrices + vectors + last_norms + stacks * buckets


def params_embedding(config: ModelConfig) -> int:
    """Parameters of tables: positions, and the vocabulary, twice where the output has its own."""
    positions = config.seq_len if config.position == "learned" else 0
    tables = config.vocab_size * (1 if config.tied_embeddings else 2)
    return (tables + positions) * config.d_model


def params_non_embedding(config: ModelConfig) -> int:
    """Parameters without any table of vocabulary or positions (norm gains included).

    Source: Kaplan et al. 2020, arXiv:2001.08361, table 1 (their N, plus norms and biases).
    """
    return _params_layers(config, active=False)


def params_active(config: ModelConfig) -> int:
    """Parameters that multiply a token: no input table, but the output projection.

    The convention of our laws: at small scale the output projection is a large part of the compute,
    and the input table none of it. Of experts those that a token meets.
    """
    return _params_layers(config, active=True) + config.vocab_size * config.d_model


def params_total(config: ModelConfig) -> int:
    """Every parameter stored."""
    return params_non_embedding(config) + params_embedding(config)


def flops_per_token(config: ModelConfig) -> float:
    """Training FLOPs per token, forward and backward.

    Attention scores count every key within the window, seen or not (the full square where there is
    no window); of an encoder-decoder, a token of the decoder with one of a source as long.
    Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B (6N + 12 L H Q T), with N the
    matrices and the output projection: table look-ups and norm gains multiply no matrix.
    """
    matmul = params_matrices(config) + config.vocab_size * config.d_model
    attentions = sum(layers * (2 if cross else 1) for layers, cross in _stacks(config))
    scores = 12 * attentions * config.n_heads * config.d_head * config.context
    return float(6 * matmul + scores)


def kv_cache_bytes(config: ModelConfig, length: int, bytes_per_number: int = 2) -> int:
    """Bytes of the keys and values kept for one sequence of `length` tokens while it is written.

    A window keeps itself and the sinks; an encoder-decoder the source too, as long again.
    """
    kept = length if config.window is None else min(length, config.window + config.sinks)
    if config.architecture == "encoder_decoder":
        kept += length
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * kept * bytes_per_number

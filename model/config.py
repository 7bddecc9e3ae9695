"""The shape of a model, and the counts that follow from it in closed form.

No torch here: `plan` reads shapes, parameters and FLOPs on a login node.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Activation = Literal["swiglu", "gelu", "relu2"]
Position = Literal["rope", "none"]


class ModelConfig(BaseModel):
    """A decoder-only transformer. Every field is an ablation axis.

    Source: Touvron et al. 2023, arXiv:2302.13971 (RMSNorm, SwiGLU, RoPE); Ainslie et al. 2023,
    arXiv:2305.13245 (grouped-query attention).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(gt=0)
    seq_len: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    d_model: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    n_kv_heads: int = Field(gt=0)
    d_head: int = Field(gt=0)
    d_ff: int = Field(gt=0)
    activation: Activation = "swiglu"
    position: Position = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    tied_embeddings: bool = False

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            legal = tuple(k for k in range(1, self.n_heads + 1) if self.n_heads % k == 0)
            raise ValueError(
                f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}; "
                f"use n_kv_heads in {legal}"
            )
        if self.position == "rope" and self.d_head % 2:
            raise ValueError(
                f"d_head={self.d_head} is odd, but rope turns pairs of channels; use an even d_head"
            )
        return self


def mlp_matrices(config: ModelConfig) -> int:
    """Weight matrices of one feed-forward block: gated activations have three, the others two."""
    return 3 if config.activation == "swiglu" else 2


def params_embedding(config: ModelConfig) -> int:
    """Parameters of the input table, and of the output table when it is not the same one."""
    return config.vocab_size * config.d_model * (1 if config.tied_embeddings else 2)


def params_matrices(config: ModelConfig) -> int:
    """Parameters of the attention and feed-forward matrices of all layers."""
    attention = 2 * config.d_model * config.d_head * (config.n_heads + config.n_kv_heads)
    mlp = mlp_matrices(config) * config.d_model * config.d_ff
    return config.n_layers * (attention + mlp)


def params_non_embedding(config: ModelConfig) -> int:
    """Parameters without any vocabulary table (norm gains included).

    Source: Kaplan et al. 2020, arXiv:2001.08361, table 1 (their N, plus the norm gains).
    """
    return params_matrices(config) + config.d_model * (2 * config.n_layers + 1)


def params_active(config: ModelConfig) -> int:
    """Parameters that multiply every token: no input table, but the output projection.

    The convention of our laws: at small scale the output projection is a large part of the compute,
    and the input table none of it.
    """
    return params_non_embedding(config) + config.vocab_size * config.d_model


def params_total(config: ModelConfig) -> int:
    """Every parameter stored."""
    return params_non_embedding(config) + params_embedding(config)


def flops_per_token(config: ModelConfig) -> float:
    """Training FLOPs per token, forward and backward; attention scores over the full square.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B (6N + 12 L H Q T), with N the
    matrices and the output projection: table look-ups and norm gains multiply no matrix.
    """
    matmul = params_matrices(config) + config.vocab_size * config.d_model
    scores = 12 * config.n_layers * config.n_heads * config.d_head * config.seq_len
    return float(6 * matmul + scores)

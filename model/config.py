"""The shape of a model: every field is an ablation axis.

No torch here: `plan` reads shapes on a login node.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stacks = Literal["decoder", "prefix_decoder", "encoder_decoder"]
Activation = Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu", "relu2"]
Position = Literal["rope", "learned", "sinusoidal", "alibi", "relative", "none"]
Norm = Literal["rmsnorm", "layernorm"]
NormPlacement = Literal["pre", "post", "sandwich"]
Initialisation = Literal["small", "normal", "depth_scaled", "tfixup", "mup"]

# Activations of three matrices: one of two projections gates the other.
# Source: Shazeer 2020, arXiv:2002.05202.
GATED: frozenset[Activation] = frozenset({"swiglu", "geglu"})


class MoEConfig(BaseModel):
    """A feed-forward block of which a router gives each token `top_k` of `n_experts`.

    `n_shared` experts more see every token. `d_expert` is the width of one expert, d_ff where it
    is None. An expert takes at most `capacity_factor` times its even share of a batch's tokens and
    drops the rest; None drops nothing. The weights are those of the two terms added to the loss.
    Source: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961, eq. 3-6;
    Zoph et al. 2022, arXiv:2202.08906, eq. 5; shared experts: Dai et al. 2024, arXiv:2401.06066.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_experts: int = Field(ge=2)
    top_k: int = Field(default=2, ge=1)
    n_shared: int = Field(default=0, ge=0)
    d_expert: int | None = Field(default=None, gt=0)
    capacity_factor: float | None = Field(default=None, gt=0)
    balance_weight: float = Field(default=0.01, ge=0)
    router_z_weight: float = Field(default=0.001, ge=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.top_k > self.n_experts:
            raise ValueError(
                f"moe.top_k={self.top_k} is more than moe.n_experts={self.n_experts}; lower top_k"
            )
        return self


class Traits(BaseModel):
    """The fields of a model that are not sizes: what every model of a ladder shares.

    `rope_fraction` of the channels of a head are turned (Black et al. 2022, arXiv:2204.06745: 25
    %). `window` tokens up to and with its own are what a position sees, and the first `sinks` of
    the text (Beltagy et al. 2020, arXiv:2004.05150; Xiao et al. 2023, arXiv:2309.17453).
    `document_mask` hides other documents of the same window (Dubey et al. 2024, arXiv:2407.21783,
    sec. 3.2). A parallel block adds attention and feed-forward to the same input, behind one norm
    where it is `shared_norm` (Chowdhery et al. 2022, arXiv:2204.02311, sec. 2). `qk_norm`
    normalises queries and keys head by head (Dehghani et al. 2023, arXiv:2302.05442, sec. 2.1).
    `logit_softcap` bends logits to +-cap by tanh (Gemma team 2024, arXiv:2408.00118, sec. 2).
    `bias` is that of all projections but the router's and the head's, and of LayerNorm. `init_std`
    belongs to "normal", "depth_scaled" and "mup".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: Stacks = "decoder"
    activation: Activation = "swiglu"
    position: Position = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_fraction: float = Field(default=1.0, gt=0, le=1)
    relative_buckets: int = Field(default=32, ge=4)
    relative_max_distance: int = Field(default=128, gt=0)
    norm: Norm = "rmsnorm"
    norm_placement: NormPlacement = "pre"
    norm_eps: float = Field(default=1e-5, gt=0)
    qk_norm: bool = False
    parallel_blocks: bool = False
    shared_norm: bool = False
    window: int | None = Field(default=None, gt=0)
    sinks: int = Field(default=0, ge=0)
    document_mask: bool = False
    tied_embeddings: bool = False
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    logit_softcap: float | None = Field(default=None, gt=0)
    moe: MoEConfig | None = None
    init: Initialisation = "small"
    init_std: float = Field(default=0.02, gt=0)
    mup_base_width: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _legal_traits(self) -> Self:
        if self.sinks and self.window is None:
            raise ValueError(
                f"sinks={self.sinks} without a window: full attention sees the first tokens anyway;"
                " set window, or sinks=0"
            )
        if self.parallel_blocks and self.norm_placement != "pre":
            raise ValueError(
                f"parallel_blocks with norm_placement={self.norm_placement!r}: both halves of a "
                "parallel block read one normalised input; use norm_placement='pre'"
            )
        if self.shared_norm and not self.parallel_blocks:
            raise ValueError(
                "shared_norm=True without parallel_blocks: the halves of a serial block read "
                "different inputs; set parallel_blocks=True, or shared_norm=False"
            )
        if (self.mup_base_width is None) == (self.init == "mup"):
            raise ValueError(
                f"init={self.init!r} with mup_base_width={self.mup_base_width}: muP, and nothing "
                "else, needs the width at which its rates were tuned; set both, or neither"
            )
        self._check_stacks()
        return self

    def _check_stacks(self) -> None:
        if self.architecture == "prefix_decoder" and self.window is not None:
            raise ValueError(
                f"architecture='prefix_decoder' with window={self.window}: a prefix is seen whole; "
                "use window=None, or architecture='decoder'"
            )
        if self.architecture == "encoder_decoder":
            unfit = {
                "window": self.window is not None,
                "document_mask": self.document_mask,
                "parallel_blocks": self.parallel_blocks,
            }
            if wrong := [name for name, is_set in unfit.items() if is_set]:
                raise ValueError(
                    f"architecture='encoder_decoder' has no {wrong[0]}: one text is read whole and "
                    f"another is written; leave {wrong[0]} at its default, or use "
                    "architecture='decoder'"
                )


class ModelConfig(Traits):
    """A transformer. `n_layers` are the decoder's; an encoder-decoder has `n_encoder_layers` more.

    Source: Touvron et al. 2023, arXiv:2302.13971 (the defaults: RMSNorm, SwiGLU, RoPE); Ainslie et
    al. 2023, arXiv:2305.13245 (grouped-query attention).
    """

    vocab_size: int = Field(gt=0)
    seq_len: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    n_encoder_layers: int = Field(default=0, ge=0)
    d_model: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    n_kv_heads: int = Field(gt=0)
    d_head: int = Field(gt=0)
    d_ff: int = Field(gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            legal = tuple(k for k in range(1, self.n_heads + 1) if self.n_heads % k == 0)
            raise ValueError(
                f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}; "
                f"use n_kv_heads in {legal}"
            )
        if self.position == "rope" and (self.rotated % 2 or not self.rotated):
            raise ValueError(
                f"d_head={self.d_head} with rope_fraction={self.rope_fraction:g} turns "
                f"{self.rotated} channels of a head, but rope turns pairs of them; use an even "
                "d_head, or a fraction of it that is an even number"
            )
        if (self.n_encoder_layers > 0) != (self.architecture == "encoder_decoder"):
            raise ValueError(
                f"n_encoder_layers={self.n_encoder_layers} with architecture="
                f"{self.architecture!r}: an encoder-decoder, and nothing else, has some; change one"
            )
        return self

    @property
    def rotated(self) -> int:
        """Channels of a head that rope turns."""
        return round(self.d_head * self.rope_fraction)

    @property
    def context(self) -> int:
        """Keys that a position sees at most."""
        if self.window is None:
            return self.seq_len
        return min(self.seq_len, self.window + self.sinks)

    @property
    def d_expert(self) -> int:
        """Width of one feed-forward block, be it an expert's or the only one's."""
        return self.moe.d_expert if self.moe and self.moe.d_expert else self.d_ff

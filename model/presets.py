"""Shapes of published models, by name.

Each is as published; where our model has no part of theirs, the comment says which. No torch here.
"""

from typing import Any

from model.config import ModelConfig, Traits

# Radford et al. 2019 (GPT-2), and the released weights.
GPT2 = {
    "vocab_size": 50_257,
    "seq_len": 1024,
    "activation": "gelu_tanh",
    "position": "learned",
    "norm": "layernorm",
    "tied_embeddings": True,
    "bias": True,
    "init": "depth_scaled",
}
# Brown et al. 2020, arXiv:2005.14165, table 2.1. Every second layer of theirs is banded sparse.
GPT3 = GPT2 | {"seq_len": 2048}
# Black et al. 2022, arXiv:2204.06745, table 1 and sec. 2.
NEOX = {
    "vocab_size": 50_432,
    "seq_len": 2048,
    "activation": "gelu_tanh",
    "rope_fraction": 0.25,
    "norm": "layernorm",
    "parallel_blocks": True,
    "bias": True,
}
# Zhang et al. 2022, arXiv:2205.01068, table 1. Their tables of positions have two rows more.
OPT = GPT2 | {"vocab_size": 50_272, "seq_len": 2048, "activation": "relu"}
# Chowdhery et al. 2022, arXiv:2204.02311, table 1 and sec. 2.
PALM = {
    "vocab_size": 256_000,
    "seq_len": 2048,
    "norm": "layernorm",
    "parallel_blocks": True,
    "shared_norm": True,
    "tied_embeddings": True,
}
# Rae et al. 2021, arXiv:2112.11446, table 1 and sec. 3.1; Hoffmann et al. 2022, arXiv:2203.15556,
# table 4. Their positions are Transformer-XL's, with one more d_model^2 a layer; ours are T5's.
GOPHER = {"vocab_size": 32_000, "seq_len": 2048, "activation": "gelu", "position": "relative"}
# Touvron et al. 2023, arXiv:2302.13971, table 2; arXiv:2307.09288, table 1; Dubey et al. 2024,
# arXiv:2407.21783, table 3; and the released weights.
LLAMA1 = {"vocab_size": 32_000, "seq_len": 2048, "norm_eps": 1e-6}
LLAMA2 = {"vocab_size": 32_000, "seq_len": 4096}
LLAMA3 = {"vocab_size": 128_256, "seq_len": 8192, "rope_theta": 500_000.0}
# Raffel et al. 2020, arXiv:1910.10683, sec. 3.1.1 and the released weights.
T5 = {
    "architecture": "encoder_decoder",
    "vocab_size": 32_128,
    "seq_len": 512,
    "activation": "relu",
    "position": "relative",
    "norm_eps": 1e-6,
    "tied_embeddings": True,
}
# Shazeer 2020, arXiv:2002.05202, in the released weights of T5 1.1.
T5_1_1 = T5 | {"activation": "geglu", "tied_embeddings": False}
# Tay et al. 2022, arXiv:2205.05131, sec. 4.1 and the released weights.
UL2 = T5_1_1 | {"activation": "swiglu"}


def _sized(
    family: dict[str, Any],
    layers: int,
    width: int,
    heads: int,
    *,
    d_head: int | None = None,
    kv: int | None = None,
    ff: int | None = None,
) -> ModelConfig:
    """A size of a family: heads of width / heads, keys for each, d_ff of four widths by default."""
    encoder = layers if family.get("architecture") == "encoder_decoder" else 0
    sizes = {
        "n_layers": layers,
        "n_encoder_layers": encoder,
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": kv or heads,
        "d_head": d_head or width // heads,
        "d_ff": ff or 4 * width,
    }
    return ModelConfig.model_validate(family | sizes)


PRESETS: dict[str, ModelConfig] = {
    "gpt2": _sized(GPT2, 12, 768, 12),
    "gpt2-medium": _sized(GPT2, 24, 1024, 16),
    "gpt2-large": _sized(GPT2, 36, 1280, 20),
    "gpt2-xl": _sized(GPT2, 48, 1600, 25),
    "gpt3-125m": _sized(GPT3, 12, 768, 12),
    "gpt3-350m": _sized(GPT3, 24, 1024, 16),
    "gpt3-760m": _sized(GPT3, 24, 1536, 16),
    # Their table says 24 heads of 128, half as much again as the width; 16 give their count.
    "gpt3-1.3b": _sized(GPT3, 24, 2048, 16),
    "gpt3-2.7b": _sized(GPT3, 32, 2560, 32),
    "gpt3-6.7b": _sized(GPT3, 32, 4096, 32),
    # Their width of 5140 is no multiple of 40 heads of 128: 5120 is.
    "gpt3-13b": _sized(GPT3, 40, 5120, 40),
    "gpt3-175b": _sized(GPT3, 96, 12_288, 96),
    "gpt-neox-20b": _sized(NEOX, 44, 6144, 64),
    "opt-125m": _sized(OPT, 12, 768, 12),
    "opt-1.3b": _sized(OPT, 24, 2048, 32),
    "opt-2.7b": _sized(OPT, 32, 2560, 32),
    "opt-6.7b": _sized(OPT, 32, 4096, 32),
    "opt-13b": _sized(OPT, 40, 5120, 40),
    "opt-30b": _sized(OPT, 48, 7168, 56),
    "opt-66b": _sized(OPT, 64, 9216, 72),
    "opt-175b": _sized(OPT, 96, 12_288, 96),
    "palm-8b": _sized(PALM, 32, 4096, 16, d_head=256, kv=1),
    "palm-62b": _sized(PALM, 64, 8192, 32, d_head=256, kv=1),
    "palm-540b": _sized(PALM, 118, 18_432, 48, d_head=256, kv=1),
    "gopher-44m": _sized(GOPHER, 8, 512, 16),
    "gopher-117m": _sized(GOPHER, 12, 768, 12),
    "gopher-417m": _sized(GOPHER, 12, 1536, 12),
    "gopher-1.4b": _sized(GOPHER, 24, 2048, 16),
    "gopher-7.1b": _sized(GOPHER, 32, 4096, 32),
    "gopher-280b": _sized(GOPHER, 80, 16_384, 128),
    "chinchilla-70b": _sized(GOPHER, 80, 8192, 64),
    "llama-7b": _sized(LLAMA1, 32, 4096, 32, ff=11_008),
    "llama-13b": _sized(LLAMA1, 40, 5120, 40, ff=13_824),
    "llama-33b": _sized(LLAMA1, 60, 6656, 52, ff=17_920),
    "llama-65b": _sized(LLAMA1, 80, 8192, 64, ff=22_016),
    "llama-2-7b": _sized(LLAMA2, 32, 4096, 32, ff=11_008),
    "llama-2-13b": _sized(LLAMA2, 40, 5120, 40, ff=13_824),
    "llama-2-70b": _sized(LLAMA2, 80, 8192, 64, kv=8, ff=28_672),
    "llama-3-8b": _sized(LLAMA3, 32, 4096, 32, kv=8, ff=14_336),
    "llama-3-70b": _sized(LLAMA3, 80, 8192, 64, kv=8, ff=28_672),
    "llama-3-405b": _sized(LLAMA3, 126, 16_384, 128, kv=8, ff=53_248),
    "t5-small": _sized(T5, 6, 512, 8, ff=2048),
    "t5-base": _sized(T5, 12, 768, 12, ff=3072),
    "t5-large": _sized(T5, 24, 1024, 16, ff=4096),
    "t5-3b": _sized(T5, 24, 1024, 32, d_head=128, ff=16_384),
    "t5-11b": _sized(T5, 24, 1024, 128, d_head=128, ff=65_536),
    "t5-1.1-small": _sized(T5_1_1, 8, 512, 6, d_head=64, ff=1024),
    "t5-1.1-base": _sized(T5_1_1, 12, 768, 12, ff=2048),
    "t5-1.1-large": _sized(T5_1_1, 24, 1024, 16, ff=2816),
    "t5-1.1-xl": _sized(T5_1_1, 24, 2048, 32, ff=5120),
    "t5-1.1-xxl": _sized(T5_1_1, 24, 4096, 64, ff=10_240),
    "ul2-20b": _sized(UL2, 32, 4096, 16, ff=16_384),
}


def preset(name: str) -> ModelConfig:
    """A published model's shape. Raises ValueError with the names where there is none of this."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def traits(name: str) -> Traits:
    """What a published model shares with every size of a ladder of its kind: `Recipe(model=...)`.

    Raises ValueError where there is no preset of this name.
    """
    return Traits.model_validate(preset(name).model_dump(include=set(Traits.model_fields)))


def toy(name: str, vocab_size: int) -> ModelConfig:
    """A published model's architecture in a size that trains within seconds: 64 wide, for tests.

    All switches are the preset's; its ratios of width to depth (a quarter of it), of d_ff to width
    and of heads to keys stay up to rounding, and a sixteenth of its window.
    Raises ValueError where there is no preset of this name.
    """
    found = preset(name)
    layers = max(1, round(256 * found.n_layers / found.d_model))
    sizes = {
        "vocab_size": vocab_size,
        "seq_len": found.seq_len // 16,
        "n_layers": layers,
        "n_encoder_layers": layers if found.n_encoder_layers else 0,
        "d_model": 64,
        "n_heads": 8,
        "n_kv_heads": max(1, 8 * found.n_kv_heads // found.n_heads),
        "d_head": 8,
        "d_ff": round(64 * found.d_ff / found.d_model),
    }
    return ModelConfig.model_validate(found.model_dump() | sizes)

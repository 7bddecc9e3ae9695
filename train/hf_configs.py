"""Our config in the words of Hugging Face's Llama, GPT-2 and GPT-NeoX, and back. No torch here."""

from collections.abc import Callable, Mapping
from typing import Any

from model.config import Activation, ModelConfig

GELUS: dict[Activation, str] = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
NAMES: dict[str, Activation] = {
    **{theirs: ours for ours, theirs in GELUS.items()},
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def llama_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
    }


def gpt2_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": config.d_model,
        "n_inner": config.d_ff,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_positions": config.seq_len,
        "activation_function": GELUS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
    }


def neox_config(config: ModelConfig) -> dict[str, Any]:
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.rope_fraction}
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "max_position_embeddings": config.seq_len,
        "hidden_act": GELUS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "rotary_pct": config.rope_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_parameters": {"rope_type": "default", **rope},
        "use_parallel_residual": config.parallel_blocks,
        "attention_bias": True,
    }


def from_llama(told: Mapping[str, Any]) -> dict[str, Any]:
    rope = told.get("rope_parameters") or told.get("rope_scaling") or {}
    heads = told["num_attention_heads"]
    return {
        "seq_len": told["max_position_embeddings"],
        "n_layers": told["num_hidden_layers"],
        "d_model": told["hidden_size"],
        "n_heads": heads,
        "n_kv_heads": told.get("num_key_value_heads") or heads,
        "d_head": told.get("head_dim") or told["hidden_size"] // heads,
        "d_ff": told["intermediate_size"],
        "norm_eps": told["rms_norm_eps"],
        "rope_theta": rope.get("rope_theta", told.get("rope_theta", 10_000.0)),
        "bias": told.get("attention_bias", False),
    }


def from_gpt2(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seq_len": told["n_positions"],
        "n_layers": told["n_layer"],
        "d_model": told["n_embd"],
        "n_heads": told["n_head"],
        "n_kv_heads": told["n_head"],
        "d_head": told["n_embd"] // told["n_head"],
        "d_ff": told.get("n_inner") or 4 * told["n_embd"],
        "activation": NAMES[told["activation_function"]],
        "norm_eps": told["layer_norm_epsilon"],
        "position": "learned",
        "norm": "layernorm",
        "bias": True,
    }


def from_neox(told: Mapping[str, Any]) -> dict[str, Any]:
    rope, heads = told.get("rope_parameters") or {}, told["num_attention_heads"]
    return {
        "seq_len": told["max_position_embeddings"],
        "n_layers": told["num_hidden_layers"],
        "d_model": told["hidden_size"],
        "n_heads": heads,
        "n_kv_heads": heads,
        "d_head": told["hidden_size"] // heads,
        "d_ff": told["intermediate_size"],
        "activation": NAMES[told["hidden_act"]],
        "norm_eps": told["layer_norm_eps"],
        "rope_fraction": rope.get("partial_rotary_factor", told.get("rotary_pct", 0.25)),
        "rope_theta": rope.get("rope_theta", told.get("rotary_emb_base", 10_000.0)),
        "parallel_blocks": told["use_parallel_residual"],
        "norm": "layernorm",
        "bias": True,
    }


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "llama": from_llama,
    "gpt2": from_gpt2,
    "gpt_neox": from_neox,
}


def translated(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The content of our config from that of a config.json of a known kind."""
    tied = told.get("tie_word_embeddings", name == "gpt2")
    return READERS[name](told) | {"vocab_size": told["vocab_size"], "tied_embeddings": tied}


def understood(told: Mapping[str, Any]) -> ModelConfig:
    """Our config of a config.json. Raises ValueError where it is of another model."""
    name = told.get("model_type", "")
    if name not in READERS:
        raise ValueError(f"model_type={name!r} is not read; there are: {', '.join(READERS)}")
    rope = told.get("rope_parameters") or told.get("rope_scaling") or {}
    if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise ValueError(f"rope_type={kind!r} is not read: only rotation as trained, 'default'")
    try:
        return ModelConfig.model_validate(translated(name, told))
    except KeyError as error:
        raise ValueError(f"config.json of a {name} says nothing known of {error}") from None

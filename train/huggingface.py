"""Weights and configs in the form of Hugging Face's models, and back."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from train.hf_configs import (
    GELUS,
    gpt2_config,
    llama_config,
    neox_config,
    translated,
    understood,
)
from train.hf_rows import SAME, Row, gpt2_rows, llama_rows, neox_rows

State = dict[str, Tensor]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Form:
    """A model of Hugging Face's: its head's name, its rows and its config."""

    head: str
    rows: Callable[[ModelConfig], Iterator[Row]]
    config: Callable[[ModelConfig], dict[str, Any]]


FORMS: dict[str, Form] = {
    "llama": Form("lm_head.weight", llama_rows, llama_config),
    "gpt2": Form("lm_head.weight", gpt2_rows, gpt2_config),
    "gpt_neox": Form("embed_out.weight", neox_rows, neox_config),
}


def form_of(config: ModelConfig) -> str:
    """The name of the form that computes what our model does.

    Raises ValueError with what is in the way where none does.
    """
    tries = {name: _misfits(name, config) for name in FORMS}
    best = min(tries, key=lambda name: len(tries[name]))
    if tries[best]:
        raise ValueError(
            f"no model of Hugging Face's that is known here computes this one: {best} comes "
            f"nearest, but not with {', '.join(tries[best])}; it stays in this project's own form"
        )
    return best


def _misfits(name: str, config: ModelConfig) -> list[str]:
    """Fields whose value the form cannot say, with the value."""
    there = ModelConfig.model_validate(translated(name, _described(name, config)))
    ours, theirs = config.model_dump(), there.model_dump()
    # What acts in training alone, or only where windows hold several documents.
    silent = {"dropout", "document_mask", "init", "init_std"}
    if config.window is not None and config.window >= config.seq_len:
        silent |= {"window", "sinks"}
    if config.position != "rope":
        silent |= {"rope_theta", "rope_fraction"}
    if config.position != "relative":
        silent |= {"relative_buckets", "relative_max_distance"}
    return [
        f"{key}={ours[key]!r}" for key in ours if key not in silent and ours[key] != theirs[key]
    ]


def _described(name: str, config: ModelConfig) -> dict[str, Any]:
    """Their config of our model; what they have no word for is dropped here, and found missing."""
    known = (
        config if config.activation in GELUS else config.model_copy(update={"activation": "gelu"})
    )
    common = {
        "model_type": name,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": "float32",
    }
    return common | FORMS[name].config(config if name == "llama" else known)


def described(config: ModelConfig) -> dict[str, Any]:
    """The config.json of our model. Raises ValueError where Hugging Face has none like it."""
    return _described(form_of(config), config)


def _rows(config: ModelConfig, name: str) -> Iterator[Row]:
    yield from FORMS[name].rows(config)
    if not config.tied_embeddings:
        yield Row(("head.weight",), FORMS[name].head, SAME)


def packed(state: Mapping[str, Tensor], config: ModelConfig) -> State:
    """Our named weights under their names, in their shapes."""
    rows = _rows(config, form_of(config))
    return {r.theirs: r.packing.pack([state[n] for n in r.ours]).contiguous() for r in rows}


def unpacked(state: Mapping[str, Tensor], config: ModelConfig, name: str) -> State:
    """Their named weights under our names. Raises ValueError where one is missing."""
    found: State = {}
    # GPT-2 as released is the model without its head, and its names without their first word.
    if name == "gpt2" and "wte.weight" in state:
        state = {f"transformer.{key}": tensor for key, tensor in state.items()}
    for row in _rows(config, name):
        if row.theirs not in state:
            raise ValueError(f"the weights have no {row.theirs!r}: not a whole {name}")
        parts = row.packing.unpack(state[row.theirs])
        found |= {n: p.contiguous() for n, p in zip(row.ours, parts, strict=True)}
    return found


def write(folder: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors as transformers reads them."""
    (folder / "config.json").write_text(json.dumps(described(config), indent=2), encoding="utf-8")
    save_file(packed(state, config), folder / WEIGHTS, metadata={"format": "pt"})


def read(folder: Path) -> tuple[ModelConfig, State]:
    """Our config and weights of a folder of theirs, of one weights file or several.

    Raises ValueError where it holds no model that is known here.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; name a folder of a Hugging Face model")
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = understood(told)
    files = [WEIGHTS]
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    state: State = {}
    for name in files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: weights in safetensors files are read alone")
        state |= load_file(folder / name)
    return config, unpacked(state, config, told["model_type"])

"""The same function in two forms: our weights in transformers, and theirs in ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import ModelConfig
from model.generate import generate
from model.initial import initialise
from model.presets import traits
from model.transformer import Transformer
from train import checkpoint, huggingface
from train.config import DataConfig, data_id
from train.export import export
from train.runlog import RunDir

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 300,
    "seq_len": 32,
    "n_layers": 3,
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 4,
    "d_head": 8,
    "d_ff": 48,
}


def small(name: str, **change: Any) -> ModelConfig:
    content = traits(name).model_dump() | SIZES | {"init": "normal", "init_std": 0.2}
    return ModelConfig.model_validate(content | {"mup_base_width": None} | change)


MODELS = {
    "llama": small("llama-3-8b", n_kv_heads=2),
    "llama of wide heads": small("llama-7b", d_head=16, tied_embeddings=True, bias=True),
    "gpt2": small("gpt2"),
    "gpt2 of two tables": small("gpt2", tied_embeddings=False, activation="gelu"),
    "gpt-neox": small("gpt-neox-20b"),
    "gpt-neox of serial blocks": small("gpt-neox-20b", parallel_blocks=False, rope_fraction=1.0),
}


def build(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    initialise(model, 0)
    dice = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # gains of one and biases of zero would hide a mistake
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=dice)
    return model.eval()


def some_tokens() -> torch.Tensor:
    return torch.randint(0, 300, (3, 32), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = build(MODELS[name])
    huggingface.write(tmp_path, model.config, checkpoint.weights(model))
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model(some_tokens()), twin(some_tokens()).logits, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_saves_is_read_back(name: str, tmp_path: Path) -> None:
    model = build(MODELS[name])
    (tmp_path / "ours").mkdir()
    huggingface.write(tmp_path / "ours", model.config, checkpoint.weights(model))
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    # In several files, as large models are.
    twin.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    config, state = huggingface.read(tmp_path / "theirs")
    back = Transformer(config)
    back.load_state_dict(state, strict=False)
    torch.testing.assert_close(back.eval()(some_tokens()), model(some_tokens()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qk_norm": True}, r"llama comes nearest, but not with qk_norm=True"),
        ({"position": "alibi"}, r"not with position='alibi'"),
        ({"window": 8}, "not with window=8"),
        ({"moe": {"n_experts": 2}}, "not with moe="),
    ],
)
def test_a_model_without_an_equal_is_refused_with_what_is_in_the_way(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        huggingface.described(small("llama-7b", **change))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"model_type": "mamba"}, "model_type='mamba' is not read"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "yarn"}}, "rope_type='yarn'"),
        ({"model_type": "llama"}, "says nothing known of 'num_attention_heads'"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    told: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=words):
        huggingface.read(tmp_path)


@pytest.fixture
def finished(make_run: Callable[..., RunDir]) -> RunDir:
    """A run that left fresh weights."""
    run = make_run(seed=77)
    model = Transformer(run.spec().model)
    initialise(model, 0)
    checkpoint.save_final(model, run, 1)
    return run


def test_an_exported_run_generates_what_it_generates_here(finished: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export(finished, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    twin = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("def forward(self, x):", return_tensors="pt").input_ids
    theirs = twin.generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    ours = generate(checkpoint.load_final(finished), prompt, 20)
    written = theirs[0, prompt.shape[1] :]
    assert written.tolist() == ours[0, : len(written)].tolist()
    assert tokenizer.decode(prompt[0]) == "def forward(self, x):"


def test_nothing_is_written_over_and_nothing_is_left_half_written(
    finished: RunDir, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="exists; name a folder that does not"):
        export(finished, tmp_path)
    (finished.home / "data" / data_id(DataConfig())).mkdir(parents=True, exist_ok=True)
    (finished.final / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="missing or damaged"):
        export(finished, tmp_path / "out")
    assert not list(tmp_path.iterdir())

"""Presets against the published counts, the built module, and the released configs' twins."""

from typing import Any

import pytest
import torch

from model.config import ModelConfig
from model.counts import params_active, params_embedding, params_total
from model.presets import PRESETS, preset, traits
from model.transformer import Transformer

# Sizes of the tensors in the released weights, by Hugging Face's listing of them; our count of all
# stored parameters. OPT's tables of positions have two rows more.
RELEASED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt-neox-20b": 20_554_567_680,
    "opt-125m": 125_239_296 - 2 * 768,
    "opt-1.3b": 1_315_758_080 - 2 * 2048,
    "opt-6.7b": 6_658_473_984 - 2 * 4096,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-1.1-small": 76_961_152,
    "t5-1.1-base": 247_577_856,
    "t5-1.1-large": 783_150_080,
    "t5-1.1-xl": 2_849_757_184,
    "t5-1.1-xxl": 11_135_332_352,
}
# Counts that papers print, all parameters, to their own rounding.
PRINTED = {
    "gpt3-125m": 125e6,
    "gpt3-350m": 350e6,
    "gpt3-760m": 760e6,
    "gpt3-1.3b": 1.3e9,
    "gpt3-2.7b": 2.7e9,
    "gpt3-6.7b": 6.7e9,
    "gpt3-13b": 13.0e9,
    "gpt3-175b": 175.0e9,
    "opt-2.7b": 2.7e9,
    "opt-13b": 13e9,
    "opt-30b": 30e9,
    "opt-66b": 66e9,
    "opt-175b": 175e9,
    # Chowdhery et al. 2022, table 1
    "palm-8b": 8.63e9,
    "palm-62b": 62.50e9,
    "palm-540b": 540.35e9,
    "ul2-20b": 20e9,
}
# Gopher and Chinchilla count the position projections that our model has not: d_model^2 a layer.
# Rae et al. 2021, table 1, without embeddings for the small ones; Hoffmann et al. 2022, table 4.
WITH_POSITIONS = {
    "gopher-44m": 44e6,
    "gopher-117m": 117e6,
    "gopher-417m": 417e6,
    "gopher-1.4b": 1.4e9,
    "gopher-7.1b": 7.1e9,
    "gopher-280b": 280e9,
    "chinchilla-70b": 70e9,
}


def test_every_preset_is_held_against_a_published_count() -> None:
    assert set(PRESETS) == set(RELEASED) | set(PRINTED) | set(WITH_POSITIONS)


@pytest.mark.parametrize(("name", "published"), RELEASED.items())
def test_parameters_are_those_of_the_released_weights(name: str, published: int) -> None:
    assert params_total(PRESETS[name]) == published


@pytest.mark.parametrize(("name", "published"), PRINTED.items())
def test_parameters_are_what_the_paper_prints(name: str, published: float) -> None:
    assert params_total(PRESETS[name]) == pytest.approx(published, rel=0.025)


@pytest.mark.parametrize(("name", "published"), WITH_POSITIONS.items())
def test_parameters_and_position_projections_are_what_the_paper_prints(
    name: str, published: float
) -> None:
    config = PRESETS[name]
    projections = config.n_layers * config.d_model**2
    assert params_total(config) - config.vocab_size * config.d_model + projections == (
        pytest.approx(published, rel=0.02)
    )


@pytest.mark.parametrize("name", PRESETS)
def test_the_built_module_has_as_many(name: str) -> None:
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == params_total(PRESETS[name])


def twin(config: ModelConfig, name: str) -> Any:
    """The config of Hugging Face's model of the same shape."""
    transformers = pytest.importorskip("transformers")
    if name.startswith("gpt2"):
        return transformers.GPT2Config(
            n_embd=config.d_model, n_layer=config.n_layers, n_head=config.n_heads
        )
    if name.startswith("gpt-neox"):
        return transformers.GPTNeoXConfig()
    if name.startswith("opt"):
        return transformers.OPTConfig(
            hidden_size=config.d_model,
            word_embed_proj_dim=config.d_model,
            ffn_dim=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
        )
    if name.startswith("llama"):
        return transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
        )
    activation = {"relu": "relu", "geglu": "gated-gelu", "swiglu": "gated-silu"}
    return transformers.T5Config(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_head,
        d_ff=config.d_ff,
        num_layers=config.n_layers,
        num_heads=config.n_heads,
        feed_forward_proj=activation[config.activation],
    )


TWINS = [n for n in PRESETS if n.startswith(("gpt2", "gpt-neox", "opt", "llama", "t5", "ul2"))]


@pytest.mark.parametrize("name", TWINS)
def test_hugging_face_builds_as_many(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = PRESETS[name]
    described = twin(config, name)
    kind = transformers.AutoModelForCausalLM
    if config.n_encoder_layers:
        kind = transformers.AutoModelForSeq2SeqLM
    with torch.device("meta"):
        built = kind.from_config(described)
    count = params_total(config)
    if name.startswith("opt"):
        count += 2 * config.d_model
    if config.n_encoder_layers and not config.tied_embeddings:
        # transformers 5 ties the tables of every T5, also of those released with two.
        count -= config.vocab_size * config.d_model
    assert sum(p.numel() for p in built.parameters()) == count


def test_traits_are_all_but_the_sizes() -> None:
    shared = traits("llama-3-8b")
    assert shared.rope_theta == 500_000
    assert "d_model" not in type(shared).model_fields
    whole = ModelConfig.model_validate(
        shared.model_dump()
        | preset("llama-3-8b").model_dump(exclude=set(type(shared).model_fields))
    )
    assert whole == preset("llama-3-8b")


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no preset 'llama-4'; there are: gpt2, .*ul2-20b"):
        preset("llama-4")


def test_counts_without_tables_are_kaplans() -> None:
    # Kaplan et al. 2020, arXiv:2001.08361, table 1: 12 L D^2 for d_ff = 4 D, without vectors.
    config = PRESETS["gpt3-175b"]
    body = params_total(config) - params_embedding(config)
    assert body == pytest.approx(12 * 96 * 12_288**2, rel=1e-3)
    assert params_active(config) == body + config.vocab_size * config.d_model

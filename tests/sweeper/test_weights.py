"""Presets on the command line, and runs written for other programs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.initial import initialise
from model.presets import PRESETS, traits
from model.transformer import Transformer
from sweeper import cli
from sweeper.errors import UserError
from sweeper.recipe import Recipe, shape
from train import checkpoint
from train.config import BatchConfig, DataConfig, EvalConfig, OptimConfig, RunSpec, ScheduleConfig
from train.data.curate import with_digest
from train.data.prepare import prepare
from train.runlog import create_run


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SWEEPER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_presets_are_listed_with_what_they_count() -> None:
    listed = CliRunner().invoke(cli.app, ["presets", "--json"])
    content = json.loads(listed.stdout)
    assert set(content) == set(PRESETS)
    assert content["llama-3-8b"]["params_total"] == 8_030_261_248
    assert content["llama-3-8b"]["kv_cache_bytes_per_token"] == 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_kind_of_preset_has_a_ladder(name: str) -> None:
    recipe = Recipe(
        data=DataConfig(vocab_size=512),
        seq_len=128,
        batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=8),
        model=traits(name),
    )
    model = shape(recipe, 300_000)
    assert model.model_dump(include=set(type(recipe.model).model_fields)) == (
        recipe.model.model_dump()
    )


def test_a_run_that_is_not_there_cannot_be_exported(home: Path, tmp_path: Path) -> None:
    error = CliRunner().invoke(cli.app, ["export", "abc", "--hf", str(tmp_path / "out")]).exception
    assert isinstance(error, UserError)
    assert "there is no run 'abc'" in str(error)


@pytest.mark.slow
def test_a_finished_run_is_written_for_transformers(home: Path, tmp_path: Path) -> None:
    data = with_digest(DataConfig(bytes_per_source=200_000, vocab_size=300))
    prepare(data, home)
    recipe = Recipe(
        data=data, seq_len=64, batch=BatchConfig(global_batch_tokens=512, micro_batch_size=8)
    )
    spec = RunSpec(
        study="s",
        trial=0,
        budget=1e9,
        model=shape(recipe, 30_000),
        data=data,
        batch=recipe.batch,
        optim=OptimConfig(lr=0.01),
        schedule=ScheduleConfig(warmup_tokens=512),
        evals=EvalConfig(validation_tokens=2048),
        tokens=1024,
    )
    run = create_run(home, spec)
    command = ["export", run.path.name, "--hf", str(tmp_path / "out")]
    error = CliRunner().invoke(cli.app, command).exception
    assert isinstance(error, UserError)
    assert "missing or damaged" in str(error)
    model = Transformer(spec.model)
    initialise(model, 0)
    checkpoint.save_final(model, run, 1)
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.exception
    assert "AutoModelForCausalLM.from_pretrained" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }

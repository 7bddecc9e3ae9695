"""Runs that start from the weights of a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import curve, train

from model.initial import initialise
from model.transformer import Transformer
from sweeper.planner import Planner
from sweeper.recipe import Recipe
from sweeper.study import IsoFLOP, PromotionPlan, Study
from sweeper.trial import Trial
from train import checkpoint, huggingface
from train.choices import BatchConfig, Start
from train.config import run_id
from train.runlog import RunDir
from train.start import with_digest


@pytest.fixture
def parent(make_run: Callable[..., RunDir]) -> RunDir:
    """A run that left weights."""
    run = make_run(seed=78)
    model = Transformer(run.spec().model)
    initialise(model, 5)
    checkpoint.save_final(model, run, 1)
    return run


def some_tokens() -> torch.Tensor:
    return torch.randint(0, 300, (2, 128), generator=torch.Generator().manual_seed(2))


def test_a_run_starts_from_the_weights_of_a_folder(
    parent: RunDir, make_run: Callable[..., RunDir]
) -> None:
    start = with_digest(Start(folder=str(parent.final)))
    spec = make_run(start=start).spec()
    model = checkpoint.load_start(start, spec.model, spec.seed)
    old = checkpoint.load_final(parent)
    torch.testing.assert_close(model(some_tokens()), old(some_tokens()))


def test_a_larger_run_starts_from_a_model_grown_from_another_form(
    parent: RunDir, tmp_path: Path
) -> None:
    old = checkpoint.load_final(parent)
    huggingface.write(tmp_path, old.config, checkpoint.weights(old))
    start = with_digest(Start(folder=str(tmp_path)))
    larger = old.config.model_copy(update={"n_layers": 4, "d_model": 32, "d_ff": 40})
    model = checkpoint.load_start(start, larger, seed=0)
    torch.testing.assert_close(model(some_tokens()), old(some_tokens()), rtol=1e-4, atol=1e-5)


def test_the_run_id_follows_the_weights_and_not_their_place(
    parent: RunDir, make_run: Callable[..., RunDir], tmp_path: Path
) -> None:
    here = Start(folder=str(parent.final), digest="1")
    there = Start(folder=str(tmp_path), digest="1")
    other = Start(folder=str(parent.final), digest="2")
    ids = [run_id(make_run(start=start).spec()) for start in (here, there, other)]
    assert ids[0] == ids[1] != ids[2]


def test_weights_that_changed_since_the_plan_are_refused(parent: RunDir) -> None:
    planned = Start(folder=str(parent.final), digest="old")
    with pytest.raises(ValueError, match=r"holds other weights .* put them back"):
        checkpoint.load_start(planned, parent.spec().model, seed=0)


def study(folder: Path) -> Study:
    return Study(
        name="s",
        question="?",
        base=Recipe(
            seq_len=128,
            batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=8),
            start=Start(folder=str(folder)),
        ),
        budgets=(1e12,),
        designs=(IsoFLOP(sizes_per_budget=5, spread=3.0),),
        promotion=PromotionPlan(target=1e14),
    )


def test_a_folder_that_no_run_can_start_from_is_refused_in_the_plan(
    parent: RunDir, tmp_path: Path
) -> None:
    trial = Trial("isoflop", 1e12, 0, 1e6)
    with pytest.raises(ValueError, match=r"holds no config.json and .safetensors"):
        Planner(study(tmp_path)).plan(trial)
    with pytest.raises(ValueError, match="cannot be grown from"):
        Planner(study(parent.final)).plan(trial)


@pytest.mark.slow
def test_a_run_that_starts_from_trained_weights_begins_at_their_loss(
    make_run: Callable[..., RunDir],
) -> None:
    first = make_run(seed=79)
    assert train(first) == 0
    start = with_digest(Start(folder=str(first.final)))
    second = make_run(seed=80, start=start)
    assert train(second) == 0
    (_, fresh, _), *_, (_, trained, _) = curve(first)
    assert abs(curve(second)[0][1] - trained) < 0.3 * abs(fresh - trained)

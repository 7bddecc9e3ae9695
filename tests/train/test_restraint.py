"""What holds gradients and logits down, against plain loops with the same in them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_checkpoint import interrupted
from torch import nn
from trainings import curve, done, train, twin

from model.initial import initialise
from model.transformer import Transformer
from train.config import RunSpec, StabilityConfig, data_id
from train.data.loader import TrainLoader
from train.losses import max_z_loss, token_nats, z_loss
from train.optim import OPTIMIZERS
from train.runlog import RunDir, read_lines
from train.schedule import lr_factor
from train.stability import shrink_embedding_gradient

MakeRun = Callable[..., RunDir]
COMPARED = 12


def test_a_table_keeps_its_share_of_the_gradient_of_what_was_looked_up() -> None:
    whole, shrunk = nn.Embedding(5, 3), nn.Embedding(5, 3)
    shrunk.load_state_dict(whole.state_dict())
    shrink_embedding_gradient(shrunk, 0.1)
    ids = torch.tensor([0, 2, 2])
    torch.testing.assert_close(shrunk(ids), whole(ids))
    for table in (whole, shrunk):
        table(ids).square().sum().backward()
    assert whole.weight.grad is not None
    torch.testing.assert_close(shrunk.weight.grad, 0.1 * whole.weight.grad)


def plain(spec: RunSpec, home: Path, steps: int) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of an ordinary loop with the restraints of a spec."""
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    shrink_embedding_gradient(model.embedding, spec.stability.embedding_gradient)
    optimizer = OPTIMIZERS[spec.optim.name](model, spec.optim)
    loader = TrainLoader(home / "data" / data_id(spec.data), {}, spec.model.seq_len, 4, spec.seed)
    seen: list[tuple[int, float, float]] = []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = spec.optim.lr * lr_factor(spec.schedule, step * 512, spec.tokens)
        ids = torch.from_numpy(loader.batch(step - 1))
        optimizer.zero_grad()
        logits = model(ids[:, :-1])
        loss = token_nats(logits, ids[:, 1:]).mean()
        loss = loss + spec.stability.z_loss * z_loss(logits).mean()
        loss = loss + spec.stability.max_z_loss * max_z_loss(logits).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), spec.optim.gradient_clipping)
        optimizer.step()
        seen.append((step, loss.item(), norm.item()))
    return seen


@pytest.mark.slow
def test_a_restrained_run_follows_a_plain_loop(make_run: MakeRun) -> None:
    stability = StabilityConfig(z_loss=0.01, max_z_loss=0.02, embedding_gradient=0.1)
    run = make_run(seed=81, stability=stability)
    assert train(run) == 0
    spec = run.spec()
    expected = plain(spec, run.home, COMPARED)
    for mine, theirs in zip(curve(run), expected, strict=False):
        assert mine == pytest.approx(theirs, rel=1e-3)
    unrestrained = spec.model_copy(update={"stability": StabilityConfig()})
    assert plain(unrestrained, run.home, COMPARED)[-1] != pytest.approx(expected[-1], rel=1e-3)


@pytest.mark.slow
def test_logged_nats_are_the_loss_without_what_restrains_it(make_run: MakeRun) -> None:
    run = make_run(seed=82, stability=StabilityConfig(z_loss=0.01, max_z_loss=0.02))
    assert train(run) == 0
    for line in read_lines(run.metrics(1)):
        added = 0.01 * line["z_loss"] + 0.02 * line["max_z_loss"]
        assert line["loss"] == pytest.approx(line["nats"] + added, rel=1e-5)


@pytest.mark.slow
def test_a_run_with_dropout_is_resumed_bit_for_bit(make_run: MakeRun, tmp_path: Path) -> None:
    model = make_run().spec().model.model_copy(update={"dropout": 0.2})
    undisturbed = make_run(seed=83, tokens=200 * 512, model=model)
    assert train(undisturbed) == 0
    run = twin(undisturbed, tmp_path / "home")
    interrupted(run)
    assert train(run) == 0
    assert curve(run, 1, 2) == curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token

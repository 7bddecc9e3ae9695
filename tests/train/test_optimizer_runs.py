"""Whole runs with every optimizer: as a plain loop has it, alone, shared out, and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import interrupted
from test_ranks import ended, together
from trainings import curve, done, train, twin

from model.initial import initialise
from model.transformer import Transformer
from train.choices import ZERO_STAGES, OptimConfig, OptimizerName, ZeroStage
from train.config import ParallelConfig, RunSpec, data_id
from train.data.loader import TrainLoader
from train.losses import token_nats
from train.optim import OPTIMIZERS
from train.runlog import RunDir
from train.schedule import lr_factor

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]
COMPARED = 12


def plain(spec: RunSpec, home: Path, steps: int) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of an ordinary loop over the same batches."""
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    optimizer = OPTIMIZERS[spec.optim.name](model, spec.optim)
    folder = home / "data" / data_id(spec.data)
    loader = TrainLoader(folder, {}, spec.model.seq_len, 4, spec.seed)
    seen = []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = spec.optim.lr * lr_factor(spec.schedule, step * 512, spec.tokens)
        ids = torch.from_numpy(loader.batch(step - 1))
        optimizer.zero_grad()
        loss = token_nats(model(ids[:, :-1]), ids[:, 1:]).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optim.gradient_clipping)
        if spec.optim.value_clipping is not None:
            torch.nn.utils.clip_grad_value_(model.parameters(), spec.optim.value_clipping)
        optimizer.step()
        seen.append((step, loss.item(), norm.item()))
    return seen


RATES: dict[OptimizerName, float] = {"adamw": 0.01, "adafactor": 0.05, "muon": 0.01, "lion": 0.001}
# What signs and bfloat16 make of sums in another order.
CLOSE: dict[OptimizerName, float] = {"muon": 1e-3, "lion": 1e-3}


def made(make_run: MakeRun, name: OptimizerName, **fields: Any) -> RunDir:
    layout = ParallelConfig(dp=fields.pop("dp", 1), zero_stage=ZERO_STAGES[name][0])
    optim = OptimConfig(name=name, lr=RATES[name])
    return make_run(seed=80, optim=optim, parallel=layout, **fields)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_numbers_of_gradients_are_clipped_under_every_stage_of_zero(
    make_run: MakeRun, stage: ZeroStage
) -> None:
    # Below the root of its second moments nothing holds a step of AdamW: eps does.
    optim = OptimConfig(lr=0.01, eps=1e-3, value_clipping=1e-3)
    layout = ParallelConfig(zero_stage=stage)
    run = make_run(seed=81, tokens=COMPARED * 512, optim=optim, parallel=layout)
    assert train(run) == 0
    expected = plain(run.spec(), run.home, COMPARED)
    for mine, its in zip(expected, curve(run), strict=True):
        assert its == pytest.approx(mine, rel=1e-5)
    free = run.spec().model_copy(
        update={"optim": optim.model_copy(update={"value_clipping": None})}
    )
    assert plain(free, run.home, 3)[2] != pytest.approx(expected[2], rel=1e-3)


def test_every_optimizer_follows_a_plain_loop(make_run: MakeRun) -> None:
    runs = {name: made(make_run, name, tokens=60 * 512) for name in OPTIMIZERS}
    assert train(*runs.values()) == 0
    for name, run in runs.items():
        expected = plain(run.spec(), run.home, COMPARED)
        for mine, its in zip(expected, curve(run), strict=False):
            assert its == pytest.approx(mine, rel=CLOSE.get(name, 1e-5)), name
        assert curve(run)[-1][1] < curve(run)[0][1] - 0.5, name


# AdamW's, under every stage of ZeRO, stand with the tests of jobs and checkpoints.
@pytest.mark.parametrize("name", set(OPTIMIZERS) - {"adamw"})
def test_every_optimizer_is_the_same_in_two_processes_and_after_a_resume(
    make_run: MakeRun, tmp_path: Path, name: OptimizerName
) -> None:
    alone = made(make_run, name, tokens=120 * 512)
    shared = made(make_run, name, tokens=120 * 512, dp=2)
    assert train(alone) == 0
    with together(shared) as ranks:
        assert ended(ranks) == [0, 0]
    for mine, its in zip(curve(alone)[:COMPARED], curve(shared), strict=False):
        assert its == pytest.approx(mine, rel=CLOSE.get(name, 1e-5))
    assert done(alone).nats_per_token == pytest.approx(done(shared).nats_per_token, rel=0.02)
    run = twin(alone, tmp_path / "home")
    interrupted(run)
    assert train(run) == 0
    assert curve(run, 1, 2) == curve(alone)

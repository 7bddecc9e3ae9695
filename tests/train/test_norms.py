"""Norms by layer of whole runs, against the gradients and weights of a plain loop."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import interrupted
from test_ranks import ended, together
from trainings import MODEL, curve, train, twin

from model.initial import initialise
from model.masks import Mask
from model.positions import rotate
from model.transformer import Transformer
from train.choices import BatchConfig
from train.config import EvalConfig, ParallelConfig, RunSpec, data_id
from train.data.loader import TrainLoader
from train.losses import token_nats
from train.optim import OPTIMIZERS
from train.probes import layer_of
from train.runlog import RunDir, read_lines
from train.schedule import lr_factor

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]
STEPS, EVERY = 9, 3
# An odd width: under ZeRO 3 two ranks cannot share a vector evenly, and one of the parts is padded.
ODD = MODEL.model_copy(update={"d_model": 15})
EVALS = EvalConfig(validation_tokens=2048, layer_norms_every=EVERY)
TRAINED = ("embedding", "block.0", "block.1", "norm", "head")
LAYERS = dict.fromkeys(("gradient_norm", "weight_norm", "update_norm", "update_ratio"), TRAINED) | {
    "activation_rms": ("embedding", "block.0", "block.1", "head"),
    "attention_logit_max": ("block.0", "block.1"),
}
Norms = dict[str, float]


def measured(run: RunDir, *attempts: int) -> dict[int, Norms]:
    """By step, what was logged by layer."""
    lines = [line for attempt in attempts or (1,) for line in read_lines(run.metrics(attempt))]
    found = {
        int(line["step"]): {name: value for name, value in line.items() if "/" in name}
        for line in lines
    }
    return {step: norms for step, norms in found.items() if norms}


def by_layer(numbers: Mapping[str, torch.Tensor]) -> Norms:
    """Norms over all parameters of each layer together."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name, tensor in numbers.items():
        parts.setdefault(layer_of(name), []).append(tensor.flatten())
    return {layer: torch.cat(each).norm().item() for layer, each in parts.items()}


def plain(spec: RunSpec, home: Path) -> dict[int, Norms]:
    """The same of an ordinary loop on whole batches; each block's output by calling it."""
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    optimizer = OPTIMIZERS[spec.optim.name](model, spec.optim)
    loader = TrainLoader(home / "data" / data_id(spec.data), {}, spec.model.seq_len, 4, spec.seed)
    seen: dict[int, Norms] = {}
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = spec.optim.lr * lr_factor(spec.schedule, step * 512, spec.tokens)
        ids = torch.from_numpy(loader.batch(step - 1))
        inputs = ids[:, :-1]
        found: dict[str, Norms] = forward_by_hand(model, inputs)
        optimizer.zero_grad()
        token_nats(model(inputs), ids[:, 1:]).mean().backward()
        named = dict(model.named_parameters())
        found["gradient_norm"] = by_layer({n: p.grad for n, p in named.items()})
        before = {name: p.detach().clone() for name, p in named.items()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optim.gradient_clipping)
        optimizer.step()
        found["weight_norm"] = by_layer(before)
        changed = by_layer({name: p.detach() - before[name] for name, p in named.items()})
        found["update_norm"] = changed
        found["update_ratio"] = {n: x / found["weight_norm"][n] for n, x in changed.items()}
        seen[step] = {f"{name}/{n}": x for name, norms in found.items() for n, x in norms.items()}
    return seen


@torch.no_grad()
def forward_by_hand(model: Transformer, inputs: torch.Tensor) -> dict[str, Norms]:
    positions = torch.arange(inputs.shape[1])
    angles, ahead = model.angles(positions), torch.ones(len(positions), len(positions)).triu(1)
    x = model.embedding(inputs)
    rms, largest = {"embedding": x}, {}
    for index, block in enumerate(model.decoder.blocks):
        normed = block.attention_norm(x)
        query, key, _ = block.attention.projected(normed, normed)
        query, key = rotate(query, *angles), rotate(key, *angles)
        scores = query @ key.expand_as(query).mT / math.sqrt(query.shape[-1])  # one key head
        largest[f"block.{index}"] = scores.masked_fill(ahead.bool(), -math.inf).max().item()
        x = rms[f"block.{index}"] = block(x, Mask(causal=True), angles)
    rms["head"] = model(inputs)
    return {
        "activation_rms": {name: y.square().mean().sqrt().item() for name, y in rms.items()},
        "attention_logit_max": largest,
    }


def check(runs: list[RunDir], expected: dict[int, Norms]) -> None:
    for run in runs:
        found = measured(run)
        assert list(found) == [3, 6, 9]
        for step, norms in found.items():
            assert norms == pytest.approx(expected[step], rel=1e-5), (run.spec().parallel, step)
        for line in read_lines(run.metrics(1)):
            if squares := [x**2 for name, x in line.items() if name.startswith("gradient_norm/")]:
                assert math.sqrt(sum(squares)) == pytest.approx(line["grad_norm"], rel=1e-5)


def made(make_run: MakeRun, **layout: int) -> RunDir:
    """A run of which every third step is measured, over two micro-batches in each rank."""
    batch = BatchConfig(global_batch_tokens=512, micro_batch_size=2 // layout.get("dp", 1))
    parallel = ParallelConfig.model_validate(layout)
    return make_run(
        seed=95, model=ODD, tokens=STEPS * 512, evals=EVALS, batch=batch, parallel=parallel
    )


@pytest.fixture(scope="module")
def alone(make_shared_run: MakeRun) -> dict[str, RunDir]:
    """Trained in one process: two stages of ZeRO; with dropout, unmeasured and measured."""
    fields: dict[str, Any] = {"seed": 96, "tokens": 120 * 512}
    fields["model"] = MODEL.model_copy(update={"dropout": 0.1})
    runs = {f"zero {stage}": made(make_shared_run, zero_stage=stage) for stage in (1, 3)}
    runs |= {"without": make_shared_run(**fields), "with": make_shared_run(**fields, evals=EVALS)}
    assert train(*runs.values()) == 0
    return runs


@pytest.fixture(scope="module")
def expected(alone: dict[str, RunDir]) -> dict[int, Norms]:
    """Of the plain loop, whatever the layout; in one thread, as beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = plain(alone["zero 1"].spec(), alone["zero 1"].home)
    torch.set_num_threads(threads)
    return found


def test_norms_by_layer_are_those_of_a_plain_loop(
    alone: dict[str, RunDir], expected: dict[int, Norms]
) -> None:
    check([alone["zero 1"], alone["zero 3"]], expected)


def test_norms_by_layer_are_those_of_the_batch_of_all_ranks_under_every_stage_of_zero(
    make_run: MakeRun, expected: dict[int, Norms]
) -> None:
    runs = [made(make_run, dp=2, zero_stage=stage) for stage in (0, 1, 2, 3)]
    with together(*runs) as ranks:
        assert ended(ranks) == [0, 0]
    check(runs, expected)


def test_measuring_changes_nothing(alone: dict[str, RunDir]) -> None:
    """With dropout: not a random number more is drawn."""
    assert curve(alone["with"]) == curve(alone["without"])
    assert measured(alone["without"]) == {}
    found = measured(alone["with"])
    assert list(found) == list(range(EVERY, 121, EVERY))
    assert set(found[120]) == {
        f"{quantity}/{layer}" for quantity, layers in LAYERS.items() for layer in layers
    }


def test_a_resumed_run_is_measured_as_an_undisturbed_one(
    alone: dict[str, RunDir], tmp_path: Path
) -> None:
    run = twin(alone["with"], tmp_path / "home")
    interrupted(run)
    assert train(run) == 0
    assert measured(run, 1, 2) == measured(alone["with"])
    assert curve(run, 1, 2) == curve(alone["with"])

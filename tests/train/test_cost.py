"""Memory and storage of a run, against what torch and DeepSpeed themselves hold and write."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from model.config import ModelConfig, MoEConfig
from model.counts import params_total
from model.transformer import Transformer
from train.activations import activations_per_token
from train.choices import ZERO_STAGES, ObjectiveConfig, OptimizerName
from train.config import (
    BatchConfig,
    DataConfig,
    EvalConfig,
    OptimConfig,
    ParallelConfig,
    RunSpec,
    ScheduleConfig,
)
from train.cost import (
    bytes_per_rank,
    checkpoint_bytes,
    storage_bytes,
    working_bytes,
)
from train.losses import token_nats
from train.optim import OPTIMIZERS
from train.probes import layer_of

SHAPE = {"vocab_size": 512, "seq_len": 64, "n_layers": 3, "d_model": 64, "n_heads": 8,
         "n_kv_heads": 2, "d_head": 8, "d_ff": 176}  # fmt: skip


SAVE = """
import sys, torch
from pathlib import Path
from model.transformer import Transformer
from train.config import RunSpec
from train.engine import build_engine, snapshot
from train.losses import token_nats
from train.parallel import connect

run, folder = RunSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2])
ranks = connect(0, 1, 0, folder / "rendezvous")
engine = build_engine(Transformer(run.model), run, ranks)
for _ in range(engine.gradient_accumulation_steps()):
    ids = torch.randint(0, run.model.vocab_size, (4, 65))
    engine.backward(token_nats(engine(ids[:, :-1]), ids[:, 1:]).sum())
    engine.step()
snapshot(engine, folder / "t").write()
"""


def spec(**fields: Any) -> RunSpec:
    content = {
        "study": "s",
        "trial": 0,
        "budget": 1.0,
        "model": ModelConfig(**SHAPE),
        "data": DataConfig(vocab_size=512),
        "batch": BatchConfig(global_batch_tokens=1024, micro_batch_size=4),
        "optim": OptimConfig(lr=0.01),
        "schedule": ScheduleConfig(warmup_tokens=0),
        "tokens": 10_240,
    }
    return RunSpec(**(content | fields))


def kept_for_backward(config: ModelConfig, sequences: int) -> int:
    """Bytes that autograd keeps for one loss, parameters and tables left out."""
    model = Transformer(config)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, config.vocab_size, (sequences, config.seq_len + 1))
    source = ids[:, :-1] if config.n_encoder_layers else None
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss = token_nats(model(ids[:, :-1], source=source), ids[:, 1:]).sum()
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"activation": "gelu"},
        {"activation": "relu2", "position": "none"},
        {"n_layers": 6},
        {"d_model": 128, "n_heads": 16, "n_kv_heads": 16},
        {"architecture": "encoder_decoder", "n_encoder_layers": 2},
        {"moe": MoEConfig(n_experts=8, n_shared=1, d_expert=88)},
        {"qk_norm": True, "norm_placement": "sandwich"},
        {"parallel_blocks": True, "shared_norm": True},
    ],
)
def test_activations_are_within_a_tenth_of_what_autograd_keeps(change: dict[str, Any]) -> None:
    config = ModelConfig(**(SHAPE | change))
    tokens = 4 * config.seq_len
    predicted = 4 * tokens * (activations_per_token(config) + config.vocab_size)
    assert predicted == pytest.approx(kept_for_backward(config, 4), rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tied_embeddings": True, "position": "learned"},
        {"moe": MoEConfig(n_experts=4, n_shared=1), "bias": True},
        {"architecture": "encoder_decoder", "n_encoder_layers": 2, "position": "relative"},
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_process_holds_what_torch_counts(name: OptimizerName, change: dict[str, Any]) -> None:
    encoded = "n_encoder_layers" in change
    run = spec(
        model=ModelConfig(**SHAPE | change),
        objective=ObjectiveConfig(kind="prefix" if encoded else "causal"),
        optim=OptimConfig(name=name, lr=0.01),
        parallel=ParallelConfig(zero_stage=ZERO_STAGES[name][0]),
    )
    model = Transformer(run.model)
    optimizer = OPTIMIZERS[name](model, run.optim)
    ids = torch.randint(0, 512, (1, 64))
    model(ids, source=ids if encoded else None).sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = sum(
        value.nbytes for state in optimizer.state.values() for value in state.values()
        if value.dim() > 0
    )  # fmt: skip
    held = bytes_per_rank(run)
    # ZeRO's master copy is one more of the weights.
    master = weights if run.parallel.zero_stage else 0
    assert (held.weights, held.gradients) == (weights, gradients)
    assert held.optimizer == moments + master


def test_each_zero_stage_shares_one_part_more() -> None:
    params = params_total(ModelConfig(**SHAPE))
    held = [
        bytes_per_rank(spec(parallel=ParallelConfig(dp=2, zero_stage=stage))) for stage in (1, 2, 3)
    ]
    assert [h.weights + h.gradients + h.optimizer for h in held] == [
        (4 + 4 + 6) * params,
        (4 + 2 + 6) * params,
        (2 + 2 + 6) * params,
    ]


def test_memory_grows_with_the_micro_batch_alone() -> None:
    small, large = (
        bytes_per_rank(
            spec(batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=size))
        )
        for size in (4, 8)
    )  # fmt: skip
    assert (large.activations, large.logits) == (2 * small.activations, 2 * small.logits)
    assert large.total - small.total == small.activations + small.logits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_state_to_resume_from_is_as_large_as_deepspeed_writes_it(
    name: OptimizerName, tmp_path: Path
) -> None:
    layout = ParallelConfig(zero_stage=ZERO_STAGES[name][0])
    run = spec(optim=OptimConfig(name=name, lr=0.01), parallel=layout)
    arguments = [run.model_dump_json(), str(tmp_path)]
    # In a process of its own: DeepSpeed and its group stay there.
    done = subprocess.run([sys.executable, "-c", SAVE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.pt"))
    assert checkpoint_bytes(run) == pytest.approx(written, rel=0.05)


def test_a_finished_run_leaves_weights_and_its_metrics() -> None:
    run = spec()
    assert storage_bytes(run) == 4 * params_total(run.model) + 10 * 200
    assert working_bytes(run) == 3 * checkpoint_bytes(run), "two that are kept, one on its way"


def test_norms_of_layers_are_a_part_of_the_metrics() -> None:
    measured = spec(evals=EvalConfig(layer_norms_every=3))
    layers = len({layer_of(name) for name, _ in Transformer(measured.model).named_parameters()})
    assert storage_bytes(measured) - storage_bytes(spec()) == 3 * layers * 250

"""`python -m train.replay FOLDER`: steps of a run once more, and a digest of what they computed.

FOLDER/replay.json says what to do (train.replay_files); rank 0 leaves FOLDER/replayed.json. The
run's own folder is read and never written. RANK, WORLD_SIZE and LOCAL_RANK, or Slurm's own
variables, say which rank this process is.

Groups of any number of ranks can do it, each rank with as many sequences as in the run itself, and
groups of one size do bit for bit the same. The optimizer starts afresh, for the state of the run's
own is cut for its own number of ranks: a group is compared with its like (sweeper.bisection), not
with the run. Hosts must be of one kind, and torch does all in its deterministic way, so attention
by other kernels than in training where those are not.
"""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.transformer import Transformer
from train import checkpoint
from train.attempt import STAGES, starting_model
from train.config import RunSpec, sequences_per_rank, tokens_after
from train.data.prepare import prepare
from train.engine import build_engine, gradient_norm, set_lr
from train.parallel import Ranks, connect
from train.phases import in_force
from train.replay_files import ANSWER, ORDER, ReplayAnswer, ReplayOrder
from train.replicas import checksum, fold
from train.runlog import RunDir, write_atomic
from train.schedule import lr_factor
from train.stability import shrink_embedding_gradient
from train.stages.context import Context
from train.step import dropout_seed, train_step


def spec_for(spec: RunSpec, world_size: int) -> RunSpec:
    """The run for so many ranks, each with its share of the run's own; its id is not the run's."""
    share = sequences_per_rank(spec) * spec.model.seq_len
    batch = spec.batch.model_copy(update={"global_batch_tokens": share * world_size, "ramp": ()})
    parallel = spec.parallel.model_copy(update={"dp": world_size})
    return spec.model_copy(update={"batch": batch, "parallel": parallel})


def load_weights(model: Transformer, run: RunDir, weights: str) -> Transformer:
    """The model with the weights of a folder of its run. Raises ValueError where they are damaged.

    Its own where none is named; of a state to resume from the parameters alone are read.
    """
    if not weights:
        return model
    folder = run.path / weights
    if not checkpoint.is_whole(folder):
        raise ValueError(f"{folder} is damaged or gone; replay from another state")
    if folder == run.final:
        return checkpoint.load_final(run)
    model.load_state_dict(checkpoint.module_weights(folder))
    return model


def replay(order: ReplayOrder, ranks: Ranks) -> ReplayAnswer:
    """Do the steps, deterministically. Every rank gets the answer."""
    run = RunDir(Path(order.run))
    own = in_force(run.spec(), order.step - 1)
    spec = spec_for(own, ranks.world_size)
    data = prepare(spec.data, run.home)
    model = load_weights(starting_model(run, spec, None), run, order.weights)
    shrink_embedding_gradient(model.embedding, spec.stability.embedding_gradient)
    objective = STAGES[spec.stage](Context(run, spec, data.folder, model, ranks)).objective
    engine = build_engine(model, spec, ranks)
    found, losses = hashlib.blake2b(digest_size=16), list[float]()
    for step in range(order.step, order.step + order.steps):
        factor = lr_factor(own.schedule, min(tokens_after(own, step), own.tokens), own.tokens)
        set_lr(engine, own.optim.lr * factor)
        if spec.model.dropout:
            torch.manual_seed(dropout_seed(spec.seed, step, ranks.rank))
        means, _ = train_step(engine, objective, spec, step - 1, ranks, [])
        losses.append(means["loss"])
        held = _in_all_ranks(_held(engine), ranks)
        found.update(repr((step, means, gradient_norm(engine), held)).encode())
    engine.destroy()
    return ReplayAnswer(digest=found.hexdigest(), losses=tuple(losses))


def _held(engine: Any) -> int:
    """A checksum of what this rank holds after a step: parameters, and the optimizer's state."""
    parameters = dict(engine.module.named_parameters())
    tensors = {name: getattr(p, "ds_tensor", p) for name, p in parameters.items()}
    for number, state in enumerate(engine.basic_optimizer.state.values()):
        found = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= {f"{key} {number}": value for key, value in found.items()}
    # A counter of steps may lie on the CPU where all else does not.
    return int(fold(torch.stack([checksum(tensor).cpu() for tensor in tensors.values()])))


def _in_all_ranks(held: int, ranks: Ranks) -> list[int]:
    found: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(found, held)
    return found


def deterministic() -> None:
    """Have torch do everything the same way every time, or raise where it cannot."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.replay", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    order = ReplayOrder.model_validate_json((folder / ORDER).read_text(encoding="utf-8"))
    torch.set_num_threads(order.threads)
    deterministic()
    rank, world_size, local = (
        int(os.environ.get(name, os.environ.get(slurm, fallback)))
        for name, slurm, fallback in (
            ("RANK", "SLURM_PROCID", "0"),
            ("WORLD_SIZE", "SLURM_NTASKS", "1"),
            ("LOCAL_RANK", "SLURM_LOCALID", "0"),
        )
    )
    ranks = connect(rank, world_size, local, folder / "rendezvous")
    try:
        # The third kind, for memory's sake, has a backward pass that is not deterministic.
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            answer = replay(order, ranks)
        if ranks.first:
            write_atomic(folder / ANSWER, answer.model_dump_json())
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

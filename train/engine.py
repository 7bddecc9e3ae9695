"""The DeepSpeed engine: the only caller of deepspeed.initialize."""

import io
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import logger
from deepspeed.utils.tensor_fragment import fragment_address

from model.counts import params_total
from model.transformer import Transformer
from train.config import RunSpec
from train.optim import build_optimizer
from train.parallel import Ranks
from train.ramp import batch_tokens_at

BUCKET_NUMBERS = 500_000_000  # gradients reduced together, at most: DeepSpeed's own default
# What ZeRO's states hold besides tensors and plain values.
STATE_TYPES = (LossScaler, ZeroStageEnum, fragment_address)


def deepspeed_config(spec: RunSpec) -> dict[str, Any]:
    """DeepSpeed's settings for a run; batch sizes in sequences.

    Stage 0 in fp32 reports no gradient norm and clips wrongly once the model is split: there
    train.optim clips.
    """
    sequences = spec.batch.global_batch_tokens // spec.model.seq_len
    per_rank = sequences // spec.parallel.dp
    return {
        "train_batch_size": sequences,
        "train_micro_batch_size_per_gpu": spec.batch.micro_batch_size,
        "gradient_accumulation_steps": per_rank // spec.batch.micro_batch_size,
        "gradient_clipping": spec.optim.gradient_clipping if spec.parallel.zero_stage else 0.0,
        "zero_optimization": {
            "stage": spec.parallel.zero_stage,
            # By default DeepSpeed allocates a bucket of 5e8 numbers, 2 GB, for a model of any size.
            "reduce_bucket_size": min(BUCKET_NUMBERS, params_total(spec.model)),
            # One rank has nothing to scatter: sorting gradients by owner would be its dearest part.
            "reduce_scatter": spec.parallel.dp > 1,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def build_engine(model: Transformer, spec: RunSpec, ranks: Ranks) -> deepspeed.DeepSpeedEngine:
    """Wrap a model for training: sharded optimizer, gradient accumulation, clipping.

    The process group must exist (train.parallel.connect).
    """
    logger.setLevel(logging.WARNING)
    if ranks.device.type == "cpu":
        # On CPU DeepSpeed would compile a shared-memory all-reduce at start-up: half a minute, a
        # compiler, and a lock file that hangs every later job when this one is killed meanwhile.
        # Gloo does the same; DeepSpeed keeps edits to this table of what may be built.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)  # pyright: ignore[reportAttributeAccessIssue]
    # Its sanity check wants the variables of a launcher, though the group is there already.
    os.environ.setdefault("LOCAL_RANK", str(ranks.device.index or 0))
    with open(os.devnull, "w") as silence, redirect_stdout(silence):
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        engine, *_ = deepspeed.initialize(
            model=model.to(ranks.device),
            optimizer=build_optimizer(model, spec.optim, spec.parallel.zero_stage),
            config=deepspeed_config(spec),
        )
    engine.checkpoint_engine = WeightsOnly()
    return engine


class Snapshot:
    """Files of a state as this rank made them between two steps, yet to be written."""

    def __init__(self, files: Sequence[tuple[str, io.BytesIO]]) -> None:
        self._files = files

    def write(self) -> None:
        """Write them to the disk. Raises OSError where it has no room."""
        for path, content in self._files:
            with open(path, "wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())


def snapshot(engine: deepspeed.DeepSpeedEngine, folder: Path) -> Snapshot:
    """The engine's state as it is now, for files in a folder, which is made. All ranks must."""
    engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    held: Any = engine.checkpoint_engine
    return held.take()


class WeightsOnly(TorchCheckpointEngine):
    """DeepSpeed's files, held in memory until taken, and read without running what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[tuple[str, io.BytesIO]] = []

    def save(self, state_dict: Any, path: str) -> None:
        content = io.BytesIO()
        torch.save(state_dict, content)
        self._held.append((path, content))

    def take(self) -> Snapshot:
        """What was saved since the last time."""
        taken, self._held = Snapshot(self._held), []
        return taken

    def load(self, path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals(list(STATE_TYPES)):
            return torch.load(path, map_location=map_location, weights_only=True)


def set_lr(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    """Give every parameter group this rate, times its own scale, for the coming step."""
    optimizer: Any = engine.optimizer  # one of DeepSpeed's, by ZeRO stage; all have groups
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def set_batch(engine: deepspeed.DeepSpeedEngine, spec: RunSpec, step: int) -> None:
    """Accumulate over as many micro-batches as the batch of a step (0-based) has."""
    if spec.batch.ramp:
        engine.set_train_batch_size(batch_tokens_at(spec.batch, step) // spec.model.seq_len)
        # DeepSpeed ends a batch where its count since the start of the process is a multiple.
        engine.micro_steps = 0


def gradient_norm(engine: deepspeed.DeepSpeedEngine) -> float:
    """Global norm of the last step's gradients, before clipping."""
    norm: Any = engine.get_global_grad_norm()  # a number or a tensor, by ZeRO stage
    return float(norm)

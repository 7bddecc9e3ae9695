"""The DeepSpeed engine: the only caller of deepspeed.initialize."""

import logging
import os
from collections import defaultdict
from contextlib import redirect_stdout
from typing import Any

import deepspeed
import deepspeed.ops
from deepspeed.utils import logger

from model.transformer import Transformer
from train.config import RunSpec
from train.optim import adamw
from train.parallel import Ranks


def deepspeed_config(spec: RunSpec) -> dict[str, Any]:
    """DeepSpeed's settings for a run; batch sizes in sequences.

    ZeRO 1 is the floor, for one process too: stage 0 in fp32 reports no gradient norm, and clips
    wrongly once the model is split.
    """
    sequences = spec.batch.global_batch_tokens // spec.model.seq_len
    per_rank = sequences // spec.parallel.dp
    return {
        "train_batch_size": sequences,
        "train_micro_batch_size_per_gpu": spec.batch.micro_batch_size,
        "gradient_accumulation_steps": per_rank // spec.batch.micro_batch_size,
        "gradient_clipping": spec.optim.gradient_clipping,
        "zero_optimization": {"stage": spec.parallel.zero_stage},
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
            optimizer=adamw(model, spec.optim),
            config=deepspeed_config(spec),
        )
    return engine


def set_lr(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    """Give every parameter group this rate for the coming step."""
    optimizer: Any = engine.optimizer  # one of DeepSpeed's, by ZeRO stage; all have groups
    for group in optimizer.param_groups:
        group["lr"] = lr


def gradient_norm(engine: deepspeed.DeepSpeedEngine) -> float:
    """Global norm of the last step's gradients, before clipping."""
    norm: Any = engine.get_global_grad_norm()  # a number or a tensor, by ZeRO stage
    return float(norm)

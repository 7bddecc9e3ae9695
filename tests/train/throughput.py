"""Our training loop beside a plain one, in one process: `python -m tests.train.throughput`.

Blocks of a few steps alternate, so that what else the machine does meets both alike; a row is the
median of the ratios of neighbouring blocks. Prints JSON: tokens per second and ratios by size.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.config import ModelConfig
from model.counts import params_total
from model.initial import initialise
from model.transformer import Transformer
from train.allocator import keep_freed_memory
from train.choices import BatchConfig, OptimConfig, ScheduleConfig
from train.config import DataConfig, ParallelConfig, RunSpec
from train.data.curate import with_digest
from train.data.prepare import prepare
from train.engine import build_engine
from train.loop import Loop
from train.losses import token_nats
from train.parallel import Ranks, connect
from train.runlog import create_run
from train.stages.context import Context
from train.stages.pretrain import pretrain
from train.stopping import StopSignal

SEQUENCES, LENGTH, VOCABULARY = 16, 128, 512
# Width and depth: about 0.1, 1.1 and 4.3 million parameters.
SIZES = {"100k": (48, 3), "1M": (128, 5), "4M": (256, 5)}
BLOCK_SECONDS = 1.5
LR, CLIP = 1e-3, 1.0
Block = Callable[[], None]


def shape(width: int, layers: int) -> ModelConfig:
    """A Llama of heads of 16."""
    return ModelConfig(
        vocab_size=VOCABULARY, seq_len=LENGTH, n_layers=layers, d_model=width,
        n_heads=width // 16, n_kv_heads=width // 16, d_head=16, d_ff=width * 8 // 3 // 8 * 8,
    )  # fmt: skip


def spec_of(model: ModelConfig, steps: int) -> RunSpec:
    batch = SEQUENCES * LENGTH
    return RunSpec(
        study="throughput", trial=0, budget=1e12, model=model,
        data=with_digest(DataConfig(bytes_per_source=500_000, vocab_size=VOCABULARY)),
        batch=BatchConfig(global_batch_tokens=batch, micro_batch_size=SEQUENCES),
        optim=OptimConfig(lr=LR, gradient_clipping=CLIP),
        schedule=ScheduleConfig(warmup_tokens=0), tokens=steps * batch,
        parallel=ParallelConfig(zero_stage=0),  # as a recipe lays one process out
    )  # fmt: skip


def ours(spec: RunSpec, home: Path, ranks: Ranks) -> Block:
    """A block of the product's loop: engine, loader, log, stop orders and all, from its start."""
    run = create_run(home, spec)
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    data = prepare(spec.data, home)
    parts = pretrain(Context(run, spec, data.folder, model, ranks))
    engine, stop = build_engine(model, spec, ranks), StopSignal()

    def block() -> None:
        with closing(Loop(engine, parts.objective, spec, run, 1, ranks, stop)) as loop:
            loop.train()

    return block


def plain(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], spec: RunSpec, home: Path, steps: int
) -> Block:
    """As many steps of what a person writes: windows of a flat array, AdamW, clipping."""
    folder = prepare(spec.data, home).folder
    tokens = np.concatenate(
        [np.fromfile(path, np.uint16) for path in sorted(folder.glob("*.train.bin"))]
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    dice = np.random.default_rng(0)

    def block() -> None:
        for _ in range(steps):
            starts = dice.integers(0, len(tokens) - LENGTH - 1, SEQUENCES)
            rows = np.stack([tokens[start : start + LENGTH + 1] for start in starts])
            optimizer.zero_grad()
            loss = loss_of(torch.from_numpy(rows.astype(np.int64)))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            loss.item()

    return block


def same_module(spec: RunSpec, home: Path, steps: int) -> Block:
    model = Transformer(spec.model)
    initialise(model, spec.seed)
    return plain(
        model, lambda ids: token_nats(model(ids[:, :-1]), ids[:, 1:]).mean(), spec, home, steps
    )


def of_transformers(spec: RunSpec, home: Path, steps: int) -> Block:
    """Hugging Face's Llama of the same shape, with the attention that it chooses itself."""
    import transformers

    shape = spec.model
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            num_key_value_heads=shape.n_kv_heads,
            max_position_embeddings=shape.seq_len,
            tie_word_embeddings=shape.tied_embeddings,
            use_cache=False,
        )
    )
    assert sum(p.numel() for p in model.parameters()) == params_total(shape)
    model.train()

    def loss_of(ids: Tensor) -> Tensor:
        return model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss

    return plain(model, loss_of, spec, home, steps)


def seconds(block: Block) -> float:
    """Of this process on its one thread, not of the clock: others use the machine too."""
    started = time.process_time()
    block()
    return time.process_time() - started


def measured(model: ModelConfig, pairs: int, home: Path, ranks: Ranks) -> dict[str, float]:
    """The three loops in turn, `pairs` times, after a block of each that is not counted."""
    trial = same_module(spec_of(model, 2), home, 2)
    trial()
    steps = max(2, round(2 * BLOCK_SECONDS / seconds(trial)))
    spec = spec_of(model, steps)
    blocks = {
        "ours": ours(spec, home, ranks),
        "plain": same_module(spec, home, steps),
        "transformers": of_transformers(spec, home, steps),
    }
    for block in blocks.values():
        block()
    times = [{name: seconds(block) for name, block in blocks.items()} for _ in range(pairs)]
    return {
        "params": params_total(model),
        "tokens_per_second": steps * SEQUENCES * LENGTH / median(t["ours"] for t in times),
        "over_plain": median(t["plain"] / t["ours"] for t in times),
        "over_transformers": median(t["transformers"] / t["ours"] for t in times),
    }


def main(pairs: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as our jobs do; the others have it here, too
    with tempfile.TemporaryDirectory() as folder:
        ranks = connect(0, 1, 0, Path(folder) / "rendezvous")
        found = {name: measured(shape(*SIZES[name]), pairs, Path(folder), ranks) for name in names}
        dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or list(SIZES))

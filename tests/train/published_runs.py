"""Runs whose speed was published, as layouts: what the planner's time model is held against.

Each says how its TFLOP/s were counted, because papers count differently: `published` is what the
table says, `flops` the FLOPs a step of their own formula, so that their ratio is a step's time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from model.config import ModelConfig
from model.counts import params_total
from model.presets import preset
from train.activations import OURS, UNFUSED
from train.hardware import A100, A100_40GB, H100
from train.layout import Layout
from train.setting import EFFICIENCY, Efficiency, Setting
from train.step_time import step_time

Flops = Callable[[ModelConfig, int], float]


@dataclass(frozen=True)
class Run:
    """A published run. `tflops` are those of its table, per GPU, counted by `flops`."""

    name: str
    setting: Setting
    tflops: float
    flops: Flops

    @property
    def gpus(self) -> int:
        return self.setting.layout.world_size

    def predicted(self, efficiency: Efficiency = EFFICIENCY) -> float:
        """TFLOP/s per GPU by our time and their count of FLOPs."""
        seconds = step_time(replace(self.setting, efficiency=efficiency)).total
        layout = self.setting.layout
        return self.flops(self.setting.model, layout.sequences) / seconds / self.gpus / 1e12


def megatron_flops(model: ModelConfig, sequences: int) -> float:
    """With a second forward pass. Narayanan et al. 2021, arXiv:2104.04473, eq. 3."""
    s, h, layers, vocab = model.seq_len, model.d_model, model.n_layers, model.vocab_size
    inner = 1 + s / (6 * h) + vocab / (16 * layers * h)
    return 96 * sequences * s * layers * h**2 * inner


def model_flops(model: ModelConfig, sequences: int) -> float:
    """Without. Korthikanti et al. 2022, arXiv:2205.05198, appendix A, eq. 7."""
    s, h, layers, vocab = model.seq_len, model.d_model, model.n_layers, model.vocab_size
    inner = 1 + s / (6 * h) + vocab / (12 * layers * h)
    return 72 * sequences * s * layers * h**2 * inner


def neox_flops(model: ModelConfig, sequences: int) -> float:
    """As their code had it then (megatron/logging.py, get_flops): 6N + 60 L H T a token.

    117 TFLOP/s by it are 43.8 s a step; their 1,830 hours for 150,000 steps are 43.9 s.
    """
    attention = 60 * model.seq_len * model.d_model * model.n_layers
    return sequences * model.seq_len * (6 * params_total(model) + attention)


def causal_flops(model: ModelConfig, sequences: int) -> float:
    """6N and the scores that the causal mask leaves.

    How they counted is not said. With masked scores too (`square_flops`) the rows of 8k tokens are
    3 to 4 % higher; of the row of 131k tokens that would be 40 % of all FLOPs.
    """
    scores = 6 * model.n_layers * model.n_heads * model.d_head * model.seq_len
    return sequences * model.seq_len * (6 * params_total(model) + scores)


def square_flops(model: ModelConfig, sequences: int) -> float:
    """6N and all scores: Chowdhery et al. 2022, arXiv:2204.02311, appendix B."""
    scores = 12 * model.n_layers * model.n_heads * model.d_head * model.seq_len
    return sequences * model.seq_len * (6 * params_total(model) + scores)


def gpt(layers: int, width: int, heads: int) -> ModelConfig:
    """Their GPT: dropout, and a vocabulary padded to 51,200."""
    sizes = {"n_layers": layers, "d_model": width, "n_heads": heads, "n_kv_heads": heads,
             "d_head": width // heads, "d_ff": 4 * width, "vocab_size": 51_200}  # fmt: skip
    return preset("gpt2").model_copy(update=sizes | {"seq_len": 2048, "dropout": 0.1})


def megatron(
    billions: float, heads: int, width: int, layers: int, tp: int, pp: int, gpus: int, batch: int,
    tflops: float,
) -> Run:  # fmt: skip
    """A row of their table 1.

    Theirs are the degrees, not the micro-batch and the number of chunks: we take one sequence and
    the fewest chunks above one that divide a stage's layers, as in the later runs of the same
    models (Korthikanti et al. 2022, table 3); without a pipeline four sequences.
    """
    dp, each = gpus // (tp * pp), layers // pp
    size = 4 if pp == 1 else 1
    layout = Layout(
        dp=dp, tp=tp, pp=pp, zero_stage=0, recompute="full", micro_batch_size=size,
        microbatches=batch // (dp * size), number_bytes=2, gradient_bytes=2,
        chunks=1 if pp == 1 else min(v for v in range(2, each + 1) if each % v == 0),
    )  # fmt: skip
    setting = Setting(gpt(layers, width, heads), layout, A100, UNFUSED)
    return Run(f"Megatron-LM {billions:g}B", setting, tflops, megatron_flops)


# Narayanan et al. 2021, arXiv:2104.04473, table 1.
MEGATRON = (
    megatron(1.7, 24, 2304, 24, 1, 1, 32, 512, 137),
    megatron(3.6, 32, 3072, 30, 2, 1, 64, 512, 138),
    megatron(7.5, 32, 4096, 36, 4, 1, 128, 512, 142),
    megatron(18.4, 48, 6144, 40, 8, 1, 256, 1024, 135),
    megatron(39.1, 64, 8192, 48, 8, 2, 512, 1536, 138),
    megatron(76.1, 80, 10_240, 60, 8, 4, 1024, 1792, 140),
    megatron(145.6, 96, 12_288, 80, 8, 8, 1536, 2304, 148),
    megatron(310.1, 128, 16_384, 96, 8, 16, 1920, 2160, 155),
    megatron(529.6, 128, 20_480, 105, 8, 35, 2520, 2520, 163),
    megatron(1008.0, 160, 25_600, 128, 8, 64, 3072, 3072, 163),
)


def compared(
    billions: float, gpus: int, batch: int, tflops: float, *, size: int = 1, pp: int = 0
) -> Run:
    """A row of their table 2: ZeRO 3 alone with micro-batches of `size`, or tp=8 with a pipeline.

    Chunks as in `megatron`.
    """
    layers, width, heads = {174.6: (96, 12_288, 96), 529.6: (105, 20_480, 128)}[billions]
    if pp:
        run = megatron(billions, heads, width, layers, 8, pp, gpus, batch, tflops)
        return replace(run, name=f"{run.name} of table 2, {gpus} GPUs")
    layout = Layout(
        dp=gpus, zero_stage=3, recompute="full", micro_batch_size=size,
        microbatches=batch // (gpus * size), number_bytes=2, gradient_bytes=2,
    )  # fmt: skip
    setting = Setting(gpt(layers, width, heads), layout, A100, UNFUSED)
    return Run(f"ZeRO 3 alone {billions:g}B, {gpus} GPUs", setting, tflops, megatron_flops)


# Narayanan et al. 2021, arXiv:2104.04473, table 2.
COMPARED = (
    compared(174.6, 384, 1536, 153, pp=12),
    compared(174.6, 768, 1536, 149, pp=12),
    compared(174.6, 1536, 1536, 141, pp=12),
    compared(529.6, 560, 2240, 171, pp=35),
    compared(529.6, 1120, 2240, 167, pp=35),
    compared(529.6, 2240, 2240, 159, pp=35),
)
ZERO_3 = (
    compared(174.6, 384, 1536, 144, size=4),
    compared(174.6, 768, 1536, 88, size=2),
    compared(174.6, 1536, 1536, 44),
    compared(529.6, 640, 2560, 138, size=4),
    compared(529.6, 1120, 2240, 98, size=2),
    compared(529.6, 2240, 2240, 48),
)


def recomputed(
    name: str, layers: int, width: int, heads: int, pp: int, chunks: int, batch: int,
    full_seconds: float, selective_seconds: float,
) -> tuple[Run, Run]:  # fmt: skip
    """A row of their tables 3 and 5, trained with everything computed anew, and by their method."""
    size = 4 if pp == 1 else 1
    full = Layout(
        tp=8, pp=pp, chunks=chunks, zero_stage=0, recompute="full", micro_batch_size=size,
        microbatches=batch // size, number_bytes=2, gradient_bytes=2,
    )  # fmt: skip
    selective = replace(full, recompute="selective", sequence_parallel=True)
    model = gpt(layers, width, heads)

    def run(kind: str, layout: Layout, seconds: float) -> Run:
        rate = model_flops(model, batch) / seconds / layout.world_size / 1e12
        return Run(f"{name}, {kind}", Setting(model, layout, A100, UNFUSED), rate, model_flops)

    return run("full", full, full_seconds), run("selective", selective, selective_seconds)


# Korthikanti et al. 2022, arXiv:2205.05198, tables 3 and 5.
RECOMPUTED = (
    *recomputed("recomputation 22B", 48, 6144, 64, 1, 1, 4, 1.42, 1.10),
    *recomputed("recomputation 175B", 96, 12_288, 96, 8, 3, 64, 18.13, 13.75),
    *recomputed("recomputation 530B", 105, 20_480, 128, 35, 3, 280, 49.05, 37.83),
    *recomputed("recomputation 1T", 128, 25_600, 160, 64, 1, 512, 94.42, 71.49),
)


def llama(dp: int, cp: int, batch: int, seq_len: int, tflops: float) -> Run:
    """A row of table 4. One layer a chunk: their first chunk has the embedding alone (sec. 3.3.2).

    Weights are gathered once a step, gradients are summed in fp32 over micro-batches and then
    scattered, which is what ZeRO 1 sends; nothing is computed anew.
    """
    layout = Layout(
        dp=dp, tp=8, pp=16, cp=cp, sequence_parallel=True, context_kind="all_gather", chunks=8,
        microbatches=batch, number_bytes=2, gradient_bytes=4,
    )  # fmt: skip
    model = preset("llama-3-405b").model_copy(update={"seq_len": seq_len})
    name = f"Llama 3 405B, {layout.world_size} GPUs, {seq_len} tokens"
    return Run(name, Setting(model, layout, H100, OURS), tflops, causal_flops)


# Dubey et al. 2024, arXiv:2407.21783, table 4.
LLAMA = (
    llama(64, 1, 32, 8192, 430),
    llama(128, 1, 16, 8192, 400),
    llama(8, 16, 16, 131_072, 380),
)

# Black et al. 2022, arXiv:2204.06745, sec. 2.3 and the released configs/20B.yml.
NEOX = Run(
    "GPT-NeoX-20B",
    Setting(
        preset("gpt-neox-20b"),
        Layout(
            dp=12, tp=2, pp=4, recompute="full", micro_batch_size=4, microbatches=32,
            number_bytes=2, gradient_bytes=2,
        ),
        A100_40GB,
        UNFUSED,
    ),
    117,
    neox_flops,
)  # fmt: skip

RUNS = {run.name: run for run in (*MEGATRON, *COMPARED, *ZERO_3, *RECOMPUTED, *LLAMA, NEOX)}
# What the shares of matrix products and of memory were set from.
SET_FROM = ("Megatron-LM 1.7B", "Megatron-LM 1008B")
# What decided that rings between nodes go by one card a rank (train.hardware.bandwidth).
DECIDED = {run.name for run in ZERO_3}
HELD_OUT = RUNS.keys() - DECIDED - set(SET_FROM)

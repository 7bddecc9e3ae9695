"""Seconds of a step in any layout, against runs whose speed was published."""

from dataclasses import fields, replace
from typing import Any

import pytest
from published_runs import (
    COMPARED,
    MEGATRON,
    NEOX,
    RECOMPUTED,
    RUNS,
    SET_FROM,
    ZERO_3,
    megatron_flops,
    model_flops,
    neox_flops,
)

from model.config import MoEConfig
from model.counts import params_matrices, params_total
from model.presets import preset
from train.hardware import A100, H100, Group, gather_seconds
from train.layout import Case, Layout
from train.layout_legal import problems
from train.memory import params_of_rank, peak_bytes
from train.setting import Efficiency, Setting
from train.step_time import StepTime, step_time

MODEL = preset("llama-3-8b")
# No latency, and links used whole: what remains is volume over bandwidth.
IDEAL = replace(H100, node_latency_seconds=0.0, network_latency_seconds=0.0)
WHOLE = Efficiency(matmul=1.0, memory=1.0, links=1.0, overlap=0.0)


def timed(**layout: Any) -> StepTime:
    return step_time(Setting(MODEL, Layout(**layout), IDEAL, efficiency=WHOLE))


@pytest.mark.parametrize("name", RUNS)
def test_a_published_run_is_predicted_within_a_fifth(name: str) -> None:
    assert RUNS[name].predicted() == pytest.approx(RUNS[name].tflops, rel=0.2)


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("Llama")])
def test_a_published_run_fits_where_it_ran(name: str) -> None:
    """Not Llama 3: its authors drop what our model keeps (arXiv:2407.21783, sec. 3.3.2)."""
    setting = RUNS[name].setting
    held = peak_bytes(setting.model, setting.layout, kernels=setting.kernels).total
    assert held < 1.05 * setting.hardware.memory_bytes


@pytest.mark.parametrize("name", RUNS)
def test_a_published_run_has_a_legal_layout(name: str) -> None:
    setting = RUNS[name].setting
    assert problems(Case(setting.model, setting.layout), engine=False) == []


def test_a_pipeline_outruns_zero_3_alone_by_more_the_more_gpus_there_are() -> None:
    """Narayanan et al. 2021, arXiv:2104.04473, sec. 5.2: 6 %, 69 % and 3.2 times for 174.6 B."""
    pairs = list(zip(COMPARED[:3], ZERO_3[:3], strict=True))
    published = [pipeline.tflops / alone.tflops for pipeline, alone in pairs]
    ours = [pipeline.predicted() / alone.predicted() for pipeline, alone in pairs]
    assert ours == pytest.approx(published, rel=0.2)
    assert 1 < ours[0] < ours[1] < ours[2]


@pytest.mark.parametrize("run", MEGATRON, ids=lambda run: run.name)
def test_a_row_of_the_table_has_its_models_size(run: Any) -> None:
    billions = float(run.name.split()[-1].removesuffix("B"))
    assert params_total(run.setting.model) / 1e9 == pytest.approx(billions, rel=0.04)


def test_rows_are_as_consistent_as_their_papers() -> None:
    """Aggregate petaFLOP/s of the first table, model FLOPs utilisation of the second.

    Narayanan et al. 2021, arXiv:2104.04473, table 1; Korthikanti et al. 2022, arXiv:2205.05198,
    table 5.
    """
    petaflops = [4.4, 8.8, 18.2, 34.6, 70.8, 143.8, 227.1, 297.4, 410.2, 502.0]
    ours = [run.tflops * run.gpus / 1e3 for run in MEGATRON]
    assert ours == pytest.approx(petaflops, rel=0.01)
    utilisation = [run.tflops * 1e12 / A100.peak_flops for run in RECOMPUTED[1::2]]
    assert utilisation == pytest.approx([0.415, 0.514, 0.560, 0.563], rel=5e-3)


def test_a_logged_rate_is_read_by_the_formula_that_logged_it() -> None:
    """GPT-NeoX-20B: 1,830 hours for 150,000 steps, evaluation in them. arXiv:2204.06745."""
    layout = NEOX.setting.layout
    flops = neox_flops(NEOX.setting.model, layout.sequences)
    seconds = flops / (NEOX.tflops * 1e12) / layout.world_size
    assert seconds == pytest.approx(1830 * 3600 / 150_000, rel=0.01)


def test_a_second_forward_pass_is_a_third_more() -> None:
    model = COMPARED[0].setting.model
    table = model.n_layers * model.d_model**2 * (1 + model.seq_len / (6 * model.d_model))
    added = megatron_flops(model, 1) - model_flops(model, 1)
    assert added == pytest.approx(24 * model.seq_len * table)


@pytest.mark.parametrize(("pp", "chunks", "microbatches"), [(4, 1, 8), (4, 2, 8), (8, 4, 16)])
def test_a_pipelines_idle_time_is_the_published_share(
    pp: int, chunks: int, microbatches: int
) -> None:
    """Narayanan et al. 2021, arXiv:2104.04473, sec. 2.2: (p - 1) / (v m) of the work."""
    time = timed(pp=pp, chunks=chunks, microbatches=microbatches)
    work = time.total - time.bubble - time.data - time.optimizer
    assert time.bubble / work == pytest.approx((pp - 1) / (chunks * microbatches))


def test_all_computed_anew_is_a_third_more_of_the_layers() -> None:
    once, again = timed(), timed(recompute="full")
    head = 6 * MODEL.seq_len * MODEL.vocab_size * MODEL.d_model / IDEAL.peak_flops
    assert again.matmul - head == pytest.approx(4 / 3 * (once.matmul - head))
    assert timed(recompute="selective") == once, "fused attention keeps no scores"


def test_matrix_products_take_their_flops_at_the_peak() -> None:
    products = 6 * MODEL.seq_len * (params_matrices(MODEL) + MODEL.vocab_size * MODEL.d_model)
    scores = 6 * MODEL.n_layers * MODEL.d_model * MODEL.seq_len**2  # half of them are masked
    expected = (products + scores / IDEAL.fused_attention) / IDEAL.peak_flops
    assert timed().matmul == pytest.approx(expected)
    assert timed(tp=8).matmul == pytest.approx(expected / 8)


def test_products_of_few_tokens_wait_for_their_weights() -> None:
    def products(tokens: int) -> float:
        model = MODEL.model_copy(update={"seq_len": tokens})
        layout = Layout(number_bytes=2, gradient_bytes=4)
        time = step_time(Setting(model, layout, IDEAL, efficiency=WHOLE)).matmul
        table = 6 * tokens * MODEL.vocab_size * MODEL.d_model
        scores = 6 * MODEL.n_layers * MODEL.d_model * tokens**2 / IDEAL.fused_attention
        return time - (table + scores) / IDEAL.peak_flops

    matrices = params_matrices(MODEL)
    # Two reads in bf16, and fp32 gradients that are read and written.
    assert products(64) == pytest.approx(12 * matrices / IDEAL.memory_bandwidth)
    assert products(2048) == pytest.approx(6 * 2048 * matrices / IDEAL.peak_flops)


def test_tensor_parallelism_sends_four_all_reduces_a_layer() -> None:
    """Shoeybi et al. 2019, arXiv:1909.08053, sec. 3: two forward, two backward."""
    layout = {"tp": 8, "number_bytes": 2}
    size = 2 * MODEL.seq_len * MODEL.d_model
    one = 2 * size * 7 / 8 / IDEAL.node_bandwidth
    assert timed(**layout).tensor == pytest.approx(4 * MODEL.n_layers * one)
    assert timed(**layout, sequence_parallel=True).tensor == timed(**layout).tensor


def test_zero_3_sends_half_as_much_again() -> None:
    """Rajbhandari et al. 2020, arXiv:1910.02054, sec. 7.2."""
    times = [timed(dp=64, zero_stage=stage).data for stage in range(4)]
    assert times == pytest.approx([times[0], times[0], times[0], 1.5 * times[0]])
    held = sum(params_of_rank(MODEL, Layout()))
    assert times[0] == pytest.approx(2 * 4 * held * 63 / 64 / IDEAL.network_bandwidth)


def test_messages_of_data_parallelism_hide_behind_half_a_backward_pass() -> None:
    layout = Layout(dp=64, zero_stage=2, microbatches=4)
    shown = step_time(Setting(MODEL, layout, IDEAL, efficiency=replace(WHOLE, overlap=0.5)))
    bare = timed(dp=64, zero_stage=2, microbatches=4)
    backward = 2 / 3 * (bare.matmul + bare.memory)
    assert shown.data == pytest.approx(bare.data - backward / 2)


def test_a_ring_hides_behind_attention_and_a_gather_does_not() -> None:
    short = {"cp": 16, "tp": 8}
    assert timed(**short, context_kind="all_gather").context > timed(**short).context
    long = replace(Setting(MODEL, Layout(**short), IDEAL, efficiency=WHOLE),
                   model=MODEL.model_copy(update={"seq_len": 2**20}))  # fmt: skip
    assert step_time(long).context == 0


def test_ulysses_sends_less_the_more_ranks_there_are() -> None:
    """Jacobs et al. 2023, arXiv:2309.14509, sec. 3.2: volume a rank falls with their number."""
    few, many = (timed(cp=cp, context_kind="ulysses").context for cp in (2, 8))
    assert many == pytest.approx(few * (2 * 7 / 8) / (8 * 1 / 2))


def test_experts_on_other_ranks_are_four_exchanges_a_layer() -> None:
    moe = MODEL.model_copy(update={"moe": MoEConfig(n_experts=8, top_k=2)})
    setting = Setting(moe, Layout(dp=8, ep=8), IDEAL, efficiency=WHOLE)
    size = 2 * moe.seq_len * moe.d_model * 4
    one = size * 7 / 8 / IDEAL.node_bandwidth
    assert step_time(setting).experts == pytest.approx(4 * moe.n_layers * one)


def test_a_group_within_a_node_uses_its_links() -> None:
    inside, across = Group(8, 1), Group(8, 8)
    times = [gather_seconds(IDEAL, group, 8e9, 1.0) for group in (inside, across)]
    assert times == pytest.approx([7e9 / IDEAL.node_bandwidth, 7e9 / IDEAL.network_bandwidth])


def test_a_total_is_the_sum_of_its_parts() -> None:
    time = step_time(RUNS[SET_FROM[1]].setting)
    parts = [getattr(time, part.name) for part in fields(time)]
    assert time.total == sum(parts)
    assert min(parts) >= 0

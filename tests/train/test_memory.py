"""Bytes of a rank in any layout, against the published formulas of activations and of ZeRO."""

from typing import Any

import pytest

from model.config import ModelConfig, MoEConfig
from model.counts import kv_cache_bytes, params_total
from model.presets import preset
from train.activations import UNFUSED, activation_bytes, layers_in_flight, logit_bytes
from train.layout import Layout
from train.memory import (
    kv_cache_of_rank,
    params_of_rank,
    peak_bytes,
    rank_bytes,
)

S, B, H, A, L = 2048, 4, 512, 8, 12
GPT = preset("gpt2").model_copy(
    update={"seq_len": S, "n_layers": L, "d_model": H, "n_heads": A, "n_kv_heads": A,
            "d_head": H // A, "d_ff": 4 * H, "dropout": 0.1, "vocab_size": 51_200}
)  # fmt: skip
MOE = preset("llama-3-8b").model_copy(update={"moe": MoEConfig(n_experts=8, d_expert=4096)})
BF16: dict[str, Any] = {"number_bytes": 2, "gradient_bytes": 2, "micro_batch_size": B}
# The dropout mask of the embedding and the last norm's input and output, which their layer lacks.
EMBEDDING, LAST = S * B * H, 4 * S * B * H
SBH, SCORES = S * B * H, 5 * A * S / H


@pytest.mark.parametrize(
    ("fields", "layer", "shared"),
    [
        ({}, 34 + SCORES, 1),
        ({"tp": 4}, 10 + 24 / 4 + SCORES / 4, 1),
        ({"tp": 4, "sequence_parallel": True}, (34 + SCORES) / 4, 4),
        ({"tp": 4, "sequence_parallel": True, "recompute": "selective"}, 34 / 4, 4),
        ({"tp": 4, "recompute": "selective"}, 10 + 24 / 4, 1),
    ],
)
def test_activations_are_those_of_the_published_table(
    fields: dict[str, Any], layer: float, shared: int
) -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198, table 2."""
    held = activation_bytes(GPT, Layout(**BF16 | fields), UNFUSED)
    assert held == pytest.approx(L * SBH * layer + (EMBEDDING + LAST) / shared, rel=1e-12)


def test_full_recomputation_keeps_inputs_and_the_layer_at_work() -> None:
    held = activation_bytes(GPT, Layout(**BF16, recompute="full"), UNFUSED)
    assert held == L * SBH * 2 + SBH * (34 + SCORES) + EMBEDDING + LAST


@pytest.mark.parametrize(("pp", "microbatches"), [(4, 8), (4, 2), (12, 12)])
def test_the_first_stage_of_a_pipeline_keeps_all_layers_once_there_are_enough_micro_batches(
    pp: int, microbatches: int
) -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.2.3: L layers, whatever the pipeline."""
    layout = Layout(pp=pp, microbatches=microbatches)
    flying = [layers_in_flight(GPT, layout, stage) for stage in range(pp)]
    assert flying == [L // pp * min(pp - stage, microbatches) for stage in range(pp)]


@pytest.mark.parametrize(("pp", "chunks"), [(2, 3), (4, 3), (3, 2)])
def test_the_interleaved_schedule_keeps_more_by_its_warm_up(pp: int, chunks: int) -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.2.3: L (1 + (p - 1) / (p m))."""
    layout = Layout(pp=pp, chunks=chunks, microbatches=4 * pp)
    held = float(layers_in_flight(GPT, layout, 0))
    assert held == pytest.approx(L * (1 + (pp - 1) / (pp * chunks)))


def test_logits_are_fp32_and_shared_by_the_vocabulary() -> None:
    """Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.3: 4 s b v / t."""
    assert logit_bytes(GPT, Layout(**BF16, tp=4), UNFUSED) == 4 * S * B * 51_200 // 4
    first, last = (rank_bytes(GPT, Layout(**BF16, pp=2), stage=stage) for stage in (0, 1))
    assert first.logits == 0 < last.logits


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_mixed_precision_is_held_as_in_the_table_of_zero(stage: int, gigabytes: float) -> None:
    """Rajbhandari et al. 2020, arXiv:1910.02054, fig. 1: 7.5 B parameters on 64 GPUs."""
    model = preset("llama-7b").model_copy(update={"n_layers": 36})
    layout = Layout(dp=64, zero_stage=stage, number_bytes=2, gradient_bytes=2)
    held = rank_bytes(model, layout)
    state = held.weights + held.gradients + held.optimizer
    assert state / params_total(model) * 7.5 == pytest.approx(gigabytes, rel=5e-3)


@pytest.mark.parametrize("model", [GPT, preset("llama-3-8b"), MOE, preset("t5-small")])
def test_an_unsplit_rank_has_every_parameter(model: ModelConfig) -> None:
    assert sum(params_of_rank(model, Layout())) == params_total(model)


def test_a_pipeline_and_experts_part_the_parameters_and_tie_the_table_twice() -> None:
    layout = Layout(pp=4)
    parts = [sum(params_of_rank(GPT, layout, stage)) for stage in range(4)]
    assert sum(parts) == params_total(GPT) + GPT.vocab_size * H
    dense, experts = params_of_rank(MOE, Layout(dp=4, ep=4))
    whole_dense, whole_experts = params_of_rank(MOE, Layout())
    assert (dense, 4 * experts) == (whole_dense, whole_experts)


def test_tensor_parallelism_shares_matrices_and_leaves_vectors_whole() -> None:
    model = preset("llama-3-8b")
    norms = (2 * model.n_layers + 1) * model.d_model
    held = sum(params_of_rank(model, Layout(tp=8)))
    assert held == (params_total(model) - norms) // 8 + norms


def test_experts_are_shared_among_fewer_optimizers() -> None:
    dense, experts = params_of_rank(MOE, Layout(dp=8, ep=4))
    held = rank_bytes(MOE, Layout(dp=8, ep=4))
    assert held.optimizer == 12 * (dense // 8 + experts // 2)


def test_context_parallelism_shares_activations_and_receives_keys_and_values() -> None:
    model = preset("llama-3-8b")
    whole = rank_bytes(model, Layout())
    kv = 4 * 2 * model.n_kv_heads * model.d_head * model.seq_len  # of one layer, fp32
    received = {"ring": 2 * kv // 4, "all_gather": kv, "ulysses": kv // 4 + kv // 2}
    for kind, buffers in received.items():
        held = rank_bytes(model, Layout(cp=4, context_kind=kind))
        assert (held.activations, held.logits) == (whole.activations // 4, whole.logits // 4)
        assert held.buffers == buffers


def test_zero_3_gathers_two_layers_for_a_while() -> None:
    model = preset("llama-3-8b")
    held = rank_bytes(model, Layout(dp=8, zero_stage=3))
    layer = sum(params_of_rank(model, Layout())) - 2 * model.vocab_size * model.d_model
    assert held.buffers == pytest.approx(2 * 4 * layer / model.n_layers, rel=1e-3)


def test_the_peak_is_that_of_the_fuller_end() -> None:
    layout = Layout(pp=4, microbatches=8)
    ends = [rank_bytes(GPT, layout, stage=stage).total for stage in (0, 3)]
    assert peak_bytes(GPT, layout).total == max(ends)
    assert ends[0] != ends[1]


def test_a_cache_is_shared_by_heads_layers_and_positions() -> None:
    model = preset("llama-3-8b")
    whole = 3 * kv_cache_bytes(model, 1000, 2)
    held = kv_cache_of_rank(model, Layout(tp=2, pp=4, cp=2, number_bytes=2), 3, 1000)
    assert held == whole // 16

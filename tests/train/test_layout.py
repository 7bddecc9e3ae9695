"""Layouts: which are legal for a model, and what the trainer's own is."""

from dataclasses import replace
from typing import Any

import pytest

from model.config import ModelConfig, MoEConfig
from model.presets import preset
from train.choices import BatchConfig, OptimConfig, OptimizerName, ScheduleConfig
from train.config import DataConfig, ParallelConfig, RunSpec
from train.layout import Case, Layout, layers_on, layout_of
from train.layout_engine import ENGINE
from train.layout_legal import SHAPES, check_layout, problems

MODEL = ModelConfig(
    vocab_size=512, seq_len=64, n_layers=8, d_model=64, n_heads=8, n_kv_heads=4, d_head=8, d_ff=176
)
EXPERTS = MODEL.model_copy(update={"moe": MoEConfig(n_experts=4)})
T5 = preset("t5-small")

# Of every rule: a model and a layout that break it, and it alone; what is said; what mends it.
ROWS: dict[str, tuple[ModelConfig, dict[str, Any], str, dict[str, Any]]] = {
    "world size": (MODEL, {"dp": 2, "tp": 2}, "is 4 ranks, but there are 8 GPUs.*use dp=4",
                   {"dp": 4}),
    "heads by tp": (MODEL.model_copy(update={"n_kv_heads": 16}), {"dp": 1, "tp": 16},
                    r"n_heads=8 is not divisible by tp=16; use tp in \(1, 2, 4, 8\)", {"tp": 8}),
    "kv heads by tp": (MODEL, {"dp": 1, "tp": 8},
                       r"n_kv_heads=4 is not divisible by tp=8; use tp in \(1, 2, 4\)", {"tp": 4}),
    "feed-forward by tp": (MODEL.model_copy(update={"d_ff": 177}), {"tp": 2},
                           "d_ff=177 is not divisible by tp=2; use tp in", {"tp": 1}),
    "vocabulary by tp": (MODEL.model_copy(update={"vocab_size": 510}), {"tp": 4},
                         "vocab_size=510 .*tp=4; pad it to vocab_size=512, or use tp", {"tp": 2}),
    "layers by pp": (MODEL, {"pp": 3},
                     r"n_layers=8 in pp=3 x chunks=1 pieces.*use pp x chunks in \(1, 2, 4, 5, 8",
                     {"pp": 4}),
    "interleaving": (MODEL, {"pp": 2, "chunks": 2, "microbatches": 3},
                     "microbatches=3 is not a multiple of pp=2.*or microbatches=4",
                     {"microbatches": 4}),
    "experts by ep": (EXPERTS, {"dp": 3, "ep": 3}, "moe.n_experts=4 is not divisible by ep=3",
                      {"dp": 2, "ep": 2}),
    "dp by ep": (EXPERTS, {"dp": 2, "ep": 4}, "dp=2 is not divisible by ep=4", {"dp": 4}),
    "sequence by cp": (MODEL.model_copy(update={"seq_len": 66}), {"cp": 2},
                       "seq_len=66 is not divisible into 4 pieces for cp=2",
                       {"context_kind": "ulysses"}),
    "heads by Ulysses": (MODEL, {"cp": 4, "tp": 2, "context_kind": "ulysses"},
                         r"n_kv_heads=4 / tp=2 = 2 of them; use cp in \(1, 2\)", {"cp": 2}),
    "sequence parallelism": (MODEL, {"sequence_parallel": True},
                             "sequence_parallel=True with tp=1", {"tp": 2}),
    "two stacks": (T5, {"pp": 2}, "pp=2, cp=1 with architecture='encoder_decoder'", {"pp": 1}),
}  # fmt: skip
ENGINE_ROWS: dict[str, tuple[ModelConfig, dict[str, Any], str, dict[str, Any]]] = {
    "ZeRO >= 2 with pp": (MODEL, {"pp": 2, "zero_stage": 2}, "use zero_stage=1, or pp=1",
                          {"zero_stage": 1}),
    "ZeRO 3 with experts": (EXPERTS, {"zero_stage": 3}, "zero_stage=3 with moe.*in \\(1, 2\\)",
                            {"zero_stage": 2}),
    "ZeRO 0 with tp or pp": (MODEL, {"tp": 2, "zero_stage": 0}, "clips by the norm of a part",
                             {"zero_stage": 1}),
    "experts with tp": (EXPERTS, {"tp": 2}, "tp=2 with moe.*use tp=1", {"tp": 1}),
    "balance of experts with cp": (EXPERTS, {"cp": 2}, "cp=2 with moe.balance_weight=0.01",
                                   {"cp": 1}),
    "interleaving": (MODEL, {"pp": 2, "chunks": 2, "microbatches": 2}, "use chunks=1",
                     {"chunks": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_what_does_not_divide_is_refused_alone_and_with_a_way_out(name: str) -> None:
    model, fields, message, mended = ROWS[name]
    gpus = 8 if name == "world size" else None
    broken = Layout(**fields)
    said = problems(Case(model, broken, gpus), engine=False)
    assert len(said) == 1, said
    with pytest.raises(ValueError, match=message):
        check_layout(Case(model, broken, gpus), engine=False)
    assert problems(Case(model, replace(broken, **mended), gpus), engine=False) == []


@pytest.mark.parametrize("name", ENGINE.keys() - {"whole matrices"})
def test_what_the_engine_cannot_train_is_refused_by_it_alone(name: str) -> None:
    model, fields, message, mended = ENGINE_ROWS[name]
    broken = Layout(**fields)
    assert problems(Case(model, broken), engine=False) == []
    with pytest.raises(ValueError, match=message):
        check_layout(Case(model, broken))
    assert problems(Case(model, replace(broken, **mended))) == []


@pytest.mark.parametrize(
    ("optimizer", "fields", "legal"),
    [
        ("muon", {"zero_stage": 0}, True),
        ("muon", {"zero_stage": 1}, False),
        ("adafactor", {"zero_stage": 0, "tp": 2}, False),
        ("lion", {"zero_stage": 2, "tp": 2}, True),
    ],
)
def test_an_optimizer_of_whole_matrices_has_them_whole(
    optimizer: OptimizerName, fields: dict[str, Any], legal: bool
) -> None:
    said = problems(Case(MODEL, Layout(**fields), optimizer=optimizer))
    refused = [one for one in said if one.startswith(f"optim.name={optimizer!r}")]
    assert (refused == []) == legal


def test_every_problem_is_named_at_once() -> None:
    wrong = Layout(tp=3, pp=3, ep=2, dp=3)
    assert len(problems(Case(MODEL, wrong, 7))) >= 6


@pytest.mark.parametrize("name", ["dp", "tp", "pp", "cp", "ep", "chunks", "microbatches"])
def test_a_degree_below_one_is_refused_before_anything_is_divided_by_it(name: str) -> None:
    assert problems(Case(MODEL, Layout(**{name: 0}))) == [
        f"{name}=0: a layout counts from 1; use at least 1"
    ]


def test_the_two_ends_may_take_the_place_of_a_layer_each() -> None:
    llama, layout = preset("llama-3-405b"), Layout(pp=16)
    assert problems(Case(llama, layout)) == []
    each = [layers_on(llama, layout, stage) for stage in range(16)]
    assert each == [7, *[8] * 14, 7]
    assert [layers_on(MODEL, Layout(pp=4), stage) for stage in range(4)] == [2, 2, 2, 2]


def test_the_trainers_layout_is_data_parallel_and_fp32() -> None:
    spec = RunSpec(
        study="s",
        trial=0,
        budget=1.0,
        model=MODEL,
        data=DataConfig(vocab_size=512),
        batch=BatchConfig(global_batch_tokens=1024, micro_batch_size=2),
        optim=OptimConfig(lr=0.01),
        schedule=ScheduleConfig(warmup_tokens=0),
        tokens=10_240,
        parallel=ParallelConfig(dp=4, zero_stage=2),
    )
    layout = layout_of(spec)
    assert layout == Layout(dp=4, zero_stage=2, micro_batch_size=2, microbatches=2)
    assert (layout.world_size, layout.sequences) == (4, 16)
    assert problems(Case(MODEL, layout, 4)) == []

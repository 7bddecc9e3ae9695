"""Choices that do not go together are refused with the value, the rule and the way out."""

from typing import Any

import pytest

from model.config import ModelConfig
from train.choices import ZERO_STAGES, OptimizerName
from train.config import RunSpec

CONTENT: dict[str, Any] = {
    "study": "s",
    "trial": 0,
    "budget": 1.0,
    "model": ModelConfig(
        vocab_size=512, seq_len=64, n_layers=1, d_model=8, n_heads=1, n_kv_heads=1, d_head=8,
        d_ff=8
    ).model_dump(),
    "data": {"vocab_size": 512, "sentinels": 10},
    "batch": {"global_batch_tokens": 512, "micro_batch_size": 2},
    "optim": {"lr": 0.01},
    "schedule": {"warmup_tokens": 1024},
    "tokens": 51_200,
}  # fmt: skip


def spec(**fields: Any) -> RunSpec:
    return RunSpec.model_validate(CONTENT | fields)


@pytest.mark.parametrize("name", ZERO_STAGES)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_optimizer_has_its_zero_stages_and_no_other(name: OptimizerName, stage: int) -> None:
    fields = {"optim": {"name": name, "lr": 0.01}, "parallel": {"dp": 2, "zero_stage": stage}}
    if stage in ZERO_STAGES[name]:
        assert spec(**fields).parallel.zero_stage == stage
    else:
        with pytest.raises(ValueError, match=r"works on whole matrices; use zero_stage in \(0,\)"):
            spec(**fields)


ADAFACTOR = {
    "optim": {"name": "adafactor", "lr": 0.12},
    "parallel": {"zero_stage": 0},
    "schedule": {"kind": "constant", "warmup_tokens": 0},
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (ADAFACTOR, r"use a rate of at most 0\.1"),
        ({"objective": {"kind": "ul2"}, "data": {"vocab_size": 512}}, r"set data\.sentinels=8"),
        ({"objective": {"kind": "span", "corruption": 0.6, "mean_span": 1}}, "data.sentinels="),
        (
            {"phases": [{"start": 0.5, "objective": {"kind": "span", "mean_span": 1.0,
                                                     "corruption": 0.3}}]},
            "data.sentinels=",
        ),
        ({"phases": [{"start": 0.5, "mixture": {"a": 1}}] * 2}, "ascending start"),
        ({"phases": [{"start": 0.5}]}, "changes nothing"),
        ({"phases": [{"start": 0.5, "mixture": {"a": -1}}]}, "finite weights"),
        ({"schedule": {"kind": "wsd", "warmup_tokens": 45_000}}, "reaches into the decay"),
        ({"schedule": {"kind": "inverse_sqrt", "warmup_tokens": 0}}, "give it a warm-up"),
        ({"schedule": {"kind": "zigzag", "warmup_tokens": 0}}, "Input should be 'cosine'"),
        (
            {"batch": {"global_batch_tokens": 512, "micro_batch_size": 2,
                       "ramp": [[0, 64], [1024, 512]]}},
            "has a batch of 64 tokens, which is not a multiple",
        ),
        (
            {"stage": "sft", "parent": "x", "objective": {"kind": "prefix"}},
            "only pretraining has it",
        ),
        ({"optim": {"lr": 1, "decay_all": True, "decay_embeddings": False}}, "choose one"),
        ({"data": {"vocab_size": 512, "sentinels": 249}}, "use sentinels <= 248"),
        (
            {"evals": {"noise_scale_every": 5}, "batch": {"global_batch_tokens": 64,
                                                          "micro_batch_size": 1}},
            "have two sequences in it",
        ),
        ({"evals": {"noise_scale_every": 5}, "parallel": {"zero_stage": 3}}, "stage below 3"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**fields)


def test_adafactor_may_follow_the_schedule_that_its_cap_is() -> None:
    optim = {"name": "adafactor", "lr": 0.7}
    schedule = {"kind": "inverse_sqrt", "warmup_tokens": 1024}
    spec(**ADAFACTOR | {"optim": optim, "schedule": schedule})
    with pytest.raises(ValueError, match=r"at most 0\.707"):
        spec(**ADAFACTOR | {"optim": optim | {"lr": 0.8}, "schedule": schedule})


def test_a_run_survives_the_way_through_json() -> None:
    whole = spec(
        objective={"kind": "span"},
        phases=[{"start": 0.5, "objective": {"kind": "causal"}, "mixture": {"a": 1.0}}],
        batch={"global_batch_tokens": 512, "micro_batch_size": 2, "ramp": [[0, 128], [999, 512]]},
    )
    assert RunSpec.model_validate_json(whole.model_dump_json()) == whole

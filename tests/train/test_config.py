"""RunSpec: what is refused, and what identifies a run."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from train.config import (
    BatchConfig,
    ParallelConfig,
    RunSpec,
    config_id,
    data_id,
    reduced_micro_batch,
    run_id,
    steps,
    with_micro_batch,
)
from train.runlog import RunDir


@pytest.fixture
def spec(make_run: Callable[..., RunDir]) -> RunSpec:
    return make_run().spec()


def changed(spec: RunSpec, **fields: Any) -> RunSpec:
    return RunSpec.model_validate(spec.model_dump() | fields)


def test_labels_and_the_place_of_the_text_do_not_change_the_run_id(spec: RunSpec) -> None:
    moved = spec.data.model_copy(update={"corpus": "elsewhere"})
    other = changed(spec, study="b", trial=5, budget=3.0, data=moved)
    assert run_id(other) == run_id(spec)


@pytest.mark.parametrize(
    "fields",
    [{"seed": 1}, {"tokens": 512 * 30}, {"optim": {"lr": 0.02}}, {"parallel": {"dp": 2}}],
)
def test_whatever_may_change_a_result_changes_the_run_id(
    spec: RunSpec, fields: dict[str, Any]
) -> None:
    assert run_id(changed(spec, **fields)) != run_id(spec)


def test_replicates_and_layouts_share_the_config_id(spec: RunSpec) -> None:
    batch = BatchConfig(global_batch_tokens=512, micro_batch_size=1)
    other = changed(spec, seed=3, parallel=ParallelConfig(dp=2), batch=batch)
    assert config_id(other) == config_id(spec)
    assert config_id(changed(spec, tokens=512 * 30)) != config_id(spec)


def test_data_id_follows_the_text_and_the_tokenizer_but_not_the_mixture(spec: RunSpec) -> None:
    data = spec.data
    assert data_id(data.model_copy(update={"mixture": {"code": 1.0}})) == data_id(data)
    assert data_id(data.model_copy(update={"digest": "0"})) != data_id(data)
    assert data_id(data.model_copy(update={"vocab_size": 301})) != data_id(data)


def test_steps_are_whole_batches(spec: RunSpec) -> None:
    assert steps(changed(spec, tokens=512 * 7 + 511)) == 7


def sized(spec: RunSpec, sequences: int, micro: int, **fields: Any) -> RunSpec:
    tokens = sequences * spec.model.seq_len
    batch = BatchConfig(global_batch_tokens=tokens, micro_batch_size=micro)
    return changed(spec, batch=batch, tokens=tokens, **fields)


@pytest.mark.parametrize(
    ("sequences", "micro", "fields", "sizes"),
    [
        (16, 16, {}, [16, 8, 4, 2, 1, None]),
        (12, 12, {}, [12, 6, 3, 1, None]),
        (15, 5, {}, [5, 1, None]),
        (24, 6, {"parallel": {"dp": 2}}, [6, 3, 1, None]),
        (12, 12, {"stage": "dpo", "parent": "abc"}, [12, 6, 2, None]),
        (6, 2, {"stage": "dpo", "parent": "abc"}, [2, None]),
    ],
)
def test_after_running_out_of_memory_a_forward_takes_at_most_half(
    spec: RunSpec, sequences: int, micro: int, fields: dict[str, Any], sizes: list[int | None]
) -> None:
    wide = sized(spec, sequences, micro, **fields)
    assert [reduced_micro_batch(wide, times) for times in range(len(sizes))] == sizes
    for size in filter(None, sizes):
        RunSpec.model_validate(with_micro_batch(wide, size).model_dump())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tokens": 100}, "less than one batch"),
        ({"batch": {"global_batch_tokens": 500, "micro_batch_size": 4}}, "not a multiple of"),
        ({"parallel": {"dp": 3}}, "not a multiple of"),
        ({"stage": "sft"}, "starts from"),
        ({"parent": "abc"}, "starts from"),
        ({"optim": {"lr": 0.0}}, "lr"),
        ({"lr": 0.1}, "lr"),
        (
            {
                "stage": "dpo",
                "parent": "abc",
                "batch": {"global_batch_tokens": 512, "micro_batch_size": 1},
            },
            "use an even one",
        ),
    ],
)
def test_an_illegal_spec_is_refused_with_the_rule(
    spec: RunSpec, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        changed(spec, **fields)


def test_a_vocabulary_of_another_size_than_the_tokenizer_is_refused(spec: RunSpec) -> None:
    model = spec.model.model_copy(update={"vocab_size": 301})
    with pytest.raises(ValidationError, match="must have one size"):
        changed(spec, model=model)

"""Padded batches of instruction and preference pairs."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data import pair_loader, tokenizer
from train.data.pair_loader import PairTable, pair_batch, pair_indices
from train.data.prepare import PreparedData

SEQ_LEN = 160


@pytest.fixture(scope="module")
def table(prepared: PreparedData) -> PairTable:
    return pair_loader.instructions(prepared.folder, "train", SEQ_LEN)


def test_a_row_is_a_chat_padded_with_end_of_text(prepared: PreparedData, table: PairTable):
    words = tokenizer.load(prepared.folder)
    path = prepared.folder / "pairs.train.jsonl"
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    chats = [words.chat(pair["prompt"], pair["response"]) for pair in pairs]
    expected = next(chat for chat in chats if len(chat[0]) <= SEQ_LEN + 1)
    ids, mask = table.columns["ids"][0], table.columns["mask"][0]
    length = len(expected[0])
    assert ids.tolist() == expected[0] + [tokenizer.END_OF_TEXT] * (SEQ_LEN + 1 - length)
    assert mask.tolist() == [bool(m) for m in expected[1]] + [False] * (SEQ_LEN + 1 - length)


def test_shapes_and_types_are_those_of_a_batch(table: PairTable):
    batch = pair_batch(table, 8, seed=0, step=0, rank=1, world=2)
    assert {name: (column.shape, column.dtype) for name, column in batch.items()} == {
        "ids": ((4, SEQ_LEN + 1), np.dtype(np.int64)),
        "mask": ((4, SEQ_LEN + 1), np.dtype(bool)),
    }


def test_preferences_share_the_prompt_and_differ_in_the_answer(prepared: PreparedData):
    columns = pair_loader.preferences(prepared.folder, "train", SEQ_LEN).columns
    words = tokenizer.load(prepared.folder)
    for row in range(10):
        chosen, rejected = columns["chosen_ids"][row], columns["rejected_ids"][row]
        chosen_mask, rejected_mask = columns["chosen_mask"][row], columns["rejected_mask"][row]
        start = int(chosen_mask.argmax())
        assert start == int(rejected_mask.argmax())
        assert (chosen[:start] == rejected[:start]).all()
        answers = [words.decode(chosen[chosen_mask]), words.decode(rejected[rejected_mask])]
        assert answers[0] != answers[1]
        assert all(answer.endswith("<|end|>") for answer in answers)


def test_pairs_that_do_not_fit_are_dropped_and_counted(prepared: PreparedData, table: PairTable):
    total = prepared.manifest.pairs["train"]
    shorter = pair_loader.instructions(prepared.folder, "train", 48)
    assert len(shorter) + shorter.too_long == len(table) + table.too_long == total
    assert 0 < len(shorter) < len(table)


@pytest.mark.parametrize("kind", [pair_loader.instructions, pair_loader.preferences])
def test_a_sequence_too_short_for_every_pair_is_refused(prepared: PreparedData, kind):
    with pytest.raises(ValueError, match=r"no pair of at most seq_len \+ 1 = 5 tokens"):
        kind(prepared.folder, "train", 4)


@given(n=st.integers(1, 60), batch=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_every_pair_comes_once_before_any_comes_again(n: int, batch: int, seed: int):
    steps = -(-2 * n // batch)
    taken = np.concatenate([pair_indices(n, batch, seed, step) for step in range(steps)])
    assert sorted(taken[:n]) == sorted(taken[n : 2 * n]) == list(range(n))


@given(step=st.integers(0, 1_000), seed=st.integers(0, 2**40), world=st.sampled_from([2, 3, 6]))
def test_any_number_of_processes_sees_the_same_pairs(step: int, seed: int, world: int):
    parts = [pair_indices(25, 6, seed, step, rank, world) for rank in range(world)]
    assert np.concatenate(parts).tolist() == pair_indices(25, 6, seed, step).tolist()

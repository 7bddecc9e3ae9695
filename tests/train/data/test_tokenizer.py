"""Byte-level BPE."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data import tokenizer
from train.data.prepare import PreparedData
from train.data.tokenizer import ASSISTANT, END, END_OF_TEXT, SPECIAL_TOKENS, USER, Tokenizer

TEXTS = [f"the {word} of number {n} is a word" for n, word in enumerate(["cat", "dog"] * 50)]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tokenizer.train(TEXTS, 280)


@given(text=st.text())
def test_any_text_comes_back_as_it_was(words: Tokenizer, text: str):
    assert words.decode(words.encode(text)) == text


@given(text=st.text())
def test_no_text_encodes_to_a_special_token(words: Tokenizer, text: str):
    assert min(words.encode(text), default=END + 1) > END


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_text_that_spells_a_special_token_stays_text(words: Tokenizer, special: str):
    ids = words.encode(f"before {special} after")
    assert min(ids) > END
    assert words.decode(ids) == f"before {special} after"


def test_special_tokens_have_the_first_ids(words: Tokenizer):
    assert (END_OF_TEXT, USER, ASSISTANT, END) == (0, 1, 2, 3)
    assert [words.decode([id]) for id in range(4)] == list(SPECIAL_TOKENS)


@given(text=st.text())
def test_token_bytes_add_up_to_the_bytes_of_the_text(words: Tokenizer, text: str):
    assert words.token_bytes()[words.encode(text)].sum() == len(text.encode())


def test_special_tokens_have_no_bytes(words: Tokenizer):
    assert words.token_bytes()[:4].tolist() == [0, 0, 0, 0]


def test_a_chat_masks_all_but_the_answer_and_its_end(words: Tokenizer):
    ids, mask = words.chat("def f():", "Return 1.")
    assert words.decode(ids) == "<|user|>def f():<|assistant|>Return 1.<|end|>"
    answer = [id for id, marked in zip(ids, mask, strict=True) if marked]
    assert words.decode(answer) == "Return 1.<|end|>"


@pytest.mark.parametrize("vocab_size", [261, 270, 280])
def test_the_vocabulary_has_exactly_the_size_asked_for(vocab_size: int):
    assert tokenizer.train(TEXTS, vocab_size).vocab_size == vocab_size


def test_a_text_too_small_for_the_vocabulary_is_refused_with_the_size_it_reaches():
    with pytest.raises(ValueError, match=r"vocab_size=4000 .* use vocab_size <= (\d+)") as refused:
        tokenizer.train(TEXTS, 4_000)
    reached = int(str(refused.value).split("<= ")[1].split()[0])
    assert tokenizer.train(TEXTS, reached).vocab_size == reached


def test_a_saved_tokenizer_loads_to_the_same_ids(words: Tokenizer, tmp_path: Path):
    words.save(tmp_path / tokenizer.FILE)
    loaded = tokenizer.load(tmp_path)
    text = "the cat of <|end|> ünïcödé 😀"
    assert loaded.encode(text) == words.encode(text)
    assert loaded.encode_batch([text, ""]) == [words.encode(text), []]


def test_training_gives_the_same_file_with_one_thread_and_in_another_process(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from train.data import tokenizer\n"
        "text = Path(tokenizer.__file__).read_text()\n"
        "tokenizer.train(text.splitlines(), 400).save(Path(sys.argv[1]))\n"
    )
    hashes = set()
    for threads in ("1", "2"):
        path = tmp_path / threads
        command = [sys.executable, "-c", program, str(path)]
        subprocess.run(command, check=True, env=os.environ | {"RAYON_NUM_THREADS": threads})
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_merges_shorten_the_text_they_were_trained_on(prepared: PreparedData):
    assert all(1.2 < ratio < 4 for ratio in prepared.manifest.bytes_per_token.values())

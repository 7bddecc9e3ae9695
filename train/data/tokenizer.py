"""Byte-level BPE: trained on the training split, lossless on any text, special tokens first.

Source: Sennrich et al. 2016, arXiv:1508.07909 (BPE); Radford et al. 2019 (over bytes).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
END_OF_TEXT, USER, ASSISTANT, END = range(len(SPECIAL_TOKENS))
# Reserved behind those only where sentinels are. Source: Raffel et al. 2020, arXiv:1910.10683, sec.
# 2.4 (sentinels); Tay et al. 2022, arXiv:2205.05131, sec. 3.1.3 (mode tokens).
MODE_TOKENS = ("<|denoise_r|>", "<|denoise_s|>", "<|denoise_x|>")
MODE_R, MODE_S, MODE_X = (len(SPECIAL_TOKENS) + i for i in range(len(MODE_TOKENS)))
FIRST_SENTINEL = len(SPECIAL_TOKENS) + len(MODE_TOKENS)
FILE = "tokenizer.json"
# A merge seen once is a memory of one place, not of the language.
MIN_MERGE_COUNT = 2


class Tokenizer:
    """Text to token ids and back. The first ids are special tokens; no text encodes to them."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        # Without this, text that spells a special token would end its own document.
        backend.encode_special_tokens = True
        self._backend = backend
        self.vocab_size = backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self._backend.encode(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of several texts, on all cores."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included; half a character becomes U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def chat(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Ids of one exchange, and a mask that is 1 on the response and its end token only."""
        question = [USER, *self.encode(prompt), ASSISTANT]
        answer = [*self.encode(response), END]
        return question + answer, [0] * len(question) + [1] * len(answer)

    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each token stands for, int64 (V,); special tokens have none."""
        # The byte-level alphabet spells each byte as one character.
        lengths = [len(self._backend.id_to_token(i) or "") for i in range(self.vocab_size)]
        for special in self._backend.get_added_tokens_decoder():
            lengths[special] = 0
        return np.array(lengths, dtype=np.int64)

    def save(self, path: Path) -> None:
        self._backend.save(str(path))


def special_tokens(sentinels: int) -> list[str]:
    """Special tokens in the order of their ids; mode tokens come with the sentinels."""
    reserved = [f"<|sentinel_{i}|>" for i in range(sentinels)]
    return [*SPECIAL_TOKENS, *(MODE_TOKENS if sentinels else ()), *reserved]


def train(texts: Iterable[str], vocab_size: int, sentinels: int = 0) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` tokens, the same for the same texts.

    Raises ValueError where the texts hold too few repeated pairs to reach it.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_MERGE_COUNT,
        special_tokens=special_tokens(sentinels),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    reached = backend.get_vocab_size()
    if reached != vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is more than the text can fill: it has pairs for {reached}"
            f" tokens; use vocab_size <= {reached} or add text"
        )
    return Tokenizer(backend)


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared data folder."""
    return Tokenizer(tokenizers.Tokenizer.from_file(str(folder / FILE)))

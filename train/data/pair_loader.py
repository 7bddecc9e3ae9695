"""Padded batches of instruction and preference pairs for post-training.

n pairs, B batch, T sequence length; rows have T + 1 tokens: inputs [:-1], targets [1:].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data import tokenizer
from train.data.curate import Split
from train.data.loader import rank_samples
from train.data.mixture import key, shuffle
from train.data.tokenizer import END_OF_TEXT
from train.runlog import read_lines


@dataclass(frozen=True)
class PairTable:
    """All pairs of a split that fit in T + 1 tokens, padded with <|endoftext|>, and how many not.

    `columns` holds for each kind of answer its `ids` (n, T + 1) int64 and `mask` (n, T + 1) bool,
    true on the tokens of the answer and its end.
    """

    columns: Mapping[str, np.ndarray]
    too_long: int

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def instructions(folder: Path, split: Split, seq_len: int) -> PairTable:
    """Instruction pairs: columns `ids` and `mask`. Raises ValueError where no pair is left."""
    return _table(folder, "pairs", split, seq_len, {"response": ""})


def preferences(folder: Path, split: Split, seq_len: int) -> PairTable:
    """Preference pairs: columns `chosen_ids`, `chosen_mask`, `rejected_ids`, `rejected_mask`.

    Raises ValueError where no pair is left.
    """
    answers = {"chosen": "chosen_", "rejected": "rejected_"}
    return _table(folder, "preferences", split, seq_len, answers)


def pair_indices(
    n: int, global_batch: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> np.ndarray:
    """Which of n pairs (B / world,) one rank takes in a step: all once an epoch, then anew."""
    epoch, place = np.divmod(rank_samples(global_batch, step, rank, world), n)
    indices = np.empty_like(place)
    for current in np.unique(epoch):
        chosen = epoch == current
        indices[chosen] = shuffle(place[chosen], n, key(seed, "pairs", int(current)))
    return indices


def pair_batch(
    table: PairTable, global_batch: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> dict[str, np.ndarray]:
    """The rows (B / world, T + 1) of every column that one rank takes in a step."""
    indices = pair_indices(len(table), global_batch, seed, step, rank, world)
    return {name: column[indices] for name, column in table.columns.items()}


def _table(
    folder: Path, kind: str, split: Split, seq_len: int, answers: Mapping[str, str]
) -> PairTable:
    """Encode a pairs file; `answers` maps a field of its rows to a prefix of column names."""
    words = tokenizer.load(folder)
    rows = list(read_lines(folder / f"{kind}.{split}.jsonl"))
    chats = [[words.chat(row["prompt"], row[field]) for field in answers] for row in rows]
    fitting = [chat for chat in chats if all(len(ids) <= seq_len + 1 for ids, _ in chat)]
    if not fitting:
        raise ValueError(
            f"{kind} for {split} has no pair of at most seq_len + 1 = {seq_len + 1} tokens, out of"
            f" {len(rows)}; use a longer seq_len, or a corpus with documented Python functions"
        )
    columns: dict[str, np.ndarray] = {}
    for number, prefix in enumerate(answers.values()):
        ids = np.full((len(fitting), seq_len + 1), END_OF_TEXT, dtype=np.int64)
        mask = np.zeros((len(fitting), seq_len + 1), dtype=bool)
        for row, chat in enumerate(fitting):
            tokens, marks = chat[number]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(marks)] = marks
        columns[f"{prefix}ids"], columns[f"{prefix}mask"] = ids, mask
    return PairTable(columns, len(rows) - len(fitting))

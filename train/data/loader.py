"""Token windows for training and validation, read from the flat arrays of a prepared folder.

B batch, T sequence length; a window has T + 1 tokens: inputs [:-1], targets [1:].
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data import tokenizer
from train.data.curate import Split, check_mixture
from train.data.mixture import apportion, key, schedule, shuffle
from train.data.prepare import PreparedData, load, tokens_path

# Samples whose windows are looked up together.
AHEAD = 1024


class TokenSource:
    """The tokens of one source and split as windows that share one token with the next.

    So every token but the first is a target exactly once.
    """

    def __init__(self, prepared: PreparedData, source: str, split: Split, seq_len: int) -> None:
        n_tokens = prepared.manifest.sources[source][split].tokens
        path = tokens_path(prepared.folder, source, split)
        # An empty file cannot be mapped. A plain view: every slice of a memmap is dear.
        mapped = np.memmap(path, prepared.manifest.dtype, mode="r") if n_tokens else np.empty(0)
        self._tokens = np.asarray(mapped)
        self.seq_len = seq_len
        self.n_windows = max(0, n_tokens - 1) // seq_len

    def windows(self, indices: np.ndarray) -> np.ndarray:
        """Windows (n, T + 1) int64 of indices (n,) in [0, n_windows)."""
        starts = indices * self.seq_len
        return self._tokens[starts[:, None] + np.arange(self.seq_len + 1)].astype(np.int64)

    def documents(self, indices: np.ndarray) -> list[tuple[int, int]]:
        """Numbers, from 0 in the order of the split, of the first and last document of windows.

        Reads the whole split.
        """
        ends = np.flatnonzero(self._tokens == tokenizer.END_OF_TEXT)
        starts = indices * self.seq_len
        first, last = (np.searchsorted(ends, at) for at in (starts, starts + self.seq_len))
        return list(zip(first.tolist(), last.tolist(), strict=True))


class Origin(NamedTuple):
    """A window by its number in its source, and the documents that it begins and ends in."""

    source: str
    window: int
    first_document: int
    last_document: int


class TrainLoader:
    """Training batches as a pure function of (seed, step), whatever the number of processes.

    Sources come by mixture weight (by size where `mixture` is empty); within a source no window
    comes again before all others have, in a fresh order each epoch.
    """

    def __init__(
        self,
        folder: Path,
        mixture: Mapping[str, float],
        seq_len: int,
        global_batch: int,
        seed: int,
        begin: int = 0,
        taken: Mapping[str, int] | None = None,
    ) -> None:
        """A loader that takes over at sample `begin`, of whose sources others took windows before.

        Raises ValueError for an unknown source, and for a weighted one without one window.
        """
        self.prepared = open_prepared(folder)
        self.global_batch = global_batch
        self.seed = seed
        self.seq_len = seq_len
        check_mixture(dict(mixture), self.prepared.manifest.sources)
        found = {
            name: TokenSource(self.prepared, name, "train", seq_len)
            for name in self.prepared.manifest.sources
        }
        weights = mixture or {name: source.n_windows for name, source in found.items()}
        self.sources = {name: found[name] for name, weight in weights.items() if weight > 0}
        for name, source in self.sources.items():
            if not source.n_windows:
                raise ValueError(
                    f"source {name!r} has fewer than seq_len + 1 = {seq_len + 1} training tokens;"
                    " use a shorter seq_len, more text, or leave it out of the mixture"
                )
        if not self.sources:
            raise ValueError(
                f"no source has seq_len + 1 = {seq_len + 1} training tokens; use a shorter seq_len"
                " or more text"
            )
        self.schedule = schedule({name: weights[name] for name in self.sources})
        self.begin = begin
        self.taken = dict(taken or {})
        self._before = np.array([self.taken.get(name, 0) for name in self.schedule.sources])
        self._ahead, self._found = 0, self._located(np.arange(0))

    def batch(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """The rows of one rank in the global batch of a step: (B / world, T + 1) int64."""
        return self.rows(rank_samples(self.global_batch, step, rank, world))

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """The windows (n, T + 1) of samples by number."""
        source, window = self._places(samples)
        rows = np.empty((len(samples), self.seq_len + 1), dtype=np.int64)
        for index, name in enumerate(self.schedule.sources):
            chosen = source == index
            if chosen.any():
                rows[chosen] = self.sources[name].windows(window[chosen])
        return rows

    def origins(self, samples: np.ndarray) -> list[Origin]:
        """Where the windows of samples come from, in their order."""
        source, window = self._located(samples)
        found: dict[int, Origin] = {}
        for index in np.unique(source).tolist():
            name, chosen = self.schedule.sources[index], np.flatnonzero(source == index)
            windows = window[chosen]
            documents = self.sources[name].documents(windows)
            for place, at, ends in zip(chosen.tolist(), windows.tolist(), documents, strict=True):
                found[place] = Origin(name, at, *ends)
        return [found[place] for place in range(len(samples))]

    def _places(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source and window of each sample.

        Those of the coming steps are found with them: a call costs more than what it computes.
        """
        first, end = int(samples.min()), int(samples.max()) + 1
        if end - first > AHEAD:
            return self._located(samples)
        if first < self._ahead or end > self._ahead + len(self._found[0]):
            self._ahead, self._found = first, self._located(np.arange(first, first + AHEAD))
        source, window = self._found
        return source[samples - self._ahead], window[samples - self._ahead]

    def _located(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        source, ordinal = self.schedule.locate(samples - self.begin)
        ordinal = ordinal + self._before[source]
        window = np.empty(len(samples), dtype=np.int64)
        for index, name in enumerate(self.schedule.sources):
            n_windows = self.sources[name].n_windows
            epoch, place = np.divmod(ordinal, n_windows)
            for current in np.unique(epoch[source == index]):
                chosen = (source == index) & (epoch == current)
                shuffled = key(self.seed, name, int(current))
                window[chosen] = shuffle(place[chosen], n_windows, shuffled)
        return source, window

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source is gone through in the first `samples` samples."""
        taken = self.taken_after(samples)
        return {name: taken[name] / source.n_windows for name, source in self.sources.items()}

    def taken_after(self, samples: int) -> dict[str, int]:
        """Windows that were taken of each source, by others too, in the first `samples` samples."""
        own = self.schedule.samples_of(samples - self.begin)
        return {name: self.taken.get(name, 0) + own.get(name, 0) for name in self.taken | own}


def rank_samples(global_batch: int, step: int, rank: int, world: int) -> np.ndarray:
    """Numbers (B / world,) of the samples that one rank takes in a step.

    Raises ValueError where the batch cannot be shared out evenly.
    """
    if global_batch % world:
        raise ValueError(
            f"global_batch={global_batch} sequences is not divisible by world={world}; use a"
            f" multiple of {world}"
        )
    share = global_batch // world
    return step * global_batch + rank * share + np.arange(share, dtype=np.int64)


def open_prepared(folder: Path) -> PreparedData:
    """The prepared data of a folder; raises ValueError where there is none."""
    prepared = load(folder)
    if prepared is None:
        raise ValueError(f"{str(folder)!r} holds no finished data; prepare the data first")
    return prepared


def validation_batches(
    folder: Path, seq_len: int, batch: int, tokens: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Held-out windows (<= batch, T + 1) int64 by source: the first of each, by its size.

    About `tokens` targets in all, or what there is; the same for every model, seed and layout.
    """
    for name, source, n_windows in _validation_windows(open_prepared(folder), seq_len, tokens):
        for start in range(0, n_windows, batch):
            yield name, source.windows(np.arange(start, min(start + batch, n_windows)))


def validation_bytes_per_token(
    folder: Path, seq_len: int, tokens: int, first: int = 0
) -> dict[str, float]:
    """Bytes of text per target token, by source, over exactly what `validation_batches` gives.

    Only targets of a window from number `first` on count.

    bits_per_byte = nats_per_token / ln 2 / bytes_per_token; a separator is a token of no bytes.
    """
    token_bytes = tokenizer.load(folder).token_bytes()
    return {
        name: float(token_bytes[source.windows(np.arange(n_windows))[:, 1 + first :]].mean())
        for name, source, n_windows in _validation_windows(open_prepared(folder), seq_len, tokens)
    }


def _validation_windows(
    prepared: PreparedData, seq_len: int, tokens: int
) -> list[tuple[str, TokenSource, int]]:
    """Sources with the number of their windows to use; raises ValueError where there is none."""
    sources = {
        name: TokenSource(prepared, name, "validation", seq_len)
        for name in sorted(prepared.manifest.sources)
    }
    available = {name: source.n_windows for name, source in sources.items() if source.n_windows}
    if not available:
        raise ValueError(
            f"no source has seq_len + 1 = {seq_len + 1} validation tokens; use a shorter seq_len,"
            " more text or a larger validation_fraction"
        )
    wanted = min(max(tokens // seq_len, 1), sum(available.values()))
    counts = apportion([float(n) for n in available.values()], wanted).tolist()
    return [(name, sources[name], n) for name, n in zip(available, counts, strict=True) if n]

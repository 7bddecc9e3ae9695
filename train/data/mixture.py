"""Which source and which window sample i of a run is: pure functions of (seed, i).

No state: any layout of processes sees the same samples, and a run resumes from its step number.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PERIOD = 65_536
ROUNDS = 6


@dataclass(frozen=True)
class Schedule:
    """A cycle of PERIOD samples in which every source comes as often, and as evenly, as it weighs.

    `source` (PERIOD,) is the index of each position's source, `rank` (PERIOD,) how often that
    source came before in the cycle, `counts` (n sources,) how often it comes in a whole cycle.
    """

    sources: tuple[str, ...]
    source: np.ndarray
    rank: np.ndarray
    counts: np.ndarray

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source index of each sample, and its ordinal among the samples of that source."""
        cycle, position = np.divmod(samples, PERIOD)
        source = self.source[position]
        return source, cycle * self.counts[source] + self.rank[position]

    def samples_of(self, samples: int) -> dict[str, int]:
        """How many of the first `samples` samples come from each source."""
        cycles, rest = divmod(samples, PERIOD)
        in_rest = np.bincount(self.source[:rest], minlength=len(self.sources))
        return dict(zip(self.sources, (cycles * self.counts + in_rest).tolist(), strict=True))


def schedule(weights: Mapping[str, float]) -> Schedule:
    """The cycle for positive weights of any sum, each rounded to a multiple of 1/PERIOD."""
    sources = tuple(sorted(weights))
    counts = apportion([weights[source] for source in sources], PERIOD)
    source = np.repeat(np.arange(len(sources)), counts)
    rank = np.concatenate([np.arange(n) for n in counts])
    # The k-th of n samples stands at (k + 1/2) / n of the cycle, so the sources interleave.
    order = np.argsort((rank + 0.5) / counts[source], kind="stable")
    return Schedule(sources, source[order], rank[order], counts)


def apportion(weights: list[float], total: int) -> np.ndarray:
    """Integers (n,) that sum to `total` in proportion to weights, by largest remainder."""
    shares = np.array(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(shares).astype(np.int64)
    largest = np.argsort(counts - shares, kind="stable")
    counts[largest[: total - counts.sum()]] += 1
    return counts


def key(*parts: int | str) -> int:
    """A 128-bit key that follows from its parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=16).digest(), "little")


def shuffle(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Places (n,) of indices in [0, size) in the permutation of that range which `key` names.

    A Feistel network over the next power of four, walked until it lands in range: no table of
    `size` entries is kept. Source: Black & Rogaway 2002, Ciphers with Arbitrary Finite Domains.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
    places = _feistel(indices.astype(np.uint64), half, keys)
    while (outside := places >= size).any():
        places[outside] = _feistel(places[outside], half, keys)
    return places.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for round_key in keys:
        left, right = right, left ^ (mix(right ^ round_key) & mask)
    return (left << half) | right


def mix(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64. Source: Steele et al. 2014, Fast Splittable PRNGs."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

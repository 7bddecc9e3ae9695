"""Windows of text as what is given and what is asked for: pure functions of (seed, sample).

All rows of a batch at once. Shapes: n rows, W = T + 1 ids of a window, L tokens of a text.
"""

from dataclasses import dataclass

import numpy as np

from train.choices import ObjectiveConfig
from train.data.mixture import key, mix
from train.data.tokenizer import END_OF_TEXT, FIRST_SENTINEL, MODE_R, MODE_S, MODE_X
from train.denoisers import Denoiser, Mode, Sizes, denoisers, fitting

MODES: dict[Mode, int] = {"r": MODE_R, "s": MODE_S, "x": MODE_X}
STEP = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64


@dataclass(frozen=True)
class Draws:
    """Random numbers for rows, each row's its own: the same in any layout and after any resume."""

    seed: int
    samples: np.ndarray

    def numbers(self, what: str, count: int) -> np.ndarray:
        """Whole numbers (n, count) in [0, 2^64), independent for every `what`."""
        start = np.uint64(key(self.seed, what) & 0xFFFFFFFFFFFFFFFF)
        rows = mix(start + self.samples.astype(np.uint64) * STEP)
        return mix(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * STEP)

    def below(self, what: str, limit: int) -> np.ndarray:
        """Whole numbers (n,) in [0, limit)."""
        return (self.numbers(what, 1)[:, 0] % np.uint64(limit)).astype(np.int64)

    def of(self, rows: np.ndarray) -> "Draws":
        """The draws of some of the rows."""
        return Draws(self.seed, self.samples[rows])


@dataclass(frozen=True)
class Examples:
    """Rows of ids (n, W): what is given up to `start` (n,), what is asked for up to `end` (n,)."""

    ids: np.ndarray
    start: np.ndarray
    end: np.ndarray


def whole(ids: np.ndarray, draws: Draws, objective: ObjectiveConfig) -> Examples:
    """Causal LM: everything but the first token."""
    n, width = ids.shape
    return Examples(ids, np.full(n, 1), np.full(n, width))


def split(ids: np.ndarray, draws: Draws, objective: ObjectiveConfig) -> Examples:
    """Prefix LM: the window cut at a place drawn evenly, a token on either side at least.

    Source: Raffel et al. 2020, arXiv:1910.10683, sec. 3.2.1 and 3.3.1.
    """
    n, width = ids.shape
    return Examples(ids, 1 + draws.below("split", width - 1), np.full(n, width))


def corrupt(ids: np.ndarray, draws: Draws, objective: ObjectiveConfig) -> Examples:
    """Span corruption, each row by one of the objective's denoisers, drawn evenly.

    What does not fit beside its own sentinels is left out at the end. Source: Raffel et al. 2020,
    arXiv:1910.10683, sec. 3.1.4; Tay et al. 2022, arXiv:2205.05131, sec. 3.1.
    """
    choices = denoisers(objective)
    chosen = draws.below("denoiser", len(choices))
    laid = np.full_like(ids, END_OF_TEXT)
    start, end = np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.int64)
    for index, denoiser in enumerate(choices):
        rows = np.flatnonzero(chosen == index)
        if len(rows):
            source, target = denoise(ids[rows], denoiser, draws.of(rows))
            start[rows], end[rows] = source.shape[1], source.shape[1] + target.shape[1]
            laid[rows, : end[rows[0]]] = np.concatenate([source, target], axis=1)
    return Examples(laid, start, end)


def denoise(ids: np.ndarray, denoiser: Denoiser, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Source and target (n, ...) of the first ids of windows (n, W), as many as fit."""
    n, width = ids.shape
    size = fitting(denoiser, width)
    text = ids[:, : size.raw]
    mode = np.full((n, 1), MODES[denoiser.mode]) if denoiser.mode else np.empty((n, 0), np.int64)
    if denoiser.mean_span is None:
        place = size.raw - size.noise
        return np.concatenate([mode, text[:, :place]], axis=1), text[:, place:]
    taken = noise_mask(size, draws)  # (n, L)
    starts = taken.copy()
    starts[:, 1:] &= ~taken[:, :-1]
    sentinels = FIRST_SENTINEL + np.cumsum(starts, axis=1) - 1  # of the piece begun last
    given = np.where(starts, sentinels, text)[~taken | starts].reshape(n, -1)
    # Each piece behind its sentinel: two entries where a piece begins, one in the rest of it.
    doubled = np.stack([sentinels, text], axis=2)  # (n, L, 2)
    pieces = doubled[np.stack([starts, taken], axis=2)].reshape(n, -1)
    ending = np.full((n, 1), END_OF_TEXT)
    return np.concatenate([mode, given], axis=1), np.concatenate([pieces, ending], axis=1)


def noise_mask(size: Sizes, draws: Draws) -> np.ndarray:
    """Which tokens (n, L) are taken out: gaps and pieces of random lengths in turn, a gap first.

    Source: `random_spans_noise_mask` of Raffel et al. 2020's published code.
    """
    gaps = _cuts(size.raw - size.noise, size.spans, draws, "gaps")
    pieces = _cuts(size.noise, size.spans, draws, "pieces")
    # Piece k begins after k + 1 gaps and k pieces, and ends a piece later.
    begins = gaps[:, 1:] + pieces[:, :-1]
    ends = gaps[:, 1:] + pieces[:, 1:]
    change = np.zeros((len(gaps), size.raw + 1), dtype=np.int8)
    rows = np.arange(len(gaps))[:, None]
    change[rows, begins] += 1
    change[rows, ends] -= 1
    return np.cumsum(change[:, :-1], axis=1) > 0


def _cuts(total: int, count: int, draws: Draws, what: str) -> np.ndarray:
    """Where `total` is cut into `count` parts of one at least: (n, count + 1), from 0 to total."""
    n = len(draws.samples)
    order = np.argsort(draws.numbers(what, total - 1), axis=1)[:, : count - 1] + 1
    edges = np.zeros((n, count + 1), dtype=np.int64)
    edges[:, 1:-1] = np.sort(order, axis=1)
    edges[:, -1] = total
    return edges


def in_one_window(found: Examples) -> dict[str, np.ndarray]:
    """`ids` (n, W), sources with their targets behind them; `mask` (n, W) of the targets; and the
    `prefix` lengths (n,).
    """
    place = np.arange(found.ids.shape[1])
    mask = (place >= found.start[:, None]) & (place < found.end[:, None])
    return {"ids": found.ids, "mask": mask.astype(np.float32), "prefix": found.start}


def apart(found: Examples) -> dict[str, np.ndarray]:
    """Sources for an encoder, targets for a decoder that starts from the end of text.

    `source` (n, T), `present` (n, T) where it is no padding, and `ids`, `mask` (n, W). Shorter ones
    are filled up: batches of all ranks and steps have one shape, and each token of the horizon
    costs a token of either stack.
    """
    n, width = found.ids.shape
    place = np.arange(width)
    source = np.where(place < found.start[:, None], found.ids, END_OF_TEXT)[:, :-1]
    asked = found.end - found.start
    moved = np.minimum(found.start[:, None] + place - 1, width - 1)
    mask = (place > 0) & (place <= asked[:, None])
    ids = np.where(mask, found.ids[np.arange(n)[:, None], moved], END_OF_TEXT)
    return {
        "source": source,
        "present": place[:-1] < found.start[:, None],
        "ids": ids,
        "mask": mask.astype(np.float32),
    }


def documents(ids: np.ndarray) -> np.ndarray:
    """Number of the document that each input of windows (n, W) belongs to: (n, T).

    The end of a text begins the next one: what follows is predicted from it alone.
    """
    return np.cumsum(ids[:, :-1] == END_OF_TEXT, axis=1)

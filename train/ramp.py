"""Steps and tokens under a batch that grows: exact both ways. No torch here."""

from functools import lru_cache
from typing import NamedTuple

from train.choices import BatchConfig


class Segment(NamedTuple):
    """Steps of one batch size: from step number `step` (0-based), which begins at `tokens`."""

    step: int
    tokens: int
    batch_tokens: int


def segments(batch: BatchConfig) -> tuple[Segment, ...]:
    """The stretches of equal batches; a larger one begins with the first step that may take it."""
    return _segments(batch.ramp or ((0, batch.global_batch_tokens),))


@lru_cache(maxsize=1024)
def _segments(pairs: tuple[tuple[int, int], ...]) -> tuple[Segment, ...]:
    found = [Segment(0, 0, pairs[0][1])]
    for start, size in pairs[1:]:
        last = found[-1]
        count = max(0, -(-(start - last.tokens) // last.batch_tokens))
        step, tokens = last.step + count, last.tokens + count * last.batch_tokens
        if count == 0:  # a pair whose place was passed within one step of the one before
            found.pop()
        found.append(Segment(step, tokens, size))
    return tuple(found)


def segment_at(batch: BatchConfig, step: int) -> Segment:
    """The stretch that a step (0-based) belongs to."""
    return next(each for each in reversed(segments(batch)) if each.step <= step)


def batch_tokens_at(batch: BatchConfig, step: int) -> int:
    """Tokens of the batch of a step (0-based)."""
    return segment_at(batch, step).batch_tokens


def seen_after(batch: BatchConfig, step: int) -> int:
    """Tokens seen by the end of `step` steps."""
    last = segment_at(batch, step)
    return last.tokens + (step - last.step) * last.batch_tokens


def steps_within(batch: BatchConfig, tokens: int) -> int:
    """Whole steps that fit into a number of tokens."""
    last = next(each for each in reversed(segments(batch)) if each.tokens <= tokens)
    return last.step + (tokens - last.tokens) // last.batch_tokens


def steps_reaching(batch: BatchConfig, tokens: float) -> int:
    """The fewest steps after which this many tokens have been seen."""
    last = next(each for each in reversed(segments(batch)) if each.tokens <= tokens)
    return last.step + max(0, -int(-(tokens - last.tokens) // last.batch_tokens))

"""Steps and tokens while a batch grows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.choices import BatchConfig
from train.ramp import batch_tokens_at, seen_after, segments, steps_reaching, steps_within


def ramp(*pairs: tuple[int, int]) -> BatchConfig:
    return BatchConfig(global_batch_tokens=pairs[-1][1], micro_batch_size=1, ramp=pairs)


def test_a_larger_batch_begins_with_the_first_step_that_may_take_it() -> None:
    batch = ramp((0, 32), (100, 64), (300, 128))
    assert segments(batch) == ((0, 0, 32), (4, 128, 64), (7, 320, 128))
    assert [batch_tokens_at(batch, step) for step in range(9)] == [32] * 4 + [64] * 3 + [128] * 2
    assert [seen_after(batch, step) for step in (0, 3, 4, 7, 8)] == [0, 96, 128, 320, 448]
    assert [steps_within(batch, tokens) for tokens in (31, 32, 127, 128, 447, 448)] == [
        0, 1, 3, 4, 7, 8,
    ]  # fmt: skip


def test_gpt3_reaches_its_full_batch_as_published() -> None:
    """Brown et al. 2020, app. B: from 32k tokens, over the first 4 to 12 billion."""
    sizes = [32_768 * 2**k for k in range(7)]
    starts = [round(12e9 * k / 6) for k in range(7)]
    batch = ramp(*zip(starts, sizes, strict=True))
    full = segments(batch)[-1]
    assert full.batch_tokens == 2_097_152
    assert 12e9 <= full.tokens <= 12e9 + full.batch_tokens
    assert seen_after(batch, steps_within(batch, 300_000_000_000)) <= 300_000_000_000


pairs = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 50)), min_size=0, max_size=5)


@settings(deadline=None)
@given(st.integers(1, 50), pairs, st.integers(0, 40_000))
def test_steps_and_tokens_agree_with_counting(
    first: int, more: list[tuple[int, int]], tokens: int
) -> None:
    found = [(0, first)]
    for start, size in more:
        found.append((found[-1][0] + start, found[-1][1] + size))
    batch = ramp(*found)
    seen, step = 0, 0
    while True:
        size = max(size for start, size in found if start <= seen)
        assert (seen_after(batch, step), batch_tokens_at(batch, step)) == (seen, size)
        assert steps_reaching(batch, seen) == step
        if seen + size > tokens:
            break
        seen, step = seen + size, step + 1
    assert steps_within(batch, tokens) == step


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (((10, 32), (100, 64)), "begin with from_tokens=0"),
        (((0, 64), (100, 32)), "rise in both"),
        (((0, 32), (0, 64)), "rise in both"),
        (((0, 0), (5, 64)), "rise in both"),
    ],
)
def test_a_ramp_that_does_not_rise_from_the_start_is_refused(
    pairs: tuple[tuple[int, int], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BatchConfig(global_batch_tokens=pairs[-1][1], micro_batch_size=1, ramp=pairs)


def test_a_ramp_ends_with_the_full_batch() -> None:
    with pytest.raises(ValueError, match="end it with the full batch"):
        BatchConfig(global_batch_tokens=128, micro_batch_size=1, ramp=((0, 32), (100, 64)))

"""The order of samples: which source, and which window of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.mixture import PERIOD, apportion, key, mix, schedule, shuffle

WEIGHTS = st.dictionaries(st.text("abc", min_size=1), st.floats(0.01, 10), min_size=1, max_size=6)


@given(st.integers(1, 3_000), st.integers(0, 2**128 - 1))
def test_a_shuffle_is_a_permutation(size: int, name: int):
    assert sorted(shuffle(np.arange(size), size, name)) == list(range(size))


@given(st.integers(1, 10**12), st.integers(0, 2**128 - 1), st.data())
def test_a_shuffle_of_a_part_agrees_with_that_of_each_index(
    size: int, name: int, data: st.DataObject
):
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8)))
    together = shuffle(indices, size, name)
    assert together.tolist() == [
        int(shuffle(indices[[i]], size, name)[0]) for i in range(len(indices))
    ]
    assert ((together >= 0) & (together < size)).all()


def test_shuffles_of_many_keys_put_every_index_everywhere():
    """Pearson's chi-squared over 64 places; 200 is 12 deviations above the mean of 63."""
    places = np.array([shuffle(np.arange(64), 64, key("chi", n)) for n in range(2_000)])
    for index in range(64):
        counts = np.bincount(places[:, index], minlength=64)
        expected = 2_000 / 64
        assert ((counts - expected) ** 2 / expected).sum() < 200


def test_neighbours_do_not_stay_neighbours():
    places = shuffle(np.arange(10_000), 10_000, key(0))
    correlation = np.corrcoef(places[:-1], places[1:])[0, 1]
    # Independent neighbours have a standard error of 1 / sqrt(n) = 0.01.
    assert abs(correlation) < 0.05


def test_the_mixing_function_is_that_of_splitmix64():
    """First output for state 0. Source: Vigna, splitmix64.c, prng.di.unimi.it."""
    first = mix(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))
    assert int(first[0]) == 0xE220A8397B1DCDAF


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(0, 10**9))
def test_apportioned_counts_sum_to_the_total_and_round_each_share(weights: list[float], total: int):
    weights = [*weights, 1.0]
    counts = apportion(weights, total)
    shares = np.array(weights) / sum(weights) * total
    assert counts.sum() == total
    assert (np.abs(counts - shares) < 1 + 1e-6).all()


@given(WEIGHTS, st.integers(0, 3 * PERIOD))
def test_every_prefix_of_the_schedule_is_near_its_weights(weights: dict[str, float], samples: int):
    """Each source is within a half of its share at a common position in the cycle, which is off by
    at most half a sample a source; rounding of weights adds less than one sample a cycle.
    """
    taken = schedule(weights).samples_of(samples)
    total = sum(weights.values())
    assert sum(taken.values()) == samples
    for name, weight in weights.items():
        bound = 0.5 + len(weights) / 2 + samples / PERIOD
        assert abs(taken[name] - samples * weight / total) <= bound


@given(WEIGHTS)
def test_ordinals_of_a_source_count_up_without_gaps(weights: dict[str, float]):
    plan = schedule(weights)
    source, ordinal = plan.locate(np.arange(2 * PERIOD))
    for index, name in enumerate(plan.sources):
        mine = ordinal[source == index]
        assert (mine == np.arange(len(mine))).all()
        assert len(mine) == plan.samples_of(2 * PERIOD)[name]


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_only_the_ratio_of_weights_matters(scale: float):
    plan = schedule({"a": 1 * scale, "b": 3 * scale})
    assert plan.samples_of(PERIOD) == {"a": PERIOD // 4, "b": 3 * PERIOD // 4}


def test_a_key_follows_all_its_parts():
    assert len({key(0, "a", 1), key(0, "a", 2), key(0, "b", 1), key(1, "a", 1), key("0a1")}) == 5

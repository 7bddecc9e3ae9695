"""The search for a bad host, over hosts that are described and not there."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.bisection import Group, Verdict, bisect

HOSTS = tuple(f"n{number}" for number in range(24))


class Described:
    """Groups whose bad hosts, and whose bad pairs where both are in them, make the digest another.

    Each errs in its own way, in every replay or, where `noise` says so, only now and then.
    """

    def __init__(
        self,
        bad: Sequence[str] = (),
        pairs: Sequence[Group] = (),
        noise: random.Random | None = None,
    ) -> None:
        self.bad, self.pairs, self.noise = bad, pairs, noise
        self.asked: list[tuple[Group, ...]] = []

    def __call__(self, groups: Sequence[Group]) -> list[str | None]:
        self.asked.append(tuple(groups))
        assert len({len(group) for group in groups}) == 1, "only equal sizes can be compared"
        assert len({host for group in groups for host in group}) == sum(map(len, groups))
        return [self.digest(group) for group in groups]

    def digest(self, group: Group) -> str:
        found = [host for host in group if host in self.bad and self.errs()]
        found += [" ".join(pair) for pair in self.pairs if {*pair} <= {*group} and self.errs()]
        wrong = [f"{name}#{len(self.asked)}" if self.noise else name for name in found]
        return f"{len(group)}: {wrong}"

    def errs(self) -> bool:
        return self.noise is None or self.noise.random() < 0.5


def names(verdict: Verdict) -> tuple[Group, tuple[Group, ...], Group]:
    return verdict.bad, verdict.together, verdict.undecided


@given(st.integers(2, 24))
def test_sound_hosts_are_cleared_in_two_rounds_at_most(count: int) -> None:
    replay = Described()
    verdict = bisect(HOSTS[:count], replay)
    assert verdict.clean
    assert len(replay.asked) <= (3 if count % 2 else 2)


@given(st.integers(3, 24).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_one_bad_host_of_three_or_more_is_found_in_log_many_rounds(drawn: tuple[int, int]) -> None:
    count, which = drawn
    replay = Described(bad=[HOSTS[which]])
    verdict = bisect(HOSTS[:count], replay)
    assert names(verdict) == ((HOSTS[which],), (), ())
    assert len(replay.asked) <= count.bit_length()


@given(st.integers(5, 24).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_several_bad_hosts_are_found_while_two_sound_ones_are_left(
    drawn: tuple[int, set[int]],
) -> None:
    count, which = drawn
    bad = [HOSTS[n] for n in sorted(which)]
    verdict = bisect(HOSTS[:count], Described(bad=bad))
    if count - len(bad) >= 2:
        assert verdict.bad == tuple(bad)
        assert verdict.undecided == ()
    else:
        assert verdict.bad == ()
        assert verdict.undecided == HOSTS[:count]


def test_of_two_hosts_that_differ_neither_is_called_bad() -> None:
    verdict = bisect(HOSTS[:2], Described(bad=["n1"]))
    assert names(verdict) == ((), (), ("n0", "n1"))


@given(
    st.integers(4, 24).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.integers(0, n // 2 * 2 - 1), min_size=2, max_size=2, unique=True),
        )
    )
)
def test_hosts_that_are_wrong_only_together_are_never_called_bad(
    drawn: tuple[int, list[int]],
) -> None:
    count, (one, other) = drawn
    pair = (HOSTS[one], HOSTS[other])
    verdict = bisect(HOSTS[:count], Described(pairs=[pair]))
    assert verdict.bad == ()
    assert all({*pair} <= {*group} for group in verdict.together)


@pytest.mark.parametrize("pair", [("n0", "n1"), ("n2", "n3"), ("n0", "n2")])
def test_a_pair_that_is_wrong_together_is_named(pair: Group) -> None:
    verdict = bisect(HOSTS[:4], Described(pairs=[pair]))
    assert names(verdict) == ((), (pair,), ())


@given(
    st.integers(3, 24).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.integers(0, 2**32),
    st.integers(1, 3),
)
def test_a_host_that_errs_now_and_then_never_brings_shame_on_another(
    drawn: tuple[int, int], seed: int, repeats: int
) -> None:
    count, which = drawn
    noisy = HOSTS[which]
    replay = Described(bad=[noisy], noise=random.Random(seed))
    verdict = bisect(HOSTS[:count], replay, repeats)
    assert set(verdict.bad) <= {noisy}
    assert all(noisy in group for group in verdict.together)


def test_a_group_that_contradicts_itself_is_wrong_whatever_the_others_say() -> None:
    said = iter([["x", "y", "x"], ["x", "x", "x"]])
    verdict = bisect(HOSTS[:3], lambda groups: next(said), repeats=2)
    assert names(verdict) == (("n1",), (), ())


def test_a_host_whose_replay_does_not_end_is_bad_and_where_none_ends_nothing_is_decided() -> None:
    verdict = bisect(HOSTS[:3], lambda groups: [None if "n1" in g else "x" for g in groups])
    assert names(verdict) == (("n1",), (), ())
    verdict = bisect(HOSTS[:3], lambda groups: [None] * len(groups))
    assert names(verdict) == ((), (), HOSTS[:3])

"""Which of several hosts computes wrongly, found by replaying one step on groups of them; pure.

Every group of a round has the same size and does the same, so sound ones give the same digest, bit
for bit. A group that gives another is cut into smaller ones, until single hosts are left: a host
that is wrong alone is found so, and a group that is wrong while all its parts are right has its
fault between its hosts. Nothing is believed of a host, only of an agreement: a digest is right when
more groups have it than any other, and two at least. That errs where bad hosts err alike.

Source: the practice is that of large runs, as far as it is published: after a crash or a suspicion
hosts are tested in groups and those that fail are left out (Dixit et al. 2021, arXiv:2102.11245, on
testing whole fleets). The rounds are ours.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

Group = tuple[str, ...]
# Replays the step on every group, all at once; a digest of each, or None where it did not end.
Replay = Callable[[Sequence[Group]], Sequence[str | None]]


@dataclass(frozen=True)
class Round:
    """The groups of one round, disjoint and of one size; what each said in each of its replays.

    `right` is the digest that was believed, None where no two groups agreed more than others.
    """

    groups: tuple[Group, ...]
    said: tuple[tuple[str | None, ...], ...]
    right: str | None

    @property
    def size(self) -> int:
        return len(self.groups[0])

    @property
    def wrong(self) -> tuple[Group, ...]:
        """The groups that said something else than what is right, if only once."""
        pairs = zip(self.groups, self.said, strict=True)
        return tuple(group for group, said in pairs if set(said) != {self.right})


@dataclass(frozen=True)
class Verdict:
    """What the rounds say: hosts that are `bad` alone; groups that were wrong `together`, though
    no part of them was; hosts that are `undecided`, because no two agreed on what is right.

    A group of which a part was not wrong again may also have a host that errs now and then.
    """

    bad: tuple[str, ...]
    together: tuple[Group, ...]
    undecided: tuple[str, ...]
    rounds: tuple[Round, ...]

    @property
    def clean(self) -> bool:
        return not (self.bad or self.together or self.undecided)


def bisect(hosts: Sequence[str], replay: Replay, repeats: int = 1) -> Verdict:
    """Find the bad ones among hosts, each named once, by about log2 of their number in rounds.

    Every group is replayed `repeats` times: one that contradicts itself is wrong. Two hosts at
    least, for there is nothing to compare one with. Where no host is bad alone, the hosts are cut
    once more, across the first groups: a fault between two hosts shows where they meet.
    """
    assert len(set(hosts)) == len(hosts) >= 2, hosts
    suspects, sound = tuple(hosts), ()
    rounds: list[Round] = []
    size = len(hosts) // 2
    while True:
        groups, rest = _groups(suspects, sound, size)
        now = _round(groups, replay, repeats)
        rounds.append(now)
        if now.right is not None:
            doubted = {host for group in now.wrong for host in group}
            cleared = {host for group in groups for host in group} - doubted
            suspects = tuple(host for host in hosts if host in {*doubted, *rest})
            sound = tuple(h for h in hosts if h in {*sound, *cleared} and h not in suspects)
        if size == 1 or not suspects:
            break
        size //= 2
    if rounds[-1].size == 1 and suspects:
        return _verdict(rounds, suspects)
    if rounds[0].size > 1:
        rounds = _crossed(hosts, rounds, replay, repeats)
    return _verdict(rounds, ())


def _groups(suspects: Group, sound: Group, size: int) -> tuple[tuple[Group, ...], Group]:
    """Disjoint groups of one size over the suspects, with two of sound hosts to hold them against.

    What does not fill a group is filled up with sound hosts, or left over for the next round.
    """
    *full, last = _cut(suspects, size)
    spare = size - len(last)
    rest: Group = ()
    if len(sound) >= spare:
        full.append((*last, *sound[:spare]))
        sound = sound[spare:]
    else:
        rest = last
    beside = [group for group in _cut(sound, size) if len(group) == size][:2]
    return (*full, *beside), rest


def _cut(hosts: Group, size: int) -> list[Group]:
    return [hosts[start : start + size] for start in range(0, len(hosts), size)]


def _round(groups: tuple[Group, ...], replay: Replay, repeats: int) -> Round:
    said = tuple(zip(*(replay(groups) for _ in range(repeats)), strict=True))
    return Round(groups, said, _right(said))


def _right(said: Iterable[Sequence[str | None]]) -> str | None:
    """The digest of most groups; None where a tie, or fewer than two, have it."""
    votes = Counter(digest for each in said for digest in set(each) if digest is not None)
    most = votes.most_common(2)
    tied = len(most) == 2 and most[0][1] == most[1][1]
    return most[0][0] if most and most[0][1] >= 2 and not tied else None


def _crossed(
    hosts: Sequence[str], rounds: Sequence[Round], replay: Replay, repeats: int
) -> list[Round]:
    """The rounds with one or two more of the first one's size; together they vote on what is right.

    First with every other host in a group; then, where that is a tie, with halves that begin later.
    """
    first, *others = rounds
    size, shift = first.size, (first.size + 1) // 2
    whole = tuple(hosts[: 2 * size])
    turned = (*whole[shift:], *whole[:shift])
    again: list[Round] = []
    for groups in ((whole[::2], whole[1::2]), (turned[:size], turned[size:])):
        again.append(_round(groups, replay, repeats))
        right = _right([said for each in (first, *again) for said in each.said])
        if right is not None:
            break
    return [*(replace(each, right=right) for each in (first, *again)), *others]


def _verdict(rounds: Sequence[Round], suspects: Group) -> Verdict:
    """What follows from the rounds, where single hosts of the last but `suspects` are sound."""
    by_itself = bool(suspects) and rounds[-1].right is not None
    bad = suspects if by_itself else ()
    undecided = () if by_itself else suspects
    if not suspects and rounds[0].right is None:
        # No two groups agreed, and no host is known to be wrong.
        undecided = tuple(dict.fromkeys(host for group in rounds[0].groups for host in group))
    wrong = [group for each in rounds if each.right is not None for group in each.wrong]
    open_ = [group for group in wrong if not {*group} & {*bad, *undecided}]
    smallest = (g for g in dict.fromkeys(open_) if not any({*other} < {*g} for other in open_))
    return Verdict(bad, tuple(smallest), undecided, tuple(rounds))

"""Regular two-level fractional factorials: which combinations stand for all, and what they confuse.

An axis has two levels, its baseline (0) and the other (1). The first axes are combined in full;
each other axis follows as the sum, modulo 2, of those that its generator names: so the baseline of
all axes is always among the runs. Axes are letters, in the order of the study: A, B, C, ...
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHJKL"
# (axes, resolution asked for) -> generators of the smallest fraction that has it. Of fractions of
# one size these have minimum aberration: the fewest short words (Fries & Hunter 1980,
# Technometrics 22:601). Source: Montgomery, "Design and Analysis of Experiments", table 8.14.
GENERATORS: Mapping[tuple[int, int], str] = {
    (3, 3): "C=AB",
    (4, 3): "D=ABC",
    (4, 4): "D=ABC",
    (5, 3): "D=AB E=AC",
    (5, 4): "E=ABCD",
    (5, 5): "E=ABCD",
    (6, 3): "D=AB E=AC F=BC",
    (6, 4): "E=ABC F=BCD",
    (6, 5): "F=ABCDE",
    (7, 3): "D=AB E=AC F=BC G=ABC",
    (7, 4): "E=ABC F=BCD G=ACD",
    (7, 5): "G=ABCDEF",
    (8, 3): "E=BCD F=ACD G=ABC H=ABD",
    (8, 4): "E=BCD F=ACD G=ABC H=ABD",
    (8, 5): "G=ABCD H=ABEF",
    (9, 3): "E=ABC F=BCD G=ACD H=ABD J=ABCD",
    (9, 4): "F=BCDE G=ACDE H=ABDE J=ABCE",
    (9, 5): "H=ACDFG J=BCEFG",
    (10, 3): "E=ABC F=BCD G=ACD H=ABD J=ABCD K=AB",
    (10, 4): "F=ABCD G=ABCE H=ABDE J=ACDE K=BCDE",
    (10, 5): "H=ABCG J=BCDE K=ACDF",
    (11, 3): "E=ABC F=BCD G=ACD H=ABD J=ABCD K=AB L=AC",
    (11, 4): "F=ABC G=BCD H=CDE J=ACD K=ADE L=BDE",
    (11, 5): "H=ABCG J=BCDE K=ACDF L=ABCDEFG",
}

Word = frozenset[str]


@dataclass(frozen=True)
class Fraction:
    """A fraction of all combinations of `axes` letters, by its generators."""

    letters: str
    generators: tuple[tuple[str, str], ...]

    def rows(self) -> list[tuple[int, ...]]:
        """The runs: 0 or 1 for every letter, the baseline of all first."""
        basic = self.letters[: len(self.letters) - len(self.generators)]
        found: list[tuple[int, ...]] = []
        for bits in itertools.product((0, 1), repeat=len(basic)):
            row: dict[str, int] = dict(zip(basic, bits, strict=True))
            for letter, word in self.generators:
                row[letter] = sum(row[one] for one in word) % 2
            found.append(tuple(row[letter] for letter in self.letters))
        return found

    def words(self) -> list[Word]:
        """The defining relation: every set of letters that always sum to an even number."""
        made = [frozenset(letter + word) for letter, word in self.generators]
        found: list[Word] = []
        for count in range(1, len(made) + 1):
            for some in itertools.combinations(made, count):
                word: Word = frozenset()
                for one in some:
                    word ^= one
                found.append(word)
        return sorted(found, key=lambda word: (len(word), self.spelt(word)))

    @property
    def resolution(self) -> int | None:
        """The length of the shortest word; None where every combination is run."""
        return min(map(len, self.words()), default=None)

    def confounded(self) -> list[tuple[Word, ...]]:
        """Effects of one axis and of pairs that the runs cannot tell apart, by group."""
        effects = [
            frozenset(some) for n in (1, 2) for some in itertools.combinations(self.letters, n)
        ]
        groups: dict[Word, list[Word]] = {}
        for effect in effects:
            same = [effect, *(effect ^ word for word in self.words())]
            groups.setdefault(min(same, key=lambda w: (len(w), self.spelt(w))), []).append(effect)
        return [tuple(group) for group in groups.values() if len(group) > 1]

    def spelt(self, word: Word) -> str:
        return "".join(letter for letter in self.letters if letter in word)

    def relation(self) -> str:
        """The defining relation as books write it, with -1 the baseline: I = -ABD = BCDE."""
        signed = (("-" if len(word) % 2 else "") + self.spelt(word) for word in self.words())
        return " = ".join(["I", *signed])


def fraction(count: int, resolution: int) -> Fraction:
    """The smallest fraction of so many axes with this resolution; all combinations where none has.

    Raises ValueError for more axes than the table has.
    """
    if count > len(LETTERS):
        raise ValueError(
            f"a fractional design of {count} axes; the table of generators ends at "
            f"{len(LETTERS)}: drop axes, or use a sobol design"
        )
    text = GENERATORS.get((count, resolution), "").split()
    pairs = tuple((letter, word) for letter, _, word in (one.partition("=") for one in text))
    return Fraction(LETTERS[:count], pairs)


def summary(names: Sequence[str], resolution: int) -> str:
    """What a fraction runs and what it confuses, in the names of its axes."""
    found = fraction(len(names), resolution)
    key = dict(zip(found.letters, names, strict=True))
    size = len(found.letters) - len(found.generators)
    if not found.generators:
        return f"all 2^{size} combinations: no fraction of {size} axes has resolution {resolution}"
    letters = ", ".join(f"{letter} {name}" for letter, name in key.items())
    head = (
        f"2^({len(names)}-{len(found.generators)}) = {2**size} combinations, resolution "
        f"{found.resolution}, {found.relation()} ({letters}, -1 the baseline)"
    )
    groups = ("=".join(map(found.spelt, group)) for group in found.confounded())
    return head + (f"; not told apart: {', '.join(groups)}" if found.confounded() else "")

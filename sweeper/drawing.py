"""Points drawn over axes: endless sequences without repeats, the same for the same draw."""

# scipy comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
import random
from collections.abc import Callable, Iterator, Sequence

from sweeper.axes import Axis, Level

# Points made at once; a power of two keeps a Sobol sequence balanced.
BLOCK = 64

Point = dict[str, Level]


def by_chance(axes: Sequence[Axis], draw: int) -> Iterator[Point]:
    """Independent points; each has dice of its own, so another one more changes none."""

    def places() -> Iterator[list[float]]:
        number = 0
        while True:
            dice = random.Random(f"{draw} {number}")
            yield [dice.random() for _ in axes]
            number += 1

    return _distinct(axes, places())


def by_sobol(axes: Sequence[Axis], draw: int) -> Iterator[Point]:
    """A scrambled Sobol sequence (Owen 1998) over the axes."""
    # Here, not at the top: it takes longer to load than most plans to make.
    from scipy.stats import qmc

    def places() -> Iterator[list[float]]:
        sequence = qmc.Sobol(len(axes), scramble=True, rng=draw)
        while True:
            yield from sequence.random(BLOCK).tolist()

    return _distinct(axes, places())


def _distinct(axes: Sequence[Axis], places: Iterator[list[float]]) -> Iterator[Point]:
    seen: set[tuple[Level, ...]] = set()
    for place in places:
        levels = tuple(axis.at(unit) for axis, unit in zip(axes, place, strict=True))
        if levels not in seen:
            seen.add(levels)
            yield dict(zip((axis.path for axis in axes), levels, strict=True))


DRAWS: dict[str, Callable[[Sequence[Axis], int], Iterator[Point]]] = {
    "random": by_chance,
    "sobol": by_sobol,
}

"""The rows of a benchmark: what was to be reached, what was measured."""

import math

import pytest

ROWS = pytest.StashKey[list[str]]()


class Bench:
    """`bench(check, measured, low, high)`: a row of the table of what must be reached."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def __call__(
        self,
        check: str,
        measured: float | None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        value = math.nan if measured is None else float(measured)
        inside = (low is None or low <= value) and (high is None or value <= high)
        bound = " .. ".join("" if end is None else f"{end:.6g}" for end in (low, high))
        word = "" if low is None and high is None else "reached" if inside else "MISSED"
        row = f"{check:<66}{value:>12.6g}   {bound:<22}{word}"
        self.config.stash.setdefault(ROWS, []).append(row)

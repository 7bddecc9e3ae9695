"""Fractional factorials: orthogonal, of the resolution asked for, and of minimum aberration."""

import itertools
import json
from collections import Counter

import polars as pl
import pytest
from test_designs import DECAY, HEADS, SWITCH, study_of

from analysis.ablation.factorial import interactions
from analysis.ablation.levels import ablation_rows, baseline_levels
from sweeper.axes import Axis
from sweeper.designs import expand
from sweeper.fractions import GENERATORS, LETTERS, Fraction, fraction, summary
from sweeper.layouts import Fractional
from sweeper.study import Study


def pattern(found: Fraction) -> list[int]:
    """The word length pattern: how many words of 3, 4, 5, ... letters the relation has."""
    lengths = Counter(map(len, found.words()))
    return [lengths[n] for n in range(3, len(found.letters) + 1)]


@pytest.mark.parametrize(("count", "resolution"), GENERATORS)
def test_a_fraction_has_the_resolution_asked_for(count: int, resolution: int) -> None:
    found = fraction(count, resolution)
    assert found.resolution is not None
    assert found.resolution >= resolution


@pytest.mark.parametrize(("count", "resolution"), GENERATORS)
def test_every_few_axes_have_all_their_combinations_equally_often(
    count: int, resolution: int
) -> None:
    rows = fraction(count, resolution).rows()
    assert rows[0] == (0,) * count
    assert len(set(rows)) == len(rows)
    strength = min(resolution - 1, 3)
    for some in itertools.combinations(range(count), strength):
        counts = Counter(tuple(row[i] for i in some) for row in rows)
        assert set(counts.values()) == {len(rows) // 2**strength}
        assert len(counts) == 2**strength


# Word length patterns of Chen, Sun & Wu 1993, International Statistical Review 61:131, for the
# fractions of 16 and 32 runs with minimum aberration: words of 3, 4, 5, ... letters.
PUBLISHED = {
    (5, 4): [0, 0, 1],
    (6, 4): [0, 3, 0, 0],
    (7, 4): [0, 7, 0, 0, 0],
    (8, 4): [0, 14, 0, 0, 0, 1],
    (9, 3): [4, 14, 8, 0, 4, 1, 0],
    (9, 4): [0, 6, 8, 0, 0, 1, 0],
    (10, 3): [8, 18, 16, 8, 8, 5, 0, 0],
    (10, 4): [0, 10, 16, 0, 0, 5, 0, 0],
    (11, 4): [0, 25, 0, 27, 0, 10, 0, 1, 0],
}


@pytest.mark.parametrize(("asked", "words"), PUBLISHED.items())
def test_word_length_patterns_are_the_published_ones(
    asked: tuple[int, int], words: list[int]
) -> None:
    assert pattern(fraction(*asked)) == words


@pytest.mark.parametrize("asked", [key for key in GENERATORS if key[0] <= 8])
def test_no_fraction_of_the_same_size_has_less_aberration(asked: tuple[int, int]) -> None:
    found = fraction(*asked)
    added = [letter for letter, _ in found.generators]
    basic = found.letters[: -len(added)]
    columns = [
        "".join(some) for n in range(2, len(basic) + 1) for some in itertools.combinations(basic, n)
    ]
    if len(basic) > 6:
        columns = [word for word in columns if len(word) >= 4]
    best = min(
        pattern(Fraction(found.letters, tuple(zip(added, some, strict=True))))
        for some in itertools.combinations(columns, len(added))
    )
    assert pattern(found) == best


@pytest.mark.parametrize(("count", "resolution"), GENERATORS)
def test_no_smaller_fraction_has_the_resolution(count: int, resolution: int) -> None:
    runs = len(fraction(count, resolution).rows())
    # Most axes for the runs: Box & Hunter 1961, Technometrics 3:311 and 3:449.
    most = {3: {4: 3, 8: 7, 16: 15}, 4: {8: 4, 16: 8, 32: 16}, 5: {16: 5, 32: 6, 64: 8, 128: 11}}
    assert most[resolution][runs] >= count
    assert all(most[resolution][fewer] < count for fewer in most[resolution] if fewer < runs)


def test_the_relation_and_what_is_confused_are_said() -> None:
    names = ["position", "norm", "activation"]
    assert summary(names, 3) == (
        "2^(3-1) = 4 combinations, resolution 3, I = -ABC (A position, B norm, C activation, "
        "-1 the baseline); not told apart: A=BC, B=AC, C=AB"
    )
    assert summary(names, 5).startswith("all 2^3 combinations: no fraction of 3 axes has")
    assert "I = ABCD" in summary([*names, "rate"], 4)
    assert "not told apart: AB=CD, AC=BD, AD=BC" in summary([*names, "rate"], 4)
    assert "not told apart" not in summary([*names, "rate", "decay"], 5)


def test_more_axes_than_the_table_has_are_refused() -> None:
    with pytest.raises(ValueError, match="12 axes; the table of generators ends at 11"):
        fraction(len(LETTERS) + 1, 4)


RATE = Axis(name="rate", path="lr.scale", levels=(1.0, 2.0))
CLIP = Axis(name="clip", path="optim.gradient_clipping", levels=(1.0, 0.5))


def analysed(study: Study) -> dict[tuple[str, str], float | None]:
    """What the analysis says of runs whose loss is 3 + 0.1 gelu + 0.2 rate + 0.08 gelu rate."""
    rows: list[dict[str, object]] = []
    for p in expand(study):
        gelu, rate = p.trial.values["activation"] == "gelu", p.trial.values["rate"] == 2.0
        loss = 3 + 0.1 * gelu + 0.2 * rate + 0.08 * gelu * rate + p.trial.seed / 100
        kept = {"run_id": p.run_id, "design": p.trial.design, "budget": p.trial.budget}
        values = json.dumps(dict(p.trial.values))
        rows.append(kept | {"seed": p.trial.seed, "state": "DONE", "loss": loss, "values": values})
    found = ablation_rows(pl.DataFrame(rows), baseline_levels(study.model_dump(mode="json")))
    return {(e.axis, e.level): e.difference for e in interactions(found)}


def test_the_analysis_tells_what_the_resolution_lets_it() -> None:
    axes = (SWITCH, RATE, CLIP, DECAY, HEADS)
    design = Fractional(resolution=5, budgets=(1e13,), seeds=(0, 1))
    clear = analysed(study_of(design, axes=axes))
    assert clear["activation", "gelu"] == pytest.approx(0.14)
    assert clear["rate", "2.0"] == pytest.approx(0.24)
    assert clear["activation x rate", "gelu x 2.0"] == pytest.approx(0.08)
    assert None not in clear.values()
    confused = analysed(
        study_of(Fractional(resolution=4, budgets=(1e13,)), axes=(SWITCH, RATE, CLIP, DECAY))
    )
    assert confused["activation", "gelu"] == pytest.approx(0.14)
    assert confused["activation x rate", "gelu x 2.0"] is None

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from sweeper.overrides import nearest, parse_override, value_at, with_values
from sweeper.recipe import Recipe
from sweeper.study import IsoFLOP, OneAtATime, Study


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1e12", 1e12),
        ("a.b=(1, 2)", (1, 2)),
        ("a.b=hold", "hold"),
        ("a.b='hold'", "hold"),
        ("a.b=", ""),
        ("a.b=x=y", "x=y"),
        ("a.b=None", None),
    ],
)
def test_a_value_is_a_literal_or_else_a_string(text: str, value: Any) -> None:
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["", "nothing", "=3", "  =3"])
def test_what_is_not_path_equals_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not path=value; write for instance"):
        parse_override(text)


@given(st.text(alphabet=st.characters(exclude_characters="=")), st.text())
def test_any_text_after_the_first_equals_sign_is_a_value(path: str, value: str) -> None:
    assume(path.strip())
    assert parse_override(f"{path}={value}")[0] == path.strip()


@given(st.text(alphabet=st.characters(exclude_characters="=")))
def test_any_text_without_an_equals_sign_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not path=value"):
        parse_override(text)


def test_an_override_reaches_into_designs_by_position(study: Study) -> None:
    changed = with_values(study, {"designs.0.spread": 2.5, "designs.1.seeds": (4, 5)})
    ladder, ablation = changed.designs
    assert isinstance(ladder, IsoFLOP)
    assert isinstance(ablation, OneAtATime)
    assert (ladder.spread, ablation.seeds) == (2.5, (4, 5))


def test_an_override_changes_nothing_else(study: Study) -> None:
    changed = with_values(study, {"base.lr.scale": 2})
    assert changed.base.lr.scale == 2
    assert with_values(changed, {"base.lr.scale": 1.0}) == study


def test_an_override_is_validated_with_the_whole_study(study: Study) -> None:
    with pytest.raises(ValidationError, match="not above the ladder"):
        with_values(study, {"promotion.target": 1e3})


def test_a_mapping_takes_keys_of_the_users_own(study: Study) -> None:
    changed = with_values(study, {"base.data.mixture.code": 2.0})
    assert changed.base.data.mixture == {"code": 2.0}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("bose.lr.scale", "there is no 'bose'; did you mean 'base'"),
        ("designs.9.spread", "'9' is not a position in 0..1"),
        ("designs.first.spread", "'first' is not a position"),
        ("name.first.letter", "nothing lies below 'small'"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_where_it_ends(
    study: Study, path: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        with_values(study, {path: 1})


def test_the_value_at_a_path_is_read(study: Study) -> None:
    assert value_at(study.base, "model.activation") == "swiglu"
    with pytest.raises(ValueError, match="did you mean 'activation'"):
        value_at(study.base, "model.activatoin")


def test_a_word_unlike_all_others_is_answered_with_all_of_them() -> None:
    assert nearest("zzz", ["b", "a"]) == "use one of a, b"
    assert nearest("seqlen", list(Recipe.model_fields)) == "did you mean 'seq_len'?"

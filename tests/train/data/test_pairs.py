"""Instruction and preference pairs from documented functions."""

import ast
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.pairs import Pair, first_sentence, function_pairs, preferences, reordered, unique

RESPONSES = st.lists(st.text("abcdef ", min_size=20, max_size=160), unique=True, max_size=60)


def pairs_of(text: str) -> list[Pair]:
    return list(function_pairs(ast.parse(text), "module.py"))


def test_a_pair_is_the_signature_and_the_first_sentence_of_the_docstring():
    text = (
        "async def fetch(url , *, tries = 3) -> 'bytes':\n"
        '    """Read everything that stands\n    at an address. It may fail.\n\n    More."""\n'
    )
    prompt = "async def fetch(url, *, tries=3) -> 'bytes':"
    assert pairs_of(text) == [
        Pair("module.py", prompt, "Read everything that stands at an address.")
    ]


@pytest.mark.parametrize(
    "text",
    [
        'def _private():\n    """A function that nobody should call."""\n',
        "def undocumented():\n    return 1\n",
        'def terse():\n    """Too short."""\n',
        f'def long():\n    """{"word " * 60}"""\n',
        f'def f({"a" * 200}):\n    """Take something with a long name."""\n',
        'def odd():\n    """Ring the bell \\x07 of the terminal."""\n',
        'class Thing:\n    """A thing that is no function at all."""\n',
    ],
)
def test_functions_that_make_no_good_pair_are_left_out(text: str):
    assert pairs_of(text) == []


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One. Two.", "One."),
        ("No full stop\n\nSecond paragraph.", "No full stop"),
        ("Version 1.5 of it. Next.", "Version 1.5 of it."),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_at_its_stop_or_with_its_paragraph(docstring: str, sentence: str):
    assert first_sentence(docstring) == sentence


def test_no_two_unique_pairs_share_a_prompt_or_a_response():
    pairs = [Pair("m", p, r) for p, r in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]]
    kept = unique([*pairs, Pair("m", "c", "z")])
    assert [(p.prompt, p.response) for p in kept] == [("a", "x"), ("c", "z")]


@given(RESPONSES)
def test_a_rejected_response_has_the_words_of_the_chosen_in_another_order(responses: list[str]):
    pairs = [Pair("m", f"def f{n}():", response) for n, response in enumerate(responses)]
    for made in preferences(pairs):
        assert made.rejected.split() != made.chosen.split()
        assert Counter(made.rejected.split()) == Counter(made.chosen.split())


def test_a_response_that_has_no_other_order_gives_no_preference():
    assert preferences([Pair("m", "def f():", "again again"), Pair("m", "def g():", "Once.")]) == []


def test_preferences_are_the_same_in_every_process():
    # Written down once: an order that came from the hash seed of the process would differ.
    assert reordered("Return the area of the rectangle.") == "area the rectangle. the Return of"

"""Instruction and preference pairs made from Python functions and their docstrings."""

import ast
import inspect
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from train.data.python_source import docstring_node

MAX_PROMPT_CHARS = 160
RESPONSE_CHARS = range(20, 161)
_SENTENCE = re.compile(r".+?[.!?](?=\s|$)")


@dataclass(frozen=True)
class Pair:
    """A function's signature, the first sentence of its docstring, and the file it came from."""

    name: str
    prompt: str
    response: str


@dataclass(frozen=True)
class Preference:
    """A signature with its own docstring, preferred to that of another function."""

    prompt: str
    chosen: str
    rejected: str


def function_pairs(module: ast.Module, name: str) -> Iterator[Pair]:
    """Pairs of the public functions of a syntax tree whose prompt and response are in bounds."""
    for node in ast.walk(module):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
            continue
        docstring = docstring_node(node)
        response = first_sentence(str(docstring.value)) if docstring else ""
        if len(response) not in RESPONSE_CHARS or not response.isprintable():
            continue
        prompt = signature(node)
        if len(prompt) <= MAX_PROMPT_CHARS and prompt.isprintable():
            yield Pair(name, prompt, response)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The `def` line of a function in the one spelling that `ast.unparse` gives."""
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {node.name}({ast.unparse(node.args)}){returns}:"


def first_sentence(docstring: str) -> str:
    """First sentence of the first paragraph of a docstring, on one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    sentence = _SENTENCE.match(paragraph)
    return sentence.group() if sentence else paragraph


def unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Pairs of which no two share a prompt or a response: the first of each stays.

    Across splits this keeps every held-out answer out of training.
    """
    kept: list[Pair] = []
    prompts: set[str] = set()
    responses: set[str] = set()
    for pair in pairs:
        if pair.prompt not in prompts and pair.response not in responses:
            kept.append(pair)
        prompts.add(pair.prompt)
        responses.add(pair.response)
    return kept


def preferences(pairs: Sequence[Pair]) -> list[Preference]:
    """For each pair, its own response against the same words in another order.

    Both sides have the same words and length, so only word order can tell them apart: something
    that a model of 1e5 parameters can learn, where relevance is beyond it (ours, measured). The
    order follows from the response alone. A response without two different words has no other
    order and gives nothing.
    """
    return [
        Preference(pair.prompt, pair.response, other)
        for pair in pairs
        if (other := reordered(pair.response)) is not None
    ]


def reordered(response: str) -> str | None:
    """The words of a response in another order, or None where there is no other."""
    words = response.split()
    if len(set(words)) < 2:
        return None
    rng = random.Random(response)
    shuffled = list(words)
    while shuffled == words:
        rng.shuffle(shuffled)
    return " ".join(shuffled)

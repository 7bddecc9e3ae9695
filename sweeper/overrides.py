"""Values set by dotted path: the overrides of the command line and the levels of an axis.

Dump, set, validate: `model_copy(update=...)` would not validate.
"""

import ast
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)


def nearest(word: str, known: Sequence[str]) -> str:
    """The way out of a misspelt name: its nearest neighbour, or all that there are."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(sorted(known))}"


def parse_override(text: str) -> tuple[str, Any]:
    """`path=value` as (path, value); the value is a Python literal, or else a string.

    Raises ValueError where there is no `=` or no path.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ValueError(f"{text!r} is not path=value; write for instance base.lr.scale=2")
    try:
        return path.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return path.strip(), value.strip()


def value_at(model: BaseModel, path: str) -> Any:
    """The value at a dotted path. Raises ValueError with the nearest field where there is none."""
    place: Any = model.model_dump()
    for key in path.split("."):
        place = place[_key(place, key, path)]
    return place


def with_values(model: M, values: Mapping[str, Any]) -> M:
    """A validated copy of a model with the values at these dotted paths.

    Raises ValueError for a path that does not exist or a value that the model refuses.
    """
    content: Any = model.model_dump()
    for path, value in values.items():
        content = _set(content, path.split("."), value, path)
    return type(model).model_validate(content)


def _set(place: Any, keys: list[str], value: Any, path: str) -> Any:
    """The place with a value below it: its dicts are changed, its tuples become lists."""
    first, *rest = keys
    content: Any = list(cast("tuple[Any, ...]", place)) if isinstance(place, tuple) else place
    # A new key of a dict is the model's to refuse: a mapping of sources may take it.
    key = first if isinstance(place, dict) and not rest else _key(content, first, path)
    content[key] = _set(content[key], rest, value, path) if rest else value
    return content


def _key(place: Any, key: str, path: str) -> str | int:
    """The key as the place takes it: a field's name, or a position."""
    if isinstance(place, dict):
        fields = list(cast("dict[str, Any]", place))
        if key not in fields:
            raise ValueError(f"{path}: there is no {key!r}; {nearest(key, fields)}")
        return key
    if isinstance(place, list | tuple):
        count = len(cast("Sequence[Any]", place))
        if not key.isdigit() or int(key) >= count:
            raise ValueError(f"{path}: {key!r} is not a position in 0..{count - 1}")
        return int(key)
    raise ValueError(f"{path}: nothing lies below {place!r}; shorten the path before {key!r}")

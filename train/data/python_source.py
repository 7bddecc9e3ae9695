"""Python source taken apart: code without comments, and the prose that stood in it."""

import ast
import inspect
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass

MIN_PROSE_CHARS = 200
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){3,}")
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Separated:
    """The code alone, and every docstring or comment block of at least MIN_PROSE_CHARS."""

    code: str
    prose: tuple[str, ...]


def parse(text: str) -> ast.Module | None:
    """Syntax tree of Python text, or None where it is not Python of this version."""
    with warnings.catch_warnings():
        # Invalid escapes in other people's strings are no concern of the reader.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def separate(text: str, module: ast.Module) -> Separated:
    """Take docstrings and comments out of Python text; the code parses to the same tree.

    `text` must have \\n newlines, as `module` was parsed from it.
    """
    # The tree counts columns in UTF-8 bytes.
    lines = text.encode().split(b"\n")
    docstrings, spans = _strings(module)
    removed = _remove_docstrings(lines, docstrings)
    code, comments = _remove_comments(lines, spans, removed)
    prose = [inspect.cleandoc(str(node.value)) for _, node in docstrings] + comments
    return Separated(
        code=_BLANK_LINES.sub("\n\n\n", b"\n".join(code).decode()),
        prose=tuple(text for text in prose if len(text) >= MIN_PROSE_CHARS),
    )


def docstring_node(node: ast.AST) -> ast.Constant | None:
    """The constant that is the docstring of a module, class or function."""
    if isinstance(node, Documented) and node.body and isinstance(node.body[0], ast.Expr):
        value = node.body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value
    return None


def _strings(
    module: ast.Module,
) -> tuple[list[tuple[Documented, ast.Constant]], dict[int, list[tuple[int, int]]]]:
    """Docstrings with their owners, and by line the columns that lie inside a string."""
    docstrings = []
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
        ):
            last = node.end_lineno or node.lineno
            for line in range(node.lineno, last + 1):
                start = node.col_offset if line == node.lineno else 0
                end = node.end_col_offset if line == last else None
                spans[line].append((start, 1 << 60 if end is None else end))
        elif isinstance(node, Documented) and (found := docstring_node(node)):
            docstrings.append((node, found))
    return docstrings, spans


def _remove_docstrings(
    lines: list[bytes], docstrings: list[tuple[Documented, ast.Constant]]
) -> dict[int, bytes | None]:
    """What stands in place of each docstring line: nothing, or `pass` in a body left empty."""
    removed: dict[int, bytes | None] = {}
    for owner, node in docstrings:
        first, last = node.lineno, node.end_lineno or node.lineno
        before = lines[first - 1][: node.col_offset]
        after = lines[last - 1][node.end_col_offset :].strip()
        if before.strip() or (after and not after.startswith(b"#")):
            continue  # it shares its lines with code, which must stay
        removed.update(dict.fromkeys(range(first, last + 1)))
        if len(owner.body) == 1 and not isinstance(owner, ast.Module):
            removed[first] = before + b"pass"
    return removed


def _comment_start(line: bytes, spans: list[tuple[int, int]]) -> int:
    """Column of the first # outside a string, or -1."""
    at = line.find(b"#")
    while at >= 0 and any(start <= at < end for start, end in spans):
        at = line.find(b"#", at + 1)
    return at


def _remove_comments(
    lines: list[bytes], spans: dict[int, list[tuple[int, int]]], removed: dict[int, bytes | None]
) -> tuple[list[bytes], list[str]]:
    """Code lines without comments, and each run of whole-line comments as one text."""
    code: list[bytes] = []
    comments: list[list[str]] = [[]]
    for number, line in enumerate(lines, 1):
        replacement = removed.get(number, line)
        if replacement is None:
            continue
        at = -1 if number in removed else _comment_start(line, spans.get(number, []))
        if at >= 0 and not line[:at].strip():
            comments[-1].append(line[at:].decode().lstrip("#").strip())
            continue
        if comments[-1]:
            comments.append([])
        code.append(replacement if at < 0 else line[:at].rstrip())
    return code, ["\n".join(block).strip() for block in comments]

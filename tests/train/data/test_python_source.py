"""Python source taken apart into code and prose."""

import ast
import sysconfig
from pathlib import Path

import pytest

from train.data.python_source import docstring_node, parse, separate

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
MODULES = sorted(path.name for path in STANDARD_LIBRARY.glob("*.py"))[::3]


def without_docstrings(module: ast.Module) -> str:
    """The tree as text, with `pass` where a docstring was all there was."""
    for node in ast.walk(module):
        if docstring_node(node):
            rest = node.body[1:]  # pyright: ignore[reportAttributeAccessIssue]
            node.body = rest or ([] if isinstance(node, ast.Module) else [ast.Pass()])  # pyright: ignore[reportAttributeAccessIssue]
    return ast.dump(module)


@pytest.mark.parametrize("name", MODULES)
def test_code_without_its_comments_parses_to_the_same_tree(name: str):
    text = (STANDARD_LIBRARY / name).read_text(encoding="utf-8")
    module = parse(text)
    assert module is not None
    code = separate(text, module).code
    assert without_docstrings(ast.parse(code)) == without_docstrings(ast.parse(text))


def test_comments_and_docstrings_leave_the_code():
    text = (
        '"""About this module."""\n'
        "# a line of comment\n"
        "def f(x):  # what it does\n"
        '    """Say what."""\n'
        '    return "# no comment" + f"#{x}" + \'\'\'\n'
        "# inside a string\n"
        "'''\n"
    )
    code = separate(text, ast.parse(text)).code
    expected = "def f(x):\n    return \"# no comment\" + f\"#{x}\" + '''\n# inside a string\n'''\n"
    assert code == expected


def test_a_body_that_was_only_a_docstring_gets_a_pass():
    text = 'class Empty:\n    """Nothing but words."""\n'
    assert separate(text, ast.parse(text)).code == "class Empty:\n    pass\n"


def test_a_docstring_that_shares_its_line_with_code_stays():
    text = 'def f(): "words"; return 1\n'
    assert separate(text, ast.parse(text)).code == text


def test_columns_are_counted_in_bytes():
    text = 'x = "äöü", 1  # ein Wort\n'
    assert separate(text, ast.parse(text)).code == 'x = "äöü", 1\n'


def test_long_docstrings_and_comment_blocks_are_prose_and_short_ones_are_not():
    words = "many words that explain something at length\n"
    text = (
        'def f():\n    """' + f"{words}    " * 6 + '"""\n\n'
        'def g():\n    """Short."""\n\n' + f"# {words}" * 6 + "x = 1\n# short\n"
    )
    prose = separate(text, ast.parse(text)).prose
    assert prose == ((words * 6).strip(),) * 2


@pytest.mark.parametrize("text", ["print 'python 2'", "x = \x00", "(" * 10_000, "def f(:"])
def test_text_that_is_not_python_has_no_tree(text: str):
    assert parse(text) is None

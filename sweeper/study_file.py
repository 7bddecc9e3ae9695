"""Study files: loaded, overridden and validated; every mistake is one message with its line."""

import os
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sweeper import recipe, study
from sweeper.errors import UserError, shortened
from sweeper.overrides import nearest, parse_override, with_values
from sweeper.study import Study
from train import config

DECLARATIONS: dict[str, type[BaseModel]] = {
    name: value
    for module in (config, recipe, study)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, BaseModel)
}


def load(path: Path, overrides: Sequence[str] = ()) -> Study:
    """The study of a file with `path=value` overrides applied.

    Raises UserError naming file, line where known, field, rule and way out; writes nothing.
    """
    found = _execute(path).get("STUDY")
    if not isinstance(found, Study):
        raise UserError(
            f"{path}: defines no STUDY; end the file with STUDY = Study(name=..., ...)"
            if found is None
            else f"{path}: STUDY is a {type(found).__name__}, not a Study; write STUDY = Study(...)"
        )
    try:
        return with_values(found, dict(parse_override(text) for text in overrides))
    except ValueError as error:
        said = " ".join(overrides)
        said = said if len(said) <= 200 else f"{said[:197]}..."
        raise UserError(f"override {said}: {explain(error)}") from error


def _execute(path: Path) -> dict[str, Any]:
    # os.path, because a Path raises for a name that no file can have.
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(
            f"{str(path)[:200]}: {what}; give the path of a study file such as studies/tiny.py"
        )
    try:
        return runpy.run_path(str(path))
    except KeyboardInterrupt:
        raise
    # A study file is the user's program: whatever it raises is said with its line.
    except BaseException as error:
        raise UserError(f"{_where(path, error)}: {explain(error)}") from error


def _where(path: Path, error: BaseException) -> str:
    """`file:line` of the last line of the study file that was being run, and the line itself."""
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(path):
        return f"{path}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if frame.filename == str(path)]
    return f"{path}:{lines[-1].lineno}" if lines else str(path)


def explain(error: BaseException) -> str:
    """An error in a user's words: fields by their dotted names, the nearest for a misspelt one."""
    if isinstance(error, ValidationError):
        return "\n  ".join(_explain_field(error, dict(detail)) for detail in error.errors())
    if isinstance(error, SyntaxError):
        line = (error.text or "").strip()
        said = line if len(line) <= 100 else f"{line[:97]}..."
        return f"syntax error: {error.msg}" + (f": {said}" if said else "")
    if isinstance(error, OverflowError):
        return f"a number is too large to compute with ({error}); lower it"
    if isinstance(error, ValueError):
        return _text(error)
    return f"{type(error).__name__}: {_text(error)}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    # The class of an error may be the user's own.
    except Exception:
        return "an error without words"


def _explain_field(error: ValidationError, detail: dict[str, Any]) -> str:
    location: tuple[int | str, ...] = detail["loc"]
    field = ".".join(map(str, location))
    if detail["type"] == "extra_forbidden":
        return f"{field}: unknown field; {_known(error.title, location)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{field}: is missing from {error.title}(...)"
    if detail["type"] == "value_error":
        return f"{field}: {message}" if field else message
    return f"{field}: {shortened(detail['input'])} is not legal: {message}"


def _known(title: str, location: tuple[int | str, ...]) -> str:
    """The field that a refused one may have been."""
    word = str(location[-1])
    if len(location) == 1 and title in DECLARATIONS:
        return nearest(word, list(DECLARATIONS[title].model_fields))
    every = {name for model in DECLARATIONS.values() for name in model.model_fields}
    return nearest(word, sorted(every))

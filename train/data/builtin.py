"""The built-in corpus: the text of this project's own pinned wheels.

Every wheel lists its files with their sha256 in RECORD: the digest of the corpus is known without
reading it, and the same versions give the same text on every machine. (Another build of a wheel,
such as a CUDA torch, may differ in generated files: then the digest differs too.)
"""

import base64
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from train.data.documents import VERSION as DOCUMENTS_VERSION
from train.data.documents import Intake, unix_newlines
from train.data.pairs import Pair, function_pairs
from train.data.python_source import parse, separate

VERSION = "builtin-1"
PACKAGES = (
    "torch",
    "sympy",
    "networkx",
    "mpmath",
    "scipy",
    "numpy",
    "deepspeed",
    "sqlalchemy",
    "optuna",
)
SOURCES = ("code", "cpp", "prose", "tests")
# Longer files are mostly tables and generated code, and one of them would fill a validation split.
MAX_FILE_BYTES = 100_000
CPP_SUFFIXES = frozenset(".h .hpp .hh .cuh .c .cc .cpp .cxx .cu".split())
PROSE_SUFFIXES = frozenset(".md .rst".split())
# 7,048 headers from a few templates: near duplicates, and each build of torch has its own set.
GENERATED_FOLDER = "torch/include/ATen/ops/"
# Written while a wheel is built, with what the building machine had.
BUILD_FILES = frozenset({"deepspeed/git_version_info_installed.py", "torch/version.py"})


@dataclass(frozen=True)
class Entry:
    """One file of a wheel."""

    sha256: str
    name: str
    kind: str
    root: Path


def entries() -> list[Entry]:
    """The text files of the installed wheels, in content-hash order: that mixes the packages.

    Raises ValueError where a package, or its RECORD, is missing.
    """
    found = (entry for package in PACKAGES for entry in _package_entries(package))
    return sorted(found, key=lambda entry: (entry.sha256, entry.name))


def digest(found: Iterable[Entry]) -> str:
    """Hash over the names and the recorded hashes of the files; nothing is read.

    The version of Python is part of it: its parser decides what is code and what prose.
    """
    python = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    whole = hashlib.sha256(f"{VERSION} {DOCUMENTS_VERSION} {python}\n".encode())
    for entry in found:
        whole.update(f"{entry.sha256} {entry.name}\n".encode())
    return whole.hexdigest()


def read(intake: Intake) -> list[Pair]:
    """Fill the sources code, cpp, prose and tests, reading no more files than that takes.

    A Python file gives its code to `code` and its docstrings and comment blocks to `prose`; the
    pairs of all Python files read are returned.
    """
    pairs: list[Pair] = []
    for entry in entries():
        if all(intake.full(source) for source in SOURCES):
            break
        sources = ("code", "prose") if entry.kind == "python" else (entry.kind,)
        if all(intake.full(source) for source in sources):
            continue
        text = _read_entry(entry, intake)
        if text is None:
            continue
        if entry.kind == "python":
            pairs += _take_python(entry.name, text, intake)
        else:
            intake.offer(entry.kind, entry.name, text)
    return pairs


def _take_python(name: str, text: str, intake: Intake) -> list[Pair]:
    module = parse(text)
    if module is None:
        intake.tally.dropped["not Python of this version"] += 1
        return []
    parts = separate(text, module)
    intake.offer("code", name, parts.code)
    for prose in parts.prose:
        intake.offer("prose", name, prose)
    return list(function_pairs(module, name))


def _read_entry(entry: Entry, intake: Intake) -> str | None:
    """Text of a file with \\n newlines, or None where it is not what was installed."""
    try:
        raw = (entry.root / entry.name).read_bytes()
    except OSError:
        intake.tally.dropped["unreadable"] += 1
        return None
    found = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    if found != entry.sha256:
        intake.tally.dropped["changed since it was installed"] += 1
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        intake.tally.dropped["not UTF-8"] += 1
        return None
    return unix_newlines(text, intake.tally.changed)


def _package_entries(package: str) -> Iterable[Entry]:
    installed = _installed(package)
    root = Path(str(installed.locate_file("")))
    for line in (installed.read_text("RECORD") or "").splitlines():
        name, _, rest = line.partition(",sha256=")
        sha256, _, size = rest.partition(",")
        kind = _kind(name)
        generated = name in BUILD_FILES or name.startswith(GENERATED_FOLDER)
        if sha256 and kind and not generated and int(size) <= MAX_FILE_BYTES:
            yield Entry(sha256, name, kind, root)


def _installed(package: str) -> Distribution:
    advice = "install this project's pinned dependencies, or name a folder of text as corpus"
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise ValueError(f"corpus='builtin' needs {package!r}, not installed; {advice}") from None
    if not installed.read_text("RECORD"):
        raise ValueError(
            f"corpus='builtin' needs the RECORD of {package!r}, but it was not installed from a"
            f" wheel; {advice}"
        )
    return installed


def _kind(name: str) -> str | None:
    """What a file of a wheel is: a source, `python`, or None where it is not text for training."""
    folder, _, base = name.rpartition("/")
    suffix = base[base.rfind(".") :]
    if name.startswith("../") or ".dist-info" in folder:
        return None
    if suffix in CPP_SUFFIXES:
        return "cpp"
    if suffix in PROSE_SUFFIXES:
        return "prose"
    if suffix != ".py":
        return None
    tests = {"test", "tests"}.intersection(folder.split("/"))
    named = base.startswith("test_") or base.endswith("_test.py") or base == "conftest.py"
    return "tests" if tests or named else "python"

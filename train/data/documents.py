"""Documents: what they are, how they are cleaned and counted, and how a folder of text is read."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

# Part of every digest: a change in what is read or how it is cleaned makes new data.
VERSION = "documents-1"
MIN_CHARS = 32
PIECE_CHARS = 16_000
TOP_SOURCE = "text"
TEXT_SUFFIXES = frozenset(
    ".txt .text .md .rst .tex .py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .js .ts"
    " .go .rs .rb .sh .sql .r .jl .scala .lua .html".split()
)
JSONL_SUFFIX = ".jsonl"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")


@dataclass(frozen=True)
class Document:
    """A text of one source; documents of one `name` stand in the same split."""

    source: str
    name: str
    text: str


@dataclass(frozen=True)
class Tally:
    """How many files, lines or documents were dropped or changed, by reason."""

    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


def content_hash(text: str) -> bytes:
    """16 bytes that identify a text: the key of exact deduplication and of the document order."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def clean(text: str, changed: Counter[str]) -> str:
    """Text with \\n newlines, no control characters and no trailing whitespace; counts changes."""
    lined = unix_newlines(text, changed)
    printable = _CONTROL.sub("", lined)
    changed["control characters"] += printable != lined
    trimmed = "\n".join(line.rstrip(" \t") for line in printable.split("\n")).strip("\n")
    changed["trailing whitespace"] += trimmed != printable.strip("\n")
    return trimmed


def unix_newlines(text: str, changed: Counter[str]) -> str:
    lined = text.replace("\r\n", "\n").replace("\r", "\n")
    changed["newlines"] += lined != text
    return lined


class Intake:
    """Takes documents, cleaned and without exact duplicates, until each source holds its bytes."""

    def __init__(self, bytes_per_source: int) -> None:
        self.limit = bytes_per_source
        self.documents: list[Document] = []
        self.bytes: Counter[str] = Counter()
        self.tally = Tally()
        self._seen: set[bytes] = set()

    def full(self, source: str) -> bool:
        return self.bytes[source] >= self.limit

    def offer(self, source: str, name: str, text: str) -> None:
        """Keep a text, or count why not; a full source takes no more."""
        reason = "source already full" if self.full(source) else self._keep(source, name, text)
        if reason:
            self.tally.dropped[reason] += 1

    def _keep(self, source: str, name: str, text: str) -> str | None:
        text = clean(text, self.tally.changed)
        if len(text) < MIN_CHARS:
            return f"shorter than {MIN_CHARS} characters"
        try:
            key = content_hash(text)
        except UnicodeEncodeError:  # JSON and Python escapes can spell half of a surrogate pair
            return "not UTF-8"
        if key in self._seen:
            return "exact duplicate"
        self._seen.add(key)
        self.bytes[source] += len(text.encode())
        self.documents.append(Document(source, name, text))
        return None


def open_file(path: Path) -> BufferedReader | None:
    """A file opened for reading, or None: absent, forbidden, or a pipe that would wait for ever."""
    try:
        return path.open("rb") if path.is_file() else None
    except OSError:
        return None


def read_text(path: Path, dropped: Counter[str]) -> str | None:
    """Text of a file, or None with the reason counted: unreadable, binary or not UTF-8."""
    file = open_file(path)
    if file is None:
        dropped["unreadable"] += 1
        return None
    with file:
        raw = file.read()
    if b"\x00" in raw:
        dropped["binary"] += 1
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        dropped["not UTF-8"] += 1
        return None


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at line ends (a longer line at spaces), so that a book can be split in two.

    Every piece has at most PIECE_CHARS characters; joined they are the text.
    """
    start = 0
    while len(text) - start > PIECE_CHARS:
        end = start + PIECE_CHARS
        cut = text.rfind("\n", start, end)
        if cut < 0:
            cut = text.rfind(" ", start, end)
        end = cut + 1 if cut >= 0 else end
        yield text[start:end]
        start = end
    yield text[start:]


def text_files(folder: Path) -> tuple[list[Path], int]:
    """Relative paths of the files of a known suffix, sorted, and the number of other files.

    Hidden files and folders are passed over, links to folders followed. Raises ValueError for a
    folder that is missing, cannot be listed, or holds no file of a known suffix.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"corpus={str(folder)!r} {what}; name a folder of text, or 'builtin'")
    found: list[Path] = []
    others = 0
    walked: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        walked.add(os.path.realpath(root))
        folders[:] = [
            name
            for name in sorted(folders)
            if name[0] != "." and os.path.realpath(os.path.join(root, name)) not in walked
        ]
        for name in files:
            known = Path(name).suffix.lower() in TEXT_SUFFIXES | {JSONL_SUFFIX}
            if known and name[0] != ".":
                found.append((Path(root) / name).relative_to(folder))
            else:
                others += 1
    if not found:
        raise ValueError(
            f"corpus={str(folder)!r} holds no text ({others} other files); put .txt, .md, .py or"
            " other source files there, or .jsonl with a 'text' field"
        )
    return sorted(found, key=os.fsencode), others


def _refuse(error: OSError) -> None:
    raise ValueError(
        f"corpus folder {error.filename!r} cannot be listed ({error.strerror}); make it readable or"
        " move it away"
    ) from error


def source_of(path: Path) -> str:
    """Source of a relative path: its first folder, or `text` at the top."""
    first = path.parts[0] if len(path.parts) > 1 else TOP_SOURCE
    return os.fsencode(first).decode("utf-8", "replace")


def folder_digest(folder: Path) -> str:
    """Hash over names and content of the text files of a folder."""
    whole = hashlib.sha256(VERSION.encode())
    for path in text_files(folder)[0]:
        whole.update(os.fsencode(path) + b"\0")
        file = open_file(folder / path)
        if file is not None:
            with file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def jsonl_texts(path: Path, dropped: Counter[str]) -> Iterator[str]:
    """Field `text` of each line of a .jsonl file; lines without one are counted by reason."""
    file = open_file(path)
    if file is None:
        dropped["unreadable"] += 1
        return
    with file:
        for line in file:
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                dropped["not UTF-8"] += 1
            except (ValueError, RecursionError):
                dropped["line is not JSON"] += 1
            else:
                text = record.get("text") if isinstance(record, dict) else None
                if isinstance(text, str):
                    yield text
                else:
                    dropped["line without a 'text' field"] += 1

"""Files that grow, read as they do: also before they exist, and when another takes their place."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from train.logmarks import MARK

# A shared disk announces nothing, so files are looked at again.
POLL_SECONDS = 0.5
CHUNK_BYTES = 1 << 20


class Part:
    """Tells which lines of a log were written by some attempts of one run, line after line."""

    def __init__(self, run: str, attempts: range) -> None:
        self.run = run
        self.attempts = attempts
        self._inside = False

    def has(self, line: str) -> bool:
        """Whether the next line is of the part; the marks around it are not."""
        found = MARK.fullmatch(line)
        if found is None:
            return self._inside
        mine = found[2] == self.run and int(found[1]) in self.attempts
        self._inside = mine and found[3] == "begins"
        return False


class Tail:
    """New whole lines of one file, or those of a part of it.

    The file is held open, so that one which takes its place cannot have its inode.
    """

    def __init__(self, path: Path, part: Part | None = None) -> None:
        self.path = path
        self.part = part
        self._file: BinaryIO | None = None
        self._rest = b""

    def last(self, lines: int) -> list[str]:
        """The last lines of the file now; what is appended later is new."""
        self._reopen()
        if self._file is None:
            return []
        size = self._file.seek(0, os.SEEK_END)
        return [_text(line) for line in _last(self._file.fileno(), size, lines)]

    def new(self) -> Iterator[str]:
        """The lines since the last look; a file that is away has none, and a new one has all."""
        yield from self._read()
        if self._reopen():
            yield from self._read()

    def end(self) -> Iterator[str]:
        """What is left when nothing more is written: a last line may lack its end."""
        yield from self.new()
        if self._rest and self._has(_text(self._rest)):
            yield _text(self._rest)
        self._rest = b""

    def _has(self, line: str) -> bool:
        return self.part is None or self.part.has(line)

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _read(self) -> Iterator[str]:
        while self._file and (chunk := self._file.read(CHUNK_BYTES)):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            yield from (text for text in map(_text, whole) if self._has(text))

    def _reopen(self) -> bool:
        """Open the file that is there now, if it is another or was cut; whether it was opened."""
        try:
            there = self.path.stat()
            if self._file:
                held, at = os.fstat(self._file.fileno()), self._file.tell()
                if os.path.samestat(there, held) and there.st_size >= at:
                    return False
                self._file.close()
            self._file, self._rest = self.path.open("rb"), b""
        except OSError:
            return False
        return True


def _last(file: int, size: int, lines: int) -> list[bytes]:
    """The last lines before `size`, read from the end."""
    found, start = b"", size
    while start > 0 and found.count(b"\n") <= lines:
        step = min(start, CHUNK_BYTES)
        start -= step
        found = os.pread(file, step, start) + found
    return found.splitlines()[-lines:] if lines else []


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")

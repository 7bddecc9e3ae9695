"""A full disk, whoever ran into it: said in one message with the way out."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sweeper.errors import DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)
# Words of sqlite, DuckDB and the C library, where they come without a number.
WORDS = re.compile("disk is full|No space left on device|Disk quota exceeded")
# Less than this, and nothing can go on.
LEAST_BYTES = 1 << 20


def full_disk(error: BaseException, home: Path) -> DiskFull | None:
    """What to say of an error that comes of a full disk, itself or by a cause; None for others."""
    found = next((one for one in _chain(error) if _is_full(one)), None)
    if found is None:
        return None
    named = found.filename2 or found.filename if isinstance(found, OSError) else None
    folders = [folder for folder in (home, Path(tempfile.gettempdir())) if _is_tight(folder)]
    where = " and ".join(map(str, folders)) or os.fspath(named or home)
    return DiskFull(
        f"no space is left on the disk of {where}: {str(found).splitlines()[0]}; free some, then "
        "the same command goes on where it was (jobs that run save what they can; nothing that "
        "was written is lost)"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return WORDS.search(str(error)) is not None


def _is_tight(folder: Path) -> bool:
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        return shutil.disk_usage(nearest).free < LEAST_BYTES
    except OSError:
        return False

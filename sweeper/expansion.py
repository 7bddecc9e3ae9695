"""The runs of a launched study, kept in its folder: ten thousand are planned once, not each look.

What is kept answers one study, one text, one state of the program; anything else is planned anew.
"""

import gc
import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from sweeper.designs import expand
from sweeper.folders import StudyDir
from sweeper.planner import Planned, with_digest
from sweeper.record import Batch
from sweeper.snapshot import fingerprint
from sweeper.study import Study


def expanded(study: Study, place: StudyDir, batches: Sequence[Batch] = ()) -> list[Planned]:
    """`designs.expand`, by what was kept where that answers. Raises UserError as it does."""
    key = _key(study, batches)
    if key is None or not place.path.is_dir():
        return expand(study, batches)
    kept = _read(place.expansion, key)
    if kept is None:
        kept = expand(study, batches)
        _write(place.expansion, key, kept)
    return kept


def _key(study: Study, batches: Sequence[Batch]) -> bytes | None:
    """A hash of all that an expansion follows; None where axes lead to texts of their own."""
    if any(axis.path.startswith(("data", "start")) for axis in study.axes):
        return None
    try:
        base = with_digest(study.base)
    except ValueError:
        return None
    parts = (study.model_dump_json(), base.model_dump_json(), repr(list(batches)), fingerprint())
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _read(path: Path, key: bytes) -> list[Planned] | None:
    """What was kept under this key by this user alone: a pickle of another's could run anything."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            own = status.st_uid == os.getuid() and not status.st_mode & 0o077
            return _unpickled(file) if own and file.read(len(key)) == key else None
    # Of a torn pickle, or one of other packages, anything may be raised.
    except Exception:
        return None


def _unpickled(file: BinaryIO) -> list[Planned]:
    # So many objects that all stay: the collector would go over them again and again.
    gc.disable()
    try:
        return pickle.load(file)
    finally:
        gc.enable()


def _write(path: Path, key: bytes, planned: Sequence[Planned]) -> None:
    """Keep it whole or not at all; where the disk refuses, it is planned anew next time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            pickle.dump(list(planned), file, pickle.HIGHEST_PROTOCOL)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)

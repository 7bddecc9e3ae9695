"""The program as it was when jobs were submitted: they run a copy, whatever is edited meanwhile."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from sweeper.folders import StudyDir
from train.origin import ORIGIN, origin

PACKAGES = ("model", "train", "analysis", "sweeper")
ROOT = Path(__file__).parent.parent


def sources() -> list[Path]:
    """The files of the program."""
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def fingerprint() -> str:
    """A hash over the program: names and contents of its files."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sources():
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def take(place: StudyDir) -> Path:
    """A copy of the program in the study's folder, made once for every state of it."""
    folder = place.path / "code" / fingerprint()
    if folder.exists():
        return folder
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for path in sources():
            copy = staging / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (staging / ORIGIN).write_text(json.dumps(origin(ROOT)), encoding="utf-8")
        staging.rename(folder)
    except OSError:
        # Another process of this study may have been as fast.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder

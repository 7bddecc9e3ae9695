"""A file system of a few MiB, to be filled."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Generator[Path]:
    """A folder with a disk of its own; skips where it cannot be mounted, and need not be."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        reason = "this user may not mount a small disk"
        # Set where the tests run as root.
        assert not os.environ.get("SWEEPER_REQUIRE_SLURM"), reason
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Occupy a disk but for `leave` bytes; the file that does."""
    ballast = disk / "ballast"
    with ballast.open("ab") as file:
        file.write(b"\0" * (shutil.disk_usage(disk).free - leave))
    return ballast

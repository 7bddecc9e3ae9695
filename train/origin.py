"""Where a program comes from: its commit, and what differs from it.

A copy of the program is under no version control: it says in a file what it was copied from.
"""

import json
import subprocess
from pathlib import Path

ORIGIN = "origin.json"
DIFF_BYTES = 1_000_000


def origin(folder: Path) -> dict[str, str]:
    """`commit` and `diff` of the program in a folder; empty where nothing tells."""
    try:
        said = json.loads((folder / ORIGIN).read_bytes())
        return {"commit": str(said["commit"]), "diff": str(said["diff"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {
            "commit": _output(folder, "git", "rev-parse", "HEAD"),
            "diff": capped(_output(folder, "git", "diff", "HEAD", "--", "."), DIFF_BYTES),
        }


def _output(folder: Path, *command: str) -> str:
    """What a command prints in a folder; empty where it cannot."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def capped(text: str, limit: int) -> str:
    """The first `limit` characters of a text, with a note where there are more."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: {len(text) - limit} of {len(text)} characters are left out]\n"

"""Checks of the folder that holds runs and studies: space, clock, locks, who may read it."""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from analysis import store
from model.counts import params_total
from sweeper.checks import Check, Subject, listed
from sweeper.designs import expand
from sweeper.ledger import read
from sweeper.references import studies
from sweeper.trunks import with_trunks
from train.runlog import create_exclusive, write_atomic

CLOCK_SECONDS = 2.0
# Bytes a parameter: weights in fp32; with the two moments of AdamW and gradients in a state to
# resume from, of which two may lie there at once.
WEIGHTS, STATES = 4, 2 * 16
LEAST_FREE = 1 << 30
NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "ceph", "fuse.sshfs", "9p")


def nearest(home: Path) -> Path:
    """The home, or the nearest folder above it that is there."""
    return next(path for path in (home, *home.parents) if path.is_dir())


@contextmanager
def scratch(home: Path) -> Generator[Path]:
    """A folder on the home's disk that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=nearest(home)) as folder:
        yield Path(folder)


def file_system(path: Path) -> tuple[str, str]:
    """Type and options of the file system that a path is on; empty where this is not told."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "", ""
    inside = [m for m in mounts if len(m) > 3 and path.is_relative_to(m[1].replace(r"\040", " "))]
    if not inside:
        return "", ""
    # The last mounted of the deepest.
    _, _, kind, options, *_ = max(reversed(inside), key=lambda m: len(m[1]))
    return kind, options


def space(subject: Subject) -> Check:
    """Free space against what the runs that are left will leave behind."""
    where = nearest(subject.home)
    free = shutil.disk_usage(where).free
    needed = _needed(subject)
    seen = f"{_size(free)} free at {where}"
    if needed is not None:
        seen += f", about {_size(needed)} for what is left of the study"
    way_out = "free space, or set SWEEPER_HOME to a larger disk"
    if free < LEAST_FREE:
        return Check("disk", "FAIL", seen, way_out)
    if needed is not None and free < needed:
        return Check("disk", "FAIL", seen, way_out)
    if needed is not None and free < 2 * needed:
        return Check("disk", "warn", seen, way_out)
    return Check("disk", "ok", seen)


def _needed(subject: Subject) -> float | None:
    """Bytes that the runs without a result will write; None where no study is named."""
    if subject.study is None or subject.place is None:
        return None
    planned = expand(subject.study, read(subject.place.ledger).batches)
    planned = with_trunks(planned, subject.place)
    left = {p.run_id: p.spec for p in planned if not subject.place.has_result(p.run_id)}
    sizes = sorted((params_total(spec.model) for spec in left.values()), reverse=True)
    return WEIGHTS * sum(sizes) + STATES * sum(sizes[: subject.workers])


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def clock(subject: Subject) -> Check:
    """The clock of the disk beside this machine's: a shared folder has its server's."""
    with scratch(subject.home) as folder:
        before = time.time()
        file = folder / "clock"
        file.write_text("now")
        after, there = time.time(), file.stat().st_mtime
    apart = max(before - there, there - after, 0.0)
    seen = f"the disk's clock is {apart:.2f} s from this machine's"
    if apart > CLOCK_SECONDS:
        return Check("clock", "warn", seen, "set both by NTP; ages of files are misjudged by this")
    return Check("clock", "ok", seen)


def shared(subject: Subject) -> Check:
    """Hard links, locks, fsync and rename: what claims, the driver's lock and results rest on."""
    kind, options = file_system(nearest(subject.home))
    try:
        with scratch(subject.home) as folder:
            broken = [name for name, works in _promises(folder).items() if not works]
    except OSError as error:
        return Check("shared folder", "FAIL", str(error), "use a folder that can be written")
    seen = kind or "unknown file system"
    if broken:
        way_out = "set SWEEPER_HOME to another file system; on NFS mount without nolock"
        return Check("shared folder", "FAIL", f"{seen}: broken: {', '.join(broken)}", way_out)
    if (
        "nolock" in options.split(",")
        or "local_lock=all" in options
        or "local_lock=flock" in options
    ):
        way_out = "start drivers on one host only, or mount without nolock and local_lock"
        return Check("shared folder", "warn", f"{seen}: locks hold on this host alone", way_out)
    shown = f"{seen}{' (network)' if kind in NETWORK else ''}"
    return Check("shared folder", "ok", f"{shown}: link, lock, fsync and rename work")


def _promises(folder: Path) -> dict[str, bool]:
    """Each promise of the file system, and whether it is kept."""
    return {
        "exclusive hard link": _links(folder),
        "flock": _locks(folder),
        "fsync and atomic rename": _renames(folder),
    }


def _links(folder: Path) -> bool:
    claim = folder / "claim"
    try:
        return create_exclusive(claim, "1") and not create_exclusive(claim, "2")
    except OSError:
        return False


def _locks(folder: Path) -> bool:
    """Whether a second opener is refused the lock that the first holds."""
    with (folder / "lock").open("w") as one, (folder / "lock").open("w") as two:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _renames(folder: Path) -> bool:
    path = folder / "result"
    try:
        write_atomic(path, "old")
        with path.open() as held:
            write_atomic(path, "new")
            return path.read_text() == "new" and held.read() == "old"
    except OSError:
        return False


def permissions(subject: Subject) -> Check:
    """Whether others can change, or read, the folders that jobs load pickles from."""
    home = subject.home
    folders = [
        home,
        home / "studies",
        *(home / "studies").glob("*/"),
        *home.glob("studies/*/jobs/"),
    ]
    there = [path for path in folders if path.is_dir()]
    if not there:
        return Check("permissions", "ok", f"{home} is not there yet")
    modes = {path: path.stat() for path in there}
    foreign = [str(path) for path, seen in modes.items() if seen.st_uid != os.geteuid()]
    if foreign:
        way_out = "use a folder of your own: SWEEPER_HOME"
        return Check("permissions", "warn", f"not yours: {listed(foreign)}", way_out)
    writable = [str(p) for p, seen in modes.items() if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    if writable:
        seen = f"others can write in {listed(writable)}, and jobs load pickles from there"
        return Check("permissions", "FAIL", seen, f"chmod -R go-w {home}")
    open_jobs = [str(p) for p in there if p.name == "jobs" and modes[p].st_mode & 0o077]
    if open_jobs:
        seen = f"others can read {listed(open_jobs)}"
        return Check("permissions", "warn", seen, f"chmod go-rwx {home}/studies/*/jobs")
    return Check("permissions", "ok", "nobody else can write here or read the jobs")


def stores(subject: Subject) -> Check:
    """Whether the store of the study, or of each, can be opened; where not, who holds it."""
    places = [subject.place] if subject.place else studies(subject.home)
    found = [place for place in places if place.store.exists()]
    for place in found:
        try:
            with store.connect(place.store, read_only=True, patience_seconds=1.0) as con:
                store.query(con, "select 1")
        except store.StoreBusy as error:
            return Check("store", "warn", str(error), "close it there; a driver lets go by itself")
        except duckdb.Error as error:
            way_out = f"rm {place.store}; it is derived, and made again by sweeper status"
            return Check("store", "warn", f"{place.store}: {str(error).splitlines()[0]}", way_out)
    return Check("store", "ok", f"{len(found)} of {len(places)} studies have one, and it opens")

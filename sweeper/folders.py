"""Where a study lies on disk, and the lock that lets one driver at a time write there.

HOME/runs/RUN_ID/           shared by all studies (train.runlog)
HOME/data/DATA_ID/          shared by all studies (train.data.prepare)
HOME/studies/NAME/
    study.json              the resolved study of the last launch
    planned.json            the runs of its trials
    expansion.pickle        these with their specs, for this user's next look
    ledger.jsonl            what the driver decided: with the run directories, the record
    jobs/JOB/               one submitit folder a job: pickle, logs
    requests/               what `cancel` and `retry` ask the driver for
    code/HASH/              the program as jobs run it
    driver.log              what a detached driver says
    promotion.json          the decision to start the large run; never changed
    imported.parquet        rows of runs from outside, that count among its points
    optuna.db study.duckdb report.html      derived: delete them, and they are made again
    spare.duckdb            the same tables, made only where somebody keeps study.duckdb open
    driver.lock
"""

import fcntl
import json
import os
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import DriverBusy, UserError, shortened
from train.config import DataConfig, data_id

# Of studies and axes: it names folders and tables, and stands in pages.
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


@dataclass(frozen=True)
class StudyDir:
    """All paths of one study. Raises UserError for a name that would leave the folder of studies.

    Names come from study files and from the command line, and a folder may have been replaced by
    a link: whatever is written, removed or sealed here has to lie here.
    """

    home: Path
    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise UserError(
                f"{shortened(self.name)} is no name of a study; one has up to 63 of a-z, 0-9, _, - "
                "and begins with a letter or a digit"
            )
        if self.path.is_symlink():
            raise UserError(
                f"{self.path} is a link, and a study lies in SWEEPER_HOME itself; move the folder "
                "here, or set SWEEPER_HOME to where it is"
            )

    @property
    def path(self) -> Path:
        return self.home / "studies" / self.name

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def resolved(self) -> Path:
        return self.path / "study.json"

    @property
    def planned(self) -> Path:
        return self.path / "planned.json"

    @property
    def expansion(self) -> Path:
        return self.path / "expansion.pickle"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def driver_log(self) -> Path:
        return self.path / "driver.log"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def optuna(self) -> Path:
        return self.path / "optuna.db"

    @property
    def store(self) -> Path:
        return self.path / "study.duckdb"

    @property
    def spare(self) -> Path:
        return self.path / "spare.duckdb"

    @property
    def promotion(self) -> Path:
        return self.path / "promotion.json"

    @property
    def imported(self) -> Path:
        return self.path / "imported.parquet"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        return self.path / "driver.lock"

    def has_data(self, data: DataConfig) -> bool:
        """Whether the tokens of this text are ready: the manifest is written last."""
        return (self.home / "data" / data_id(data) / "manifest.json").exists()

    def has_result(self, run_id: str) -> bool:
        """Whether a run is over, in this study or in another: its result is written last."""
        return (self.runs / run_id / "result.json").exists()

    def logs(self, job: str) -> str:
        """What to open to read what a job said."""
        found = sorted((self.jobs / job).glob("*_log.err"))
        return str(found[0] if found else self.jobs / job)


def home() -> Path:
    """The folder of all runs and studies: $SWEEPER_HOME, or .sweeper here.

    Raises UserError for a path that job submission would misread, and for one that is no folder.
    """
    text = os.environ.get("SWEEPER_HOME", ".sweeper")
    try:
        path = Path(text).resolve()
        nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    # RuntimeError: links that lead to themselves.
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"SWEEPER_HOME={shortened(text)} is no path: {why}") from error
    if not nearest.is_dir():
        raise UserError(f"SWEEPER_HOME={shortened(text)}: {nearest} is a file; choose a folder")
    if "%" in str(path) or not str(path).isprintable():
        raise UserError(
            f"SWEEPER_HOME={str(path)!r} holds % or a control character, which job schedulers "
            "expand; choose another folder"
        )
    return path


def run_folder(home: Path, name: str) -> Path:
    """The folder of a run given by its id. Raises UserError for what is no id, or no run here."""
    if not re.fullmatch(r"[0-9a-f]{16}", name):
        raise UserError(
            f"{shortened(name)} is no run; a run's id is 16 hex digits, as `sweeper plan` shows it"
        )
    path = home / "runs" / name
    if not (path / "run.json").exists():
        raise UserError(f"run {name} is not below {home}; check SWEEPER_HOME")
    return path


@contextmanager
def driver_lock(study: StudyDir) -> Generator[None]:
    """Hold the study for this process; the kernel lets go of it when the process dies.

    Raises DriverBusy naming process and host of the other driver, UserError where the folder cannot
    be written.
    """
    try:
        study.path.mkdir(parents=True, exist_ok=True)
        study.lock.touch()
    except OSError as error:
        raise UserError(
            f"{study.path} cannot be written: {error.strerror}; give the folder to this user, or "
            "set SWEEPER_HOME to another"
        ) from error
    with study.lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise DriverBusy(
                f"study {study.name!r} has a driver already: {file.read().strip()}; watch it with "
                "`sweeper status`, or stop it there (its jobs go on) and start again here"
            ) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield

"""Where a study lies on disk, and the lock that lets one driver at a time write there.

HOME/runs/RUN_ID/           shared by all studies (train.runlog)
HOME/data/DATA_ID/          shared by all studies (train.data.prepare)
HOME/studies/NAME/
    study.json              the resolved study
    ledger.jsonl            what the driver decided: with the run directories, the record
    jobs/JOB/               one submitit folder a job: pickle, logs
    promotion.json          the decision to start the large run; never changed
    imported.parquet        rows of runs from outside, that count among its points
    optuna.db study.duckdb report.html      derived: delete them, and they are made again
    driver.lock
"""

import fcntl
import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import DriverBusy, UserError
from train.config import DataConfig, data_id


@dataclass(frozen=True)
class StudyDir:
    """All paths of one study."""

    home: Path
    name: str

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
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

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

    Raises UserError for a path that job submission would misread.
    """
    path = Path(os.environ.get("SWEEPER_HOME", ".sweeper")).resolve()
    if "%" in str(path) or not str(path).isprintable():
        raise UserError(
            f"SWEEPER_HOME={str(path)!r} holds % or a control character, which job schedulers "
            "expand; choose another folder"
        )
    return path


@contextmanager
def driver_lock(study: StudyDir) -> Generator[None]:
    """Hold the study for this process; the kernel lets go of it when the process dies.

    Raises DriverBusy naming process and host of the other driver.
    """
    study.path.mkdir(parents=True, exist_ok=True)
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

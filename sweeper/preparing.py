"""The text that runs train on: tokenized once, by a job of its own."""

import time
from collections.abc import Iterable, Sequence

from sweeper import worker
from sweeper.dispatch import Request
from sweeper.errors import JobsFailed
from sweeper.jobs import Refused
from sweeper.record import Job
from sweeper.submission import Submission
from train.config import DataConfig, data_id

ATTEMPTS = 3
POLL_SECONDS = 0.1


def prepare(jobs: Submission, configs: Iterable[DataConfig]) -> None:
    """Have the text of every config tokenized. Raises JobsFailed where that cannot be done."""
    wanted = list({data_id(config): config for config in configs}.values())
    log = ""
    for _ in range(ATTEMPTS):
        missing = [config for config in wanted if not jobs.place.has_data(config)]
        if not missing:
            return
        job = _living(jobs) or _start(jobs, missing)
        log = jobs.log(job)
        _watch(jobs, job)
    if not all(map(jobs.place.has_data, wanted)):
        raise JobsFailed(f"the data job ended {ATTEMPTS} times without data; see {log}")


def _watch(jobs: Submission, job: Job) -> None:
    folder = jobs.place.jobs / job.name
    while job.name in jobs.scan.names and not _prepared(jobs, job):
        said = folder / worker.PROGRESS
        detail = f": {said.read_text(encoding='utf-8')}" if said.exists() else ""
        jobs.display.note(f"preparing text and tokens{detail}")
        time.sleep(POLL_SECONDS)
        if jobs.due():
            jobs.rescan([job])
    failure = folder / worker.FAILURE
    if failure.exists():
        message = failure.read_text(encoding="utf-8").partition("\n\n")[0]
        raise JobsFailed(f"the data cannot be prepared: {message} (log: {jobs.log(job)})")


def _prepared(jobs: Submission, job: Job) -> bool:
    folder = jobs.place.jobs / job.name
    return any((folder / name).exists() for name in (worker.PREPARED, worker.FAILURE))


def _start(jobs: Submission, missing: Sequence[DataConfig]) -> Job:
    configs = [config.model_dump_json() for config in missing]
    arguments = [(str(jobs.place.home), configs)]
    while True:
        try:
            return jobs.start("data", Request((), 1), worker.prepare, arguments)
        except Refused as refused:
            jobs.say_refused(refused)
            time.sleep(jobs.pause_seconds)


def _living(jobs: Submission) -> Job | None:
    found = [j for j in jobs.ledger.record.jobs if j.stage == "data" and not j.refused][-1:]
    jobs.rescan(found)
    return next((job for job in found if job.name in jobs.scan.names), None)

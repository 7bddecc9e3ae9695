"""The driver: submits what is missing, watches, and decides from run directories what to do next.

It may die at any instant. A job is written to the ledger before it is started; a run belongs to
the process that created its attempt file; so the driver that starts next adopts what lives.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from sweeper import decisions, oversight, preparing, trunks
from sweeper.backends import backend_of
from sweeper.dispatch import chained, next_jobs, smallest
from sweeper.errors import JobsFailed
from sweeper.folders import StudyDir
from sweeper.jobs import Backend
from sweeper.ledger import Ledger
from sweeper.record import UNDECIDED, Job, Stage
from sweeper.runs import Read, Runs, RunView, deaths, unfinished
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.submission import Submission
from sweeper.watch import Display
from train.config import DataConfig, RunSpec
from train.runlog import create_run

# Run directories on a shared disk send no event: they are looked at.
POLL_SECONDS = 0.5
# While all others wait for the first run of a program.
EAGER_SECONDS = 0.1
# Jobs in a row that ended before they began anything: more of them would do the same.
FUTILE_JOBS = 3

# Told how runs stand; may answer with more of them.
Finished = Callable[[Mapping[str, RunView]], Mapping[str, RunSpec] | None]
# Told at every look; names runs that are to end, each with the reason.
Hopeless = Callable[[Mapping[str, RunView]], Sequence[tuple[str, str]]]


def keep_all(views: Mapping[str, RunView]) -> Sequence[tuple[str, str]]:
    """Ends no run before its time."""
    return ()


class Driver:
    """One study being driven: the only process that submits jobs for it."""

    def __init__(
        self,
        study: Study,
        place: StudyDir,
        speed: Speed,
        display: Display,
        backend: Backend | None = None,
    ) -> None:
        self.study = study
        self.place = place
        self.speed = speed
        self.display = display
        self.backend = backend or backend_of(study.cluster, place.home)
        self.ledger = Ledger(place.ledger)
        self.jobs = Submission(study, place, display, self.backend, self.ledger)
        self.read: Read = {}
        self._unjudged: list[Job] = []
        self._futile = 0
        self._ended: set[str] = set()

    def prepare(self, configs: Iterable[DataConfig]) -> None:
        """Have the text of every config tokenized. Raises JobsFailed where that cannot be done."""
        preparing.prepare(self.jobs, configs)

    def drive(
        self,
        stage: Stage,
        specs: Mapping[str, RunSpec],
        on_finished: Finished,
        hopeless: Hopeless = keep_all,
    ) -> None:
        """Bring every run to an end: start jobs, adopt those that live, try again by policy.

        `on_finished` is called with all runs whenever more of them have ended; what it answers is
        run as well.
        """
        runs = Runs(self.place.runs, {}, self.read)
        self._add(runs, specs)
        self._reopen(specs)
        self._unjudged, self._futile = [], 0
        ended = -1
        while True:
            views = self._look(runs)
            self.display.update(views, self.place.runs, self.study.cluster.workers)
            if (now_ended := sum(run.finished for run in views.values())) > ended:
                ended = now_ended
                self._add(runs, on_finished(views) or {})
            if ended == len(runs.specs):
                self._end_idle(views)
                return
            self._judge(views)
            self._decide(views, hopeless)
            self._cordon(runs)
            if self.jobs.taken:
                self._start_missing(stage, views)
            ahead = stage == "trials" and self.jobs.code.name not in self.ledger.record.proven
            time.sleep(EAGER_SECONDS if ahead else POLL_SECONDS)

    def _look(self, runs: Runs) -> dict[str, RunView]:
        """All runs as they stand; the dead are buried and every change is written down."""
        record = self.ledger.record
        views = runs.look(record, self.jobs.scan)
        if self.jobs.due():
            self.jobs.rescan(unfinished(record, views))
            views = runs.look(record, self.jobs.scan)
        dead = [run for run in views.values() if run.unsaid]
        for run in dead:
            oversight.bury(self.place.runs, run, self.jobs.scan.ended.get(run.job))
        by_hand = oversight.cancelled(record, views, self.jobs.scan)
        if by_hand:
            why = "its job was cancelled in the scheduler"
            decisions.stop(self.ledger, self.place, by_hand, "CANCELLED", why)
        if dead or by_hand:
            views = runs.look(record, self.jobs.scan)
        if moved := oversight.changes(record, views):
            self.ledger.append(*moved)
        return views

    def _add(self, runs: Runs, specs: Mapping[str, RunSpec]) -> None:
        for name, spec in specs.items():
            if not self.place.has_result(name):
                create_run(self.place.home, spec)
        runs.add(specs)

    def _reopen(self, specs: Mapping[str, RunSpec]) -> None:
        for name in trunks.reopen(self.place, specs):
            self.read.pop(name, None)
            self.display.say(f"trunk {name} is trained again: states of it are gone")

    def _decide(self, views: Mapping[str, RunView], hopeless: Hopeless) -> None:
        """What people asked for, and what a rule gives up."""
        for line in decisions.take(self.ledger, self.place, views):
            self.display.say(line)
        record, given_up = self.ledger.record, dict(hopeless(views))
        for name, why in given_up.items():
            if record.decisions.get(name, UNDECIDED).state is None:
                decisions.stop(self.ledger, self.place, [views[name]], "PRUNED", why)
        self._end_idle(views)

    def _end_idle(self, views: Mapping[str, RunView]) -> None:
        record = self.ledger.record
        idle = decisions.idle(record, views, self.jobs.scan.names) - self._ended
        if idle and self.jobs.cancel(record.jobs, idle):
            self._ended |= idle

    def _cordon(self, runs: Runs) -> None:
        # One machine alone cannot be left out.
        if not self.backend.array_size:
            return
        record = self.ledger.record
        seen = runs.seen()
        named = oversight.accused(seen, record)
        for event in oversight.bad_nodes(record, deaths(seen, record), named):
            self.ledger.append(event)
            self.display.say(f"node {event['node']} gets no more jobs: {event['why']}")

    def _start_missing(self, stage: Stage, views: Mapping[str, RunView]) -> None:
        live = self.jobs.living()
        requests = next_jobs(views, live, self.study.cluster, self.speed, self.jobs.array_size)
        if self.backend.chains:
            requests += chained(views, live)
        if requests and stage == "trials" and not self._proven(views):
            # The first run of a program goes ahead; when it trains, the others follow.
            if any(job.code == self.jobs.code.name for job in live):
                return
            requests = [smallest(requests, views, self.speed)]
        for request in requests:
            job = self.jobs.train(stage, request)
            if job is None:
                return
            self._unjudged.append(job)

    def _proven(self, views: Mapping[str, RunView]) -> bool:
        """Whether this state of the program has trained in this study."""
        code, record = self.jobs.code.name, self.ledger.record
        if code in record.proven:
            return True
        ours = {name for job in record.jobs if job.code == code for name in job.names}
        shown = (run for run in views.values() if run.job in ours)
        if any(oversight.proven(self.place.runs, run) for run in shown):
            self.ledger.append({"event": "proven", "code": code})
            return True
        return False

    def _judge(self, views: Mapping[str, RunView]) -> None:
        """Stop where jobs do nothing, one after the other, and where runs fail all alike."""
        for job in [job for job in self._unjudged if not self.jobs.lives(job)]:
            self._unjudged.remove(job)
            begun = any(views[run].attempts >= n or views[run].finished for run, n in job.grants)
            self._futile = 0 if begun else self._futile + 1
            if self._futile == FUTILE_JOBS:
                raise JobsFailed(
                    f"{FUTILE_JOBS} jobs in a row ended before they began a run; the last one's "
                    f"log says why: {self.jobs.log(job)}"
                )
        why = oversight.alike(views.values())
        if why and not all(run.finished for run in views.values()):
            self._break(why, views)

    def _break(self, why: str, views: Mapping[str, RunView]) -> None:
        """Ask for nothing more, and end what waits or runs: it would do the same."""
        self.jobs.end_all(why)
        run = next(run for run in views.values() if run.state == "FAILED")
        raise JobsFailed(
            f"{why}\n  nothing more is submitted, and jobs of this study were told to save and end"
            f"\n  what it said: sweeper logs {run.run_id}\n  when the cause is mended: sweeper "
            f"retry {self.study.name}, then the same command"
        )

"""Training without a trainer: losses of a stated law, in run directories as jobs leave them.

Ledger, attempts, retries and results are those of real runs; only what a step computes is not done,
so that a study of hundreds of trials passes in seconds.
"""

import math
import os
import random
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model.counts import flops_per_token, params_active, params_non_embedding, params_total
from sweeper.dispatch import Request, next_jobs
from sweeper.driver import Driver, Finished, Hopeless, keep_all
from sweeper.folders import StudyDir
from sweeper.local import InProcess
from sweeper.record import Stage
from sweeper.runs import Runs, look_now
from sweeper.speed import Speed
from sweeper.study import Study
from sweeper.truth import Law
from sweeper.watch import Display
from train.config import DataConfig, RunSpec, run_id
from train.lineage import to_train
from train.runlog import Attempt, Cause, Failure, Result, RunDir

# What an attempt may be drawn to die of.
DEATHS: tuple[Cause, ...] = ("disk_full", "exception", "killed", "out_of_memory")


@dataclass(frozen=True)
class Trainer:
    """Draws what becomes of a run; the same `seed` and run give the same.

    The log of a loss has normal noise of standard deviation `noise`; a run diverges with
    probability `diverge`, and an attempt dies with probability `fail`, of each cause alike.
    """

    law: Law
    noise: float
    diverge: float
    fail: float
    seed: str
    speed: Speed

    def attempt(self, run: RunDir, number: int, job: str) -> None:
        """Make one attempt at a run, if nobody has: it ends with a result, or dies."""
        attempt = Attempt(
            number=number,
            job=job,
            host=socket.gethostname(),
            pid=os.getpid(),
            world_size=1,
            started=time.time(),
        )
        if not run.claim(attempt):
            return
        chance = self._chance(run.path.name, f"attempt {number}")
        if chance.random() >= self.fail:
            run.write_result(self.result(run.spec()))
            return
        cause = chance.choice(DEATHS)
        # A killed process leaves no word.
        if cause != "killed":
            message = f"attempt {number} was drawn to die of {cause}"
            run.write_failure(Failure(attempt=number, cause=cause, message=message))

    def result(self, spec: RunSpec) -> Result:
        """What the run measures; a divergence ends it part of the way."""
        model, tokens, name = spec.model, spec.tokens, run_id(spec)
        loss = self.law.loss(params_active(model), tokens)
        loss *= math.exp(self.noise * self._chance(name, "noise").gauss(0, 1))
        chance = self._chance(name, "divergence")
        diverged = chance.random() < self.diverge
        inherited = tokens - to_train(spec)
        if diverged:
            batch = spec.batch.global_batch_tokens
            own = max(1, int(chance.random() * (tokens - inherited) / batch)) * batch
            tokens = inherited + own
        part = (tokens - inherited) / (spec.tokens - inherited)
        return Result(
            run_id=name,
            state="DIVERGED" if diverged else "DONE",
            cause="diverged" if diverged else "",
            tokens=tokens,
            inherited_tokens=inherited,
            flops=tokens * flops_per_token(model),
            nats_per_token=None if diverged else loss,
            bits_per_byte=None,
            params_total=params_total(model),
            params_non_embedding=params_non_embedding(model),
            params_active=params_active(model),
            seconds=part * self.speed.seconds(spec),
            gpu_hours=part * self.speed.gpu_hours(spec),
            tokens_per_second=to_train(spec) / self.speed.seconds(spec),
        )

    def _chance(self, name: str, what: str) -> random.Random:
        """Draws of their own for every question: one rate more or less moves no other draw."""
        return random.Random(f"{self.seed}, {name}, {what}")


class SimulatedDriver(Driver):
    """A driver whose jobs are done at once, by a simulated trainer in this process."""

    def __init__(self, study: Study, place: StudyDir, display: Display, trainer: Trainer) -> None:
        super().__init__(study, place, trainer.speed, display, InProcess(place.home))
        self.trainer = trainer

    def prepare(self, configs: Iterable[DataConfig]) -> None:
        """Nothing: no text is read."""

    def drive(
        self,
        stage: Stage,
        specs: Mapping[str, RunSpec],
        on_finished: Finished,
        hopeless: Hopeless = keep_all,
    ) -> None:
        """Bring every run to an end by the policy of real ones, without waiting for anything.

        What is asked for as results arrive is asked when all of a list have one.
        """
        runs = Runs(self.place.runs, {}, self.read)
        self._add(runs, specs)
        ended = -1
        while True:
            views, _ = look_now(runs, self.ledger.record, self.backend)
            if (now_ended := sum(run.finished for run in views.values())) > ended:
                ended = now_ended
                self._add(runs, on_finished(views) or {})
            if ended == len(runs.specs):
                return
            # Workers of one list share it; the first of them leaves nothing to the others.
            requests = next_jobs(views, (), self.study.cluster, self.speed)
            for request in dict.fromkeys(requests):
                self._do(stage, request)

    def _do(self, stage: Stage, request: Request) -> None:
        """Say in the ledger what is meant, then do it."""
        job = self.ledger.record.next_job()
        meant = {"event": "intent", "job": job, "stage": stage}
        detail = {"grants": request.grants, "world_size": request.world_size}
        self.ledger.append(meant | detail)
        for name, number in request.grants:
            self.trainer.attempt(RunDir(self.place.runs / name), number, job)

"""The validation rung: one run between the ladder and the target, which the forecast has to hit.

No fit is given it. What was chosen stands in the ledger, so that it is trained once, whatever a
later fit would choose.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper import promote
from sweeper.designs import Trial
from sweeper.errors import UserError
from sweeper.planner import Planned
from sweeper.record import Event, Record, Rung
from sweeper.study import Study
from sweeper.study_file import explain
from train.config import run_id

if TYPE_CHECKING:
    from analysis.law import Forecast

# As a design of no study: the analysis leaves runs of it out of every fit.
DESIGN = "validation"


def chosen(study: Study, planned: Sequence[Planned], record: Record) -> Planned | None:
    """The rung that the ledger holds for the study as it is, numbered after its trials.

    One that was chosen after trials which are no longer the study's was another study's, and is
    left out.
    """
    trials = {p.run_id for p in planned}
    for rung in reversed(record.rungs):
        if rung.budget == study.promotion.rung and set(rung.saw) <= trials:
            return plan_rung(study, rung, len(planned))
    return None


def choose(study: Study, planned: Sequence[Planned], forecast: "Forecast") -> Event:
    """The event that says which run is the rung: at the optimum forecast for its budget.

    Raises UserError where that cannot be built, or is a trial which the fit was given.
    """
    saw = tuple(sorted({p.run_id for p in planned}))
    rung = Rung(saw, forecast.budget, forecast.params)
    run = plan_rung(study, rung, len(planned)).run_id
    if run in saw:
        raise UserError(
            f"promotion.rung={rung.budget:g} is so near the ladder that it asks for a run of it, "
            f"{run}, which the fit knows; raise it"
        )
    return {"event": "rung", **dataclasses.asdict(rung)}


def plan_rung(study: Study, rung: Rung, number: int) -> Planned:
    """The run of a rung, laid out as the promoted one. Raises UserError where it cannot be."""
    seed, values = study.promotion.seed, {"params_target": rung.params}
    trial = Trial(DESIGN, rung.budget, seed, rung.params, values=values, number=number)
    try:
        spec = promote.pretraining(study, rung.params, rung.budget, number)
    except ValueError as error:
        raise UserError(f"study {study.name!r}: the validation rung: {explain(error)}") from error
    return Planned(trial, spec, run_id(spec))

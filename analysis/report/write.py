"""The report of a study: one HTML file that opens anywhere, at any stage, the same bytes again.

What stands in it is in `evidence.Evidence`; here it becomes sentences, figures and tables.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from analysis.law import Forecast, scientific
from analysis.report import (
    ablation_section,
    law_sections,
    layers,
    page,
    run_figures,
    style,
    sweep_sections,
)
from analysis.report.evidence import Evidence, Promoted, Validation, gather
from analysis.store import Connection

UNFINISHED = ("PLANNED", "QUEUED", "RUNNING")
IMPORTED_COLUMNS = ("run_id", "state", "budget", "seed", "params", "tokens", "flops", "loss")
# A longer table of runs from outside says nothing that their file does not.
IMPORTED_SHOWN = 1000


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _progress(evidence: Evidence) -> str:
    """How many trials are done and how many runs came from outside."""
    outside = int((evidence.points["design"] == "imported").sum())
    # The validation rung is no trial of a design: it has a section of its own.
    trials = [row for row in evidence.trials if row["design"] != "validation"]
    done = sum(row["state"] == "DONE" for row in trials)
    said: list[str] = []
    if trials or not outside:
        said.append(f"{done} of {len(trials)} trials are done")
    if outside:
        said.append(f"{outside} runs were imported")
    return f"{' and '.join(said)}."


def _loss(value: float, metric: str) -> str:
    return f"{value:.4f} {style.UNITS[metric]}" if metric in style.UNITS else f"{value:.4f}"


def _said(loss: str, budget: float, level: float, low: float, high: float) -> str:
    return (
        f"At {scientific(budget)} FLOPs the forecast is {loss} "
        f"({_percent(level)} interval {low:.4f} to {high:.4f})"
    )


def headline(evidence: Evidence) -> str:
    """One sentence: what was forecast, what was measured, or how far the study is."""
    progress = _progress(evidence)
    if evidence.promotions:
        return _promised(evidence.promotions[-1], evidence.metric, progress)
    if evidence.forecast:
        return _expected(evidence.forecast, evidence.metric, progress)
    if evidence.panel:
        top, used = scientific(evidence.runs.rungs[-1]), len(evidence.runs.frame)
        return (
            f"No target is named, so there is no forecast; the laws rest on {used} runs up to "
            f"{top} FLOPs. {progress}"
        )
    return f"There is no forecast yet. {progress}"


def _expected(said: Forecast, metric: str, progress: str) -> str:
    sentence = _said(_loss(said.loss, metric), said.budget, said.level, said.low, said.high)
    return (
        f"{sentence}, with {scientific(said.params)} parameters and {scientific(said.tokens)} "
        f"tokens. {progress}"
    )


def _promised(promoted: Promoted, metric: str, progress: str) -> str:
    """What was forecast of the run that was promoted last, and what it measured."""
    said, measured = promoted.forecast, promoted.measured
    loss = _loss(said["loss"], metric)
    sentence = _said(loss, said["budget"], said["level"], said["low"], said["high"])
    if measured is None:
        return f"{sentence}; the promoted run has not been measured yet. {progress}"
    hit = _hit(measured, said["loss"], said["low"], said["high"])
    return f"{sentence}; the promoted run measured {hit}."


def _hit(measured: float, loss: float, low: float, high: float) -> str:
    error = 100 * (measured / loss - 1)
    where = "above" if error > 0 else "below"
    inside = "inside" if low <= measured <= high else "outside"
    return f"{measured:.4f}, {abs(error):.2f} % {where} it and {inside} the interval"


def _validation(rung: Validation, metric: str) -> str:
    said, run = rung.forecast, rung.run
    parts = [f"A run of {scientific(rung.budget)} FLOPs, which no fit is given, tests the laws."]
    if said:
        loss = _loss(said.loss, metric)
        parts.append(f"{_said(loss, said.budget, said.level, said.low, said.high)}.")
    if run is None:
        parts.append("It is trained when every other gate of the promotion passes.")
    elif run["state"] == "DONE" and run["loss"] is not None and said:
        sizes = f"{scientific(run['params'])} parameters and {scientific(run['tokens'])} tokens"
        hit = _hit(run["loss"], said.loss, said.low, said.high)
        parts.append(f"Run {run['run_id']}, of {sizes}, measured {hit}.")
    else:
        parts.append(f"Run {run['run_id']} is {run['state']}.")
    return page.section("Validation rung", page.paragraph(" ".join(parts)))


def _promotion(promoted: Promoted, number: int, metric: str) -> str:
    data = run_figures.promotion_data(
        promoted.forecast, promoted.steps, promoted.tokens, promoted.measured
    )
    sentence = (
        f"Decided by {promoted.decided_by}: {promoted.reason}. The shaded band is the forecast's "
        "interval for the validation loss; the line is training loss as logged, another quantity "
        "on other text."
    )
    gates = [
        {key: gate.get(key) for key in ("name", "passed", "observed", "limit", "why")}
        for gate in promoted.gates
    ]
    return page.section(
        f"Promotion {promoted.name}",
        page.figure(
            run_figures.promotion_figure(data, metric),
            f"promotion-{number}",
            (str(stage["run_id"]) for stage in promoted.stages),
        ),
        page.paragraph(sentence),
        page.diagnostics(promoted.diagnostics),
        page.heading("Gates"),
        page.table(gates) or page.paragraph("No gate was recorded."),
        page.heading("Stages"),
        page.table(promoted.stages) or page.paragraph("No stage has been submitted yet."),
    )


def _training(evidence: Evidence) -> str:
    steps = run_figures.drawn(evidence.steps)
    data = run_figures.training_data(steps)
    if data.is_empty():
        return ""
    figure = page.figure(run_figures.training_figure(data), "training", data["run_id"])
    sentence = "Training loss as logged, a line a run, pale lines for the larger budgets."
    shown, of = data["run_id"].n_unique(), evidence.steps["run_id"].n_unique()
    if shown < of:
        sentence += f" Of {of:,} runs the {shown} that ended lowest, as many of every budget."
    return page.section("Training", figure, page.paragraph(sentence))


def _excluded(evidence: Evidence) -> str:
    """Runs that the fit was not given; those that are on their way are none of them."""
    open_runs = {row["run_id"] for row in evidence.trials if row["state"] in UNFINISHED}
    rows = [
        {"run_id": each.run_id, "reason": each.reason}
        for each in evidence.runs.excluded
        if each.run_id not in open_runs
    ]
    return page.section("Kept out of the fit", page.table(rows)) if rows else ""


def _runs(evidence: Evidence) -> Iterator[str]:
    """The tables of trials, of runs, and of runs from outside."""
    outside = evidence.points.filter(pl.col("design") == "imported")
    if evidence.trials or outside.is_empty():
        trials = page.table(evidence.trials, sortable=True) or page.paragraph("None yet.")
        yield page.section("Trials", trials)
    if evidence.records:
        sentence = (
            "Each run that the trials or the promotion ask for. All of one: sweeper show RUN."
        )
        runs = page.table(evidence.records, sortable=True, of_runs=True)
        yield page.section("Runs", page.paragraph(sentence), runs)
    if len(outside):
        shown = outside.select(IMPORTED_COLUMNS).head(IMPORTED_SHOWN).to_dicts()
        rest = (
            f"The first {len(shown)} of {len(outside)} runs." if len(shown) < len(outside) else ""
        )
        parts = (
            page.paragraph(rest) if rest else "",
            page.table(shown, sortable=True, of_runs=True),
        )
        yield page.section("Imported runs", *parts)


def _sections(evidence: Evidence) -> Iterator[str]:
    yield from law_sections.sections(evidence)
    if evidence.validation:
        yield _validation(evidence.validation, evidence.metric)
    yield ablation_section.section(evidence)
    yield from sweep_sections.sections(evidence)
    for number, promoted in enumerate(evidence.promotions, start=1):
        yield _promotion(promoted, number, evidence.metric)
    yield _training(evidence)
    yield layers.section(evidence.layers)
    yield _excluded(evidence)
    yield from _runs(evidence)


def write(con: Connection, study: str, path: Path) -> None:
    """Write the report of a study, whatever has been done of it so far; the file appears whole."""
    evidence = gather(con, study)
    text = page.document(study, evidence.question, headline(evidence), _sections(evidence))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

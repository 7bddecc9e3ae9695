"""The sections of a report on sweeps of other things than size: learning rate, tasks, mixtures."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from analysis.downstream import figures as downstream_figures
from analysis.downstream import fit as downstream
from analysis.downstream.fit import Downstream
from analysis.downstream.steps import Task
from analysis.hyper import figures as hyper_figures
from analysis.hyper import fit as hyper
from analysis.hyper.fit import Hyper
from analysis.hyper.laws import FORMS, Rule
from analysis.law import Diagnostic, Excluded, scientific
from analysis.mixture import figures as mixture_figures
from analysis.mixture.fit import MixtureFit
from analysis.report import page
from analysis.report.evidence import Evidence

Fitted = TypeVar("Fitted")


def sections(evidence: Evidence) -> list[str]:
    """Learning rate and batch, downstream tasks, mixture; of each what the study has."""
    return [
        _or_why("Learning rate and batch", evidence.hyper, _hyper),
        _or_why("Downstream", evidence.downstream, lambda fitted: _downstream(fitted, evidence)),
        _or_why("Mixture", evidence.mixture, lambda fitted: _mixture(fitted, evidence.metric)),
    ]


def _or_why(
    title: str, fitted: Fitted | Diagnostic | None, parts: Callable[[Fitted], Iterator[str]]
) -> str:
    """The section of a fit, or why there is none; empty where nothing of it was varied."""
    if fitted is None:
        return ""
    if isinstance(fitted, Diagnostic):
        return page.section(title, page.paragraph(f"No law can be fitted: {fitted.detail}."))
    return page.section(title, *parts(fitted))


def _excluded(found: Sequence[Excluded]) -> str:
    rows = [{"run_id": each.run_id, "reason": each.reason} for each in found]
    return page.folded(f"{len(rows)} runs kept out of it", page.table(rows))


def _formula(rule: Rule) -> str:
    """A rule as papers write it, such as 1.79 N^-0.713 D^0.307."""
    letters = {"params": "N", "tokens": "D", "flops": "C"}
    sizes = zip(FORMS[rule.form], rule.exponents, strict=True)
    powers = " ".join(f"{letters[size]}^{exponent:.3f}" for size, exponent in sizes)
    return f"{scientific(rule.coefficient)} {powers}"


def _hyper(fitted: Hyper) -> Iterator[str]:
    laws = "; ".join(f"{law.knob} = {_formula(law.rule)}" for law in fitted.laws)
    runs = [run for cell in fitted.cells for run in cell.run_ids]
    yield page.figure(
        hyper_figures.settings_figure(hyper_figures.settings_data(fitted)), "lr-batch", runs
    )
    yield page.paragraph(
        f"Points are the best settings of {len(fitted.cells)} cells, of one size and token count "
        f"each, with 95 % intervals, dashes what laws say of the same cells. This law: {laws}."
    )
    data = hyper_figures.surfaces_data(fitted)
    shown = data["run_id"].drop_nulls()
    yield page.figure(hyper_figures.surfaces_figure(data), "lr-batch-surfaces", shown)
    yield page.paragraph(
        "Loss above the minimum of a cell, by the quadratic surface through the runs near it; dots "
        "are these runs, the diamond is the minimum, the cross what this law says."
    )
    yield page.figure(
        hyper_figures.excess_figure(hyper_figures.excess_data(fitted)), "lr-batch-excess", runs
    )
    yield page.paragraph(
        "What following a law costs in each cell, by the cell's own surface; this law is fitted "
        "without the cell that it is scored on. Where a point is hollow the law's setting lies "
        "outside the runs, and the surface is extrapolated."
    )
    yield page.table(hyper.excess_rows(fitted))
    yield page.diagnostics(fitted.diagnostics)
    yield _excluded(fitted.excluded)


def _downstream(fitted: Downstream, evidence: Evidence) -> Iterator[str]:
    data = downstream_figures.downstream_data(fitted, evidence.target)
    for number, task in enumerate(fitted.tasks, start=1):
        if task.name:
            yield page.heading(task.name)
        rows = data.filter(data["task"] == task.name)
        figure = downstream_figures.downstream_figure(rows)
        yield page.figure(figure, f"downstream-{number}", task.run_ids)
        yield page.paragraph(_task(task, evidence.target))
        yield page.diagnostics(task.diagnostics)
    yield page.diagnostics(fitted.diagnostics)
    yield _excluded(fitted.excluded)


def _task(task: Task, target: float | None) -> str:
    """Which form the loss took and how it was tested, and what is expected at the target."""
    tested = (
        f"it erred by {100 * task.backtest[task.form]:.1f} % a root decade in back-tests from "
        f"{task.origins} origin{'s' if task.origins > 1 else ''}"
        if task.origins
        else "it was never tested on larger runs"
    )
    said = (
        f"Left, the loss on the right answers over compute, in its {task.form} form: {tested}. "
        f"Right, the accuracy that goes with it, of {len(task.nll)} runs; bands are 95 % intervals."
    )
    if target is None:
        return said
    at = downstream.predict(task, target)
    said += f" At {scientific(target)} FLOPs the loss is expected to be {at.nll:.3f} "
    said += f"({at.nll_low:.3f} to {at.nll_high:.3f})"
    if at.accuracy is None:
        return f"{said}; what accuracy follows from it is not known."
    return (
        f"{said}, the accuracy {at.accuracy:.3f} ({at.accuracy_low:.3f} to {at.accuracy_high:.3f})."
    )


def _mixture(fitted: MixtureFit, metric: str) -> Iterator[str]:
    data = mixture_figures.mixture_data(fitted)
    best = fitted.optimum
    models = Counter(law.model for law in fitted.laws.laws)
    chosen = ", ".join(f"{model} for {count}" for model, count in models.most_common())
    yield page.figure(mixture_figures.mixture_figure(data, metric), "mixture", fitted.run_ids)
    yield page.paragraph(
        f"Left, each loss of {len(fitted.run_ids)} runs as a law says it that has not seen the run "
        f"(laws chosen by cross-validation: {chosen} of {len(fitted.loss_domains)} losses). Right, "
        f"the mixture of least mean loss, {best.loss:.4f} ({best.low:.4f} to {best.high:.4f} for "
        f"one run of it); it beats every mixture tried with probability {best.better:.2f}. It "
        "holds at the size of these runs; at others it is not proved."
    )
    yield page.diagnostics(fitted.diagnostics)
    yield _excluded(fitted.excluded)

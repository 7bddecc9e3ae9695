"""The sections of a report on the compute laws: fan, forecast, surfaces, back-tests."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from analysis import isoflop
from analysis.backtest import next_rows
from analysis.law import Diagnostic, Fit, Forecast, scientific
from analysis.panel import Member, Panel
from analysis.report import figures, law_figures, page
from analysis.report.evidence import Evidence
from analysis.report.law_figures import LEVEL, leading_surface

PARTS = {
    "runs": "the scatter of the runs",
    "backtest": "the back-test",
    "laws": "the disagreement of the laws",
}


def sections(evidence: Evidence) -> list[str]:
    """The fan, and where a law can be fitted what the laws say, leave over, and once got wrong."""
    panel = evidence.panel
    if panel is None:
        said = page.paragraph(f"No law can be fitted: {evidence.refusal}.")
        return [_fan(evidence), page.section("Laws", said)]
    at = evidence.forecast or panel.at(panel.runs.rungs[-1])
    return [
        _fan(evidence),
        _laws(evidence, panel, at),
        _surface(evidence, panel, at),
        _backtests(panel, at),
    ]


def _ids(rows: pl.DataFrame) -> list[str]:
    """The runs of rows, of which some may be of none."""
    return rows["run_id"].drop_nulls().to_list()


def _fan(evidence: Evidence) -> str:
    data = figures.isoflop_data(evidence.runs)
    if data.is_empty():
        if evidence.panel is None:
            return ""
        return page.section("IsoFLOP", page.paragraph("The runs belong to no budgets: no fan."))
    found = isoflop.minima(evidence.runs, "params")
    good = sum(p.refusal is None for p in found)
    sentence = (
        "Each point is a run, each curve a parabola in log parameters through the runs of one "
        f"budget; diamonds mark the minima. {good} of {len(found)} budgets have a minimum inside "
        "the sizes tried; a hollow one is refused and feeds no law."
    )
    if len(figures.moved(data)):
        sentence += (
            " An open diamond is where the parabola turns; the full one beside it is freed of the "
            "bias that a parabola has on a surface which is steeper on one side."
        )
    return page.section(
        "IsoFLOP",
        page.figure(figures.isoflop_figure(data, evidence.metric), "isoflop", _ids(data)),
        page.paragraph(sentence),
        page.diagnostics(p.refusal for p in found if p.refusal),
    )


def _laws(evidence: Evidence, panel: Panel, at: Forecast) -> str:
    target = evidence.forecast
    sentence = (
        "The blue lines are the forecast of all laws together, bands its 95 % intervals: a "
        "bootstrap over runs, widened beyond the largest budget by what each law got wrong in "
        "predicting larger budgets from smaller ones. Dotted lines are single laws. N stands for "
        f"{evidence.runs.params_convention}."
    )
    if target:
        sentence += (
            f" The star is the target, {target.extrapolation:.2f} decades above the largest usable "
            f"budget; most of its loss interval comes from {PARTS[target.dominant]}."
        )
    data = figures.laws_data(panel, target)
    place = "the target" if target else "the largest budget (no target is named)"
    return page.section(
        "Laws",
        page.figure(figures.laws_figure(data, evidence.metric), "laws", _ids(panel.runs.frame)),
        page.paragraph(sentence),
        page.diagnostics((*evidence.runs.notes, *at.diagnostics)),
        page.paragraph(f"What each law says of {place}, {scientific(at.budget)} FLOPs."),
        _opinions(at),
        _refused(panel),
    )


def _opinions(at: Forecast) -> str:
    return page.table(
        [
            {
                "law": one.law,
                "N*": one.params,
                "D*": one.tokens,
                "L*": one.loss,
                "low": one.low,
                "high": one.high,
                "back-test error": one.loss_error,
                "weight, sizes": f"{one.size_weight:.2f}",
                "weight, loss": f"{one.loss_weight:.2f}",
                "why doubted": "; ".join(map(str, one.diagnostics)),
            }
            for one in at.opinions
        ]
    )


def _refused(panel: Panel) -> str:
    """The laws that these runs cannot carry."""
    return page.diagnostics(Diagnostic(f"no {d.name}", d.detail) for d in panel.refused)


def _surface(evidence: Evidence, panel: Panel, at: Forecast) -> str:
    surfaces = [m.fit for m in panel.members if m.law.surface]
    curves = [m.fit for m in panel.members if not m.law.surface]
    tables = [_coefficients(surfaces), *(_coefficients([fit]) for fit in curves)]
    lead = leading_surface(panel, at)
    if lead is None:
        why = "No surface L(N, D) could be fitted: there is nothing that runs leave over."
        return page.section("Coefficients", page.paragraph(why), *tables)
    data = law_figures.residuals_data(lead, panel.runs, evidence.points)
    return page.section(
        "Surface",
        page.figure(law_figures.residuals_figure(data), "residuals", _ids(data)),
        page.paragraph(_residual_sentence(lead.law.name, data)),
        page.heading("Coefficients"),
        page.paragraph("Standard errors and 95 % intervals are of the bootstrap over runs."),
        *tables,
    )


def _residual_sentence(law: str, data: pl.DataFrame) -> str:
    """How far runs stray from the surface, and on which rung they do so together."""
    runs = data.filter(pl.col("kind") == "run")
    rungs, residual = runs["rung"].to_numpy(), runs["residual"].to_numpy()
    scatter = float(np.median(np.abs(residual))) / 0.6745
    means = {rung: float(residual[rungs == rung].mean()) for rung in np.unique(rungs).tolist()}
    worst = max(means, key=lambda rung: abs(means[rung]))
    members = len(rungs[rungs == worst])
    said = (
        f"What the law {law!r}, the surface with most weight, leaves of the runs: they scatter by "
        f"{100 * scatter:.2f} % about it (robust standard deviation). Runs of one compute that lie "
        "together above or below zero are a misfit of its form; the furthest off are those at "
        f"{scientific(worst)} FLOPs, {_signed(means[worst], 2)} in the mean of {members}."
    )
    if len(runs) < len(data):
        said += (
            " A cross is a run kept out of the fit, with the reason on hover; one further off than "
            "the axis reaches stands at its edge."
        )
    return said


def _coefficients(fits: Sequence[Fit]) -> str:
    """A row a coefficient, a column a law: value, standard error, interval."""
    names = dict.fromkeys(name for fit in fits for name in fit.coef)
    return page.table(
        [
            {"coefficient": name} | {fit.law: _coefficient(fit, name) for fit in fits}
            for name in names
        ]
    )


def _coefficient(fit: Fit, name: str) -> str | None:
    if name not in fit.coef:
        return None
    value, error, interval = fit.coef[name], fit.se[name], fit.intervals[name]
    if value is None:
        return "not identified"
    low, high = (scientific(end) for end in interval) if interval else ("?", "?")
    spread = f" ± {scientific(error)}" if error is not None else ""
    return f"{scientific(value, 4)}{spread} ({low} to {high})"


def _backtests(panel: Panel, at: Forecast) -> str:
    data = law_figures.backtest_data(panel)
    if data.is_empty():
        why = "too few budgets to predict one from the others; the intervals are those of the runs"
        return page.section("Back-test", page.paragraph(f"There is none: {why}."))
    lead = next(m for m in panel.members if m.law.name == at.fit.law)
    sentence = (
        "Each budget predicted from the smaller ones: a full point is the next budget, a hollow "
        "one lies further off. Curves bound what a law's 95 % interval adds for extrapolation, "
        "Student's t x wander x root of the decades, where the wander is what the full points show "
        f"beyond the noise of the runs. {_lead_sentence(lead)}"
    )
    return page.section(
        "Back-test",
        page.figure(law_figures.backtest_figure(data), "back-test", _ids(panel.runs.frame)),
        page.paragraph(sentence),
        page.table([_summary(member) for member in panel.members]),
        page.folded("Every next budget predicted, as a table", _rows(panel)),
    )


def _lead_sentence(lead: Member) -> str:
    """What the law with most weight got wrong, and what that makes of its intervals."""
    nearest = [row for row in next_rows(lead.backtest) if row.loss_error is not None]
    if not nearest:
        return f"The law with most weight, {lead.law.name!r}, has none of its loss."
    worst = max(nearest, key=lambda row: abs(row.loss_error or 0.0))
    said = (
        f"The law with most weight, {lead.law.name!r}, was furthest off at "
        f"{scientific(worst.budget)} FLOPs, {_signed(worst.loss_error, 2)} in the loss; "
    )
    wander = lead.wander["loss"]
    if not wander.per_root_decade:
        return f"{said}that is within the noise of the runs, and its interval gains nothing."
    errors = [(abs(r.loss_error), r.decades) for r in lead.backtest if r.loss_error is not None]
    inside = sum(error <= wander.half_width(decades, LEVEL) for error, decades in errors)
    return (
        f"{said}{inside} of its {len(errors)} predictions, near and far, lie between its curves, "
        f"and a decade out its interval of ln L gains ±{wander.half_width(1.0, LEVEL):.4f}."
    )


def _signed(log_error: float | None, digits: int) -> str | None:
    """A log ratio as a percentage."""
    return None if log_error is None else f"{100 * math.expm1(log_error):+.{digits}f} %"


def _summary(member: Member) -> dict[str, str | int | None]:
    """How often a law was tested, and its errors in logs a root decade, root mean squares."""

    def root(quantity: str, digits: int) -> str | None:
        if not member.wander[quantity].dof:
            return None
        return f"{math.sqrt(member.mean_square[quantity]):.{digits}f}"

    return {
        "law": member.law.name,
        "next budgets predicted": len(next_rows(member.backtest)),
        "all predictions": len(member.backtest),
        "ln N* error a root decade": root("params", 2),
        "ln D* error a root decade": root("tokens", 2),
        "ln L* error a root decade": root("loss", 4),
    }


def _rows(panel: Panel) -> str:
    return page.table(
        [
            {
                "law": m.law.name,
                "budgets up to": scientific(row.upto),
                "predict": scientific(row.budget),
                "decades": f"{row.decades:.2f}",
                "N* error": _signed(row.params_error, 1),
                "D* error": _signed(row.tokens_error, 1),
                "L* error": _signed(row.loss_error, 2),
            }
            for m in panel.members
            for row in next_rows(m.backtest)
        ]
    )

"""The report of a study: one HTML file that opens anywhere, at any stage, the same bytes again.

What stands in it is in `evidence.Evidence`; here it becomes sentences, figures and tables.
"""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.io as pio
from plotly.offline import get_plotlyjs

from analysis import figures, isoflop, run_figures, style
from analysis.evidence import Evidence, Promoted, gather
from analysis.law import Diagnostic, scientific
from analysis.store import Connection

UNFINISHED = ("PLANNED", "QUEUED", "RUNNING")
LONG = ("why", "reason", "measured")  # columns of sentences: they may wrap

STYLE = """
body { font: 16px/1.5 FONT; color: #1b1f24; background: #f6f7f9; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 0 0 8px; }
h3 { font-size: 16px; margin: 20px 0 4px; }
.question { color: #59636e; font-size: 18px; margin: 0 0 24px; }
.headline { font-size: 19px; border-left: 4px solid #D55E00; }
section { background: white; border-radius: 8px; padding: 20px 24px; margin: 0 0 20px;
  box-shadow: 0 1px 2px rgba(27, 31, 36, .08); overflow-x: auto; }
.diagnostics { color: #59636e; font-size: 14px; } .diagnostics b { color: #D55E00; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums;
  width: 100%; }
th { text-align: left; border-bottom: 2px solid #d5dae0; padding: 6px 10px; white-space: nowrap; }
td { border-bottom: 1px solid #e6e9ed; padding: 5px 10px; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 16em; }
table.sortable th { cursor: pointer; } code { font-size: 12px; color: #59636e; }
.yes { color: #007a56; } .no { color: #b84a00; font-weight: 600; }
""".replace("FONT", style.FONT)

SORT = """
document.querySelectorAll('table.sortable th').forEach(function (head) {
  head.addEventListener('click', function () {
    var body = head.closest('table').tBodies[0], column = head.cellIndex;
    var up = head.dataset.up = head.dataset.up === '1' ? '0' : '1';
    var key = function (row) { return row.cells[column].dataset.key; };
    Array.from(body.rows).sort(function (a, b) {
      var x = key(a), y = key(b), numbers = x !== '' && y !== '' && !isNaN(x) && !isNaN(y);
      return (up === '1' ? 1 : -1) * (numbers ? x - y : x.localeCompare(y));
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""


def _text(value: object) -> str:
    """A cell's text: numbers short, null as a dash, everything escaped."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return scientific(value, 4)
    return html.escape(str(value))


def _table(rows: Sequence[Mapping[str, Any]], *, sortable: bool = False) -> str:
    """A table of rows with the keys of the first; a column without any value is left out."""
    if not rows:
        return ""
    names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(_cell(name, row[name]) for name in names)}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(name: str, value: object) -> str:
    key = html.escape("" if value is None else str(value))
    shown = f"<code>{_text(value)}</code>" if name == "run_id" else _text(value)
    look = "wrap" if name in LONG else ("yes" if value else "no") if name == "passed" else ""
    return f'<td data-key="{key}" class="{look}">{shown}</td>'


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text).replace(' %', '&nbsp;%')}</p>"


def _figure(figure: Any, name: str) -> str:
    config = {"displaylogo": False, "responsive": True}
    return str(
        pio.to_html(figure, config=config, include_plotlyjs=False, full_html=False, div_id=name)
    )


def _diagnostics(found: Iterable[Diagnostic]) -> str:
    items = [f"<li><b>{html.escape(d.name)}</b> {html.escape(d.detail)}</li>" for d in found]
    return f'<ul class="diagnostics">{"".join(items)}</ul>' if items else ""


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def headline(evidence: Evidence) -> str:
    """One sentence: what was forecast, what was measured, or how far the study is."""
    done = sum(row["state"] == "DONE" for row in evidence.trials)
    unit = style.UNITS.get(evidence.metric, evidence.metric)
    progress = f"{done} of {len(evidence.trials)} trials are done."
    if evidence.promotions:
        last = evidence.promotions[-1]
        said = last.forecast
        sentence = (
            f"At {scientific(said['budget'])} FLOPs the forecast is {said['loss']:.4f} {unit} "
            f"({_percent(said['level'])} interval {said['low']:.4f} to {said['high']:.4f})"
        )
        if last.measured is None:
            return f"{sentence}; the promoted run has not been measured yet. {progress}"
        error = 100 * (last.measured / said["loss"] - 1)
        inside = "inside" if said["low"] <= last.measured <= said["high"] else "outside"
        return (
            f"{sentence}; the promoted run measured {last.measured:.4f}, {abs(error):.2f} % "
            f"{'above' if error > 0 else 'below'} it and {inside} the interval."
        )
    if evidence.forecast:
        said = evidence.forecast
        return (
            f"At {scientific(said.budget)} FLOPs the forecast is {said.loss:.4f} {unit} "
            f"({_percent(said.level)} interval {said.low:.4f} to {said.high:.4f}), with "
            f"{scientific(said.params)} parameters and {scientific(said.tokens)} tokens. {progress}"
        )
    return f"There is no forecast yet. {progress}"


def _fan(evidence: Evidence) -> str:
    data = figures.isoflop_data(evidence.points)
    if data.is_empty():
        return _section("IsoFLOP", _paragraph(evidence.refusal or "No ladder run is done yet."))
    found = isoflop.parabolas(evidence.points, "params")
    good = sum(p.refusal is None for p in found)
    sentence = (
        f"Each point is a run, each curve a parabola in log parameters through the runs of one "
        f"budget; diamonds mark the minima. {good} of {len(found)} budgets have a minimum inside "
        "the sizes tried; a hollow one is refused and feeds no law."
    )
    refusals = [p.refusal for p in found if p.refusal]
    return _section(
        "IsoFLOP",
        _figure(figures.isoflop_figure(data, evidence.metric), "isoflop"),
        _paragraph(sentence),
        _diagnostics(refusals),
    )


def _laws(evidence: Evidence) -> str:
    if not evidence.fit:
        return _section("Laws", _paragraph(f"No law can be fitted: {evidence.refusal}."))
    fit, target = evidence.fit, evidence.forecast
    floor = f"{fit.coef['loss_irreducible']:.5g} + " if fit.coef["loss_irreducible"] else ""
    sentence = (
        f"N* = {fit.coef['params_coefficient']:.5g} C^{fit.coef['params_exponent']:.5f}, "
        f"D* = {fit.coef['tokens_coefficient']:.5g} C^{fit.coef['tokens_exponent']:.5f}, "
        f"L* = {floor}{fit.coef['loss_coefficient']:.5g} C^-{fit.coef['loss_exponent']:.5f}, "
        f"with N counted as {fit.params_convention}. Bands are 95 % intervals: a bootstrap over "
        "runs, widened beyond the largest budget by what the smaller budgets got wrong."
    )
    if target:
        part = "the scatter of the runs" if target.dominant == "runs" else "the back-test"
        sentence += (
            f" The star is the target, {target.extrapolation:.2f} decades above the largest usable "
            f"budget; most of its loss interval comes from {part}."
        )
    data = figures.laws_data(evidence.points, fit, target)
    return _section(
        "Laws",
        _figure(figures.laws_figure(data, fit.metric), "laws"),
        _paragraph(sentence),
        _diagnostics(fit.diagnostics),
        _backtest(evidence),
    )


def _backtest(evidence: Evidence) -> str:
    assert evidence.fit
    rows = [
        {
            "predicted budget": scientific(row.budget),
            "from budgets": row.fitted_budgets,
            "decades": f"{row.decades:.2f}",
            "N* error": f"{100 * row.params_error:+.1f} %",
            "D* error": f"{100 * row.tokens_error:+.1f} %",
            "L* error": f"{100 * row.loss_error:+.2f} %",
        }
        for row in evidence.fit.backtest
    ]
    return _paragraph("Back-test: each budget predicted from the smaller ones.") + _table(rows)


def _ablations(evidence: Evidence) -> str:
    if not evidence.effects:
        return ""
    data = figures.ablation_data(evidence.effects)
    noise = evidence.effects[0].noise
    scatter = f"one run scatters by {noise:.4f}" if noise is not None else "noise is not known"
    sentence = (
        f"Differences to the baseline, paired by seed and budget, with 95 % intervals; {scatter}; "
        "the verdict is at 5 % after Holm's correction. Measured at "
        f"{', '.join(scientific(budget) for budget in evidence.ablation_budgets)} FLOPs: what "
        "helps there need not help at the target."
    )
    drawn = data.filter(data["difference"].is_not_null())
    figure = figures.ablation_figure(drawn, evidence.metric) if len(drawn) else None
    columns = ["axis", "level", "difference", "low", "high", "p", "n", "verdict"]
    return _section(
        "Ablations",
        _figure(figure, "ablations") if figure else "",
        _paragraph(sentence),
        _table(data.select(columns).to_dicts()),
    )


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
    return _section(
        f"Promotion {promoted.name}",
        _figure(run_figures.promotion_figure(data, metric), f"promotion-{number}"),
        _paragraph(sentence),
        _diagnostics(promoted.diagnostics),
        "<h3>Gates</h3>",
        _table(gates) or _paragraph("No gate was recorded."),
        "<h3>Stages</h3>",
        _table(promoted.stages) or _paragraph("No stage has been submitted yet."),
    )


def _training(evidence: Evidence) -> str:
    data = run_figures.training_data(evidence.steps)
    if data.is_empty():
        return ""
    figure = _figure(run_figures.training_figure(data), "training")
    sentence = "Training loss as logged, a line a run, pale lines for the larger budgets."
    return _section("Training", figure, _paragraph(sentence))


def _page(evidence: Evidence) -> str:
    title = html.escape(evidence.study)
    open_runs = {row["run_id"] for row in evidence.trials if row["state"] in UNFINISHED}
    excluded = [
        {"run_id": e.run_id, "reason": e.reason}
        for e in evidence.excluded
        if e.run_id not in open_runs
    ]
    promotions = enumerate(evidence.promotions, start=1)
    parts = [
        f'<h1>{title}</h1><p class="question">{html.escape(evidence.question)}</p>',
        f'<section class="headline">{html.escape(headline(evidence))}</section>\n',
        _fan(evidence),
        _laws(evidence),
        _ablations(evidence),
        *(_promotion(promoted, number, evidence.metric) for number, promoted in promotions),
        _training(evidence),
        _section("Kept out of the fit", _table(excluded)) if excluded else "",
        _section("Trials", _table(evidence.trials, sortable=True) or _paragraph("None yet.")),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head>\n<body><main>{''.join(parts)}</main>"
        f"<script>{SORT}</script></body></html>\n"
    )


def write(con: Connection, study: str, path: Path) -> None:
    """Write the report of a study, whatever has been done of it so far; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(_page(gather(con, study)), encoding="utf-8")
    temporary.replace(path)

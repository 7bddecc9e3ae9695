"""The pieces of a report in HTML: sections, sentences, figures, tables, and the page itself."""

# plotly comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import plotly.io as pio
from plotly.offline import get_plotlyjs

from analysis.law import Diagnostic, scientific
from analysis.report import style

LONG = (
    "why",
    "reason",
    "measured",
    "why doubted",
    "doubts",
    "cause",
)  # columns of sentences: they may wrap

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
  width: 100%; margin: 0 0 16px; }
th { text-align: left; border-bottom: 2px solid #d5dae0; padding: 6px 10px; white-space: nowrap; }
td { border-bottom: 1px solid #e6e9ed; padding: 5px 10px; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 16em; }
table.sortable th { cursor: pointer; } code { font-size: 12px; color: #59636e; }
summary { cursor: pointer; color: #59636e; font-size: 14px; margin: 8px 0; }
.runs { columns: 11em; margin: 0 0 16px; } .runs code { display: block; }
.runs a { color: inherit; } tr:target { background: #fff3c4; }
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


def table(
    rows: Sequence[Mapping[str, Any]], *, sortable: bool = False, of_runs: bool = False
) -> str:
    """A table of rows with the keys of the first; a column without any value is left out.

    A row of one `of_runs` is where the run's name below a figure leads to.
    """
    if not rows:
        return ""
    names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        f"<tr{_anchor(row) if of_runs else ''}>"
        f"{''.join(_cell(name, row[name]) for name in names)}</tr>"
        for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _place(run_id: object) -> str:
    """The name of a run's row within the page; quoted, for ids of files may hold anything."""
    return f"run-{quote(str(run_id), safe='')}"


def _anchor(row: Mapping[str, Any]) -> str:
    return f' id="{_place(row["run_id"])}"'


def _cell(name: str, value: object) -> str:
    key = html.escape("" if value is None else str(value))
    shown = f"<code>{_text(value)}</code>" if name == "run_id" else _text(value)
    look = "wrap" if name in LONG else ("yes" if value else "no") if name == "passed" else ""
    return f'<td data-key="{key}" class="{look}">{shown}</td>'


def section(title: str, *parts: str) -> str:
    """A white card of the page under its heading."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{html.escape(text)}</h3>"


def paragraph(text: str) -> str:
    """A sentence or more; a percent sign stays with its number."""
    return f"<p>{html.escape(text).replace(' %', '&nbsp;%')}</p>"


def folded(title: str, content: str) -> str:
    """Content that shows when its title is clicked."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>" if content else ""


def figure(drawn: Any, name: str, run_ids: Iterable[str]) -> str:
    """A plotly figure and the runs that it rests on; `name` is its id on the page."""
    config = {"displaylogo": False, "responsive": True}
    shown = pio.to_html(drawn, config=config, include_plotlyjs=False, full_html=False, div_id=name)
    return f"{shown}{_runs(run_ids)}"


def _runs(run_ids: Iterable[str]) -> str:
    """The runs of a figure, each leading to its row in the table of runs."""
    found = sorted({str(run_id) for run_id in run_ids})
    if not found:
        return ""
    links = (
        f'<code><a href="#{_place(run_id)}">{html.escape(run_id)}</a></code>' for run_id in found
    )
    title = "The run of this figure" if len(found) == 1 else f"The {len(found)} runs of this figure"
    return folded(title, f'<div class="runs">{"".join(links)}</div>')


def diagnostics(found: Iterable[Diagnostic]) -> str:
    """Named doubts as a list, each once."""
    each = dict.fromkeys(found)
    items = [f"<li><b>{html.escape(d.name)}</b> {html.escape(d.detail)}</li>" for d in each]
    return f'<ul class="diagnostics">{"".join(items)}</ul>' if items else ""


def document(title: str, question: str, headline: str, sections: Iterable[str]) -> str:
    """The whole page, which loads nothing from anywhere."""
    name = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head>\n<body><main>"
        f'<h1>{name}</h1><p class="question">{html.escape(question)}</p>'
        f'<section class="headline">{html.escape(headline)}</section>\n'
        f"{''.join(sections)}</main><script>{SORT}</script></body></html>\n"
    )

"""The report: whole at every stage, honest about what is missing, and the same bytes again."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import report, store
from tests.analysis.conftest import Study

FIGURES = {"isoflop", "laws", "ablations", "promotion-1", "training"}


class Page(HTMLParser):
    """What a browser would show: text outside scripts, ids of figures, and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.figures, self.loaded, self.scripts = "", set[str](), list[str](), 0
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._silent = tag in ("script", "style")
        self.scripts += tag == "script"
        if named.get("class") == "plotly-graph-div":
            self.figures.add(str(named["id"]))
        self.loaded += [str(named[key]) for key in ("src", "href") if key in named]

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data.replace("\xa0", " ") + " "


def written(con: store.Connection, folder: Path, name: str = "tiny") -> Page:
    report.write(con, name, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_a_promoted_study_shows_forecast_against_measured(study: Study, tmp_path: Path) -> None:
    page = written(study(promoted=True), tmp_path)
    assert page.figures == FIGURES
    assert re.search(
        r"At 1e13 FLOPs the forecast is \d\.\d{4} nats/token "
        r"\(95 % interval \d\.\d{4} to \d\.\d{4}\); "
        r"the promoted run measured \d\.\d{4}, 1\.00 % above it and inside the interval",
        page.text,
    )


def test_gates_and_stages_of_a_promotion_are_listed(study: Study, tmp_path: Path) -> None:
    text = " ".join(written(study(promoted=True), tmp_path).text.split())
    assert "width no 0.31 0.25 wide" in text
    assert re.search(r"pretrain DONE .* p0 sft DONE .* p1 PLANNED .* p2", text)


def test_a_study_without_promotion_shows_its_forecast(study: Study, tmp_path: Path) -> None:
    page = written(study(), tmp_path)
    assert page.figures == FIGURES - {"promotion-1"}
    assert re.search(r"the forecast is .* parameters and .* tokens\. 28 of 29 trials", page.text)


def test_a_study_where_nothing_is_done_says_so(study: Study, tmp_path: Path) -> None:
    page = written(study(done=False), tmp_path)
    assert page.figures == set()
    assert "There is no forecast yet. 0 of 29 trials are done." in page.text
    assert page.text.count("PLANNED") == 29


def test_a_study_that_does_not_exist_yet_is_an_empty_report(study: Study, tmp_path: Path) -> None:
    page = written(study(), tmp_path, name="other")
    assert "0 of 0 trials are done" in page.text


def test_a_fit_that_cannot_be_says_why_beside_the_fan(study: Study, tmp_path: Path) -> None:
    page = written(study(noise=0.5), tmp_path)
    assert "isoflop" in page.figures
    assert "laws" not in page.figures
    assert re.search(r"No law can be fitted: \d usable budgets .*concave_or_flat", page.text)


def test_a_run_kept_out_of_the_fit_is_named_with_its_reason(study: Study, tmp_path: Path) -> None:
    text = " ".join(written(study(), tmp_path).text.split())
    assert "Kept out of the fit run id reason run7 state DIVERGED" in text


def test_an_ablation_is_told_in_words(study: Study, tmp_path: Path) -> None:
    text = " ".join(written(study(), tmp_path).text.split())
    assert re.search(r"activation gelu 0\.0\d+ .* worse activation relu2 .* no difference", text)


def test_markup_in_names_is_shown_and_never_run(study: Study, tmp_path: Path) -> None:
    evil = "<script>alert('x')</script><img src=x onerror=alert(1)>"
    plain = written(study(), tmp_path)
    page = written(study(name=evil, question=f"Why {evil}?"), tmp_path, name=evil)
    assert page.text.count(evil) == 3  # title, heading, question
    assert page.scripts == plain.scripts
    assert page.loaded == plain.loaded


def test_a_level_with_markup_cannot_leave_its_figure(study: Study, tmp_path: Path) -> None:
    con = study()
    evil = "</script><script>alert(1)</script>"
    rows = store.query(con, "select * from trials where study = 'tiny'").to_dicts()
    for row in rows:
        row["values"] = str(row["values"]).replace("gelu", evil)
    store.replace(con, "trials", "tiny", rows)
    with_markup = written(con, tmp_path)
    assert with_markup.scripts == written(study(), tmp_path).scripts


def test_the_same_study_gives_the_same_bytes(study: Study, tmp_path: Path) -> None:
    con = study(promoted=True)
    for name in ("first.html", "second.html"):
        report.write(con, "tiny", tmp_path / name)
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_the_report_loads_nothing(study: Study, tmp_path: Path) -> None:
    assert written(study(promoted=True), tmp_path).loaded == ["data:,"]


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_every_figure_without_a_complaint(study: Study, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: install the Debian package chromium")
    report.write(study(promoted=True), "tiny", tmp_path / "report.html")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    drawn = {
        name
        for name in FIGURES
        if f'id="{name}" class="plotly-graph-div js-plotly-plot"' in done.stdout
    }
    assert drawn == FIGURES
    assert "CONSOLE" not in done.stderr

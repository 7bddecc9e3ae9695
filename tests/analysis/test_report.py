"""The report: whole at every stage, honest about what is missing, and the same bytes again."""

import html
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis import store
from analysis.report import write as report
from tests.analysis import ablations, ladders
from tests.analysis.conftest import Study, builder, imported
from tests.analysis.outside import lr_sweep, mixing_study, task

LAWS = {"isoflop", "laws", "residuals", "back-test"}
FIGURES = LAWS | {"ablations", "promotion-1", "training"}


class Page(HTMLParser):
    """What a browser would show: text outside scripts, figures, links, what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.figures, self.loaded, self.scripts = "", set[str](), list[str](), 0
        self.anchors, self.links = set[str](), set[str]()
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._silent = tag in ("script", "style")
        self.scripts += tag == "script"
        if named.get("class") == "plotly-graph-div":
            self.figures.add(str(named["id"]))
        self.anchors |= {str(named["id"])} if "id" in named else set()
        addresses = [str(named[key]) for key in ("src", "href") if key in named]
        self.links |= {one[1:] for one in addresses if one.startswith("#")}
        self.loaded += [one for one in addresses if not one.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data.replace("\xa0", " ") + " "


def written(con: store.Connection, folder: Path, name: str = "tiny") -> Page:
    report.write(con, name, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def browse(page: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What a browser made of a page on stdout, what it complained of on stderr."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: install the Debian package chromium")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[store.Connection, Path]]:
    """A study that was promoted, and its report."""
    folder = tmp_path_factory.mktemp("promoted")
    with builder(folder) as build:
        con = build(promoted=True)
        report.write(con, "tiny", folder / "report.html")
        yield con, folder / "report.html"


@pytest.fixture(scope="module")
def shown(promoted: tuple[store.Connection, Path]) -> Page:
    return Page(promoted[1].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a study whose trials are done."""
    folder = tmp_path_factory.mktemp("done")
    with builder(folder) as build:
        return written(build(), folder)


def test_a_promoted_study_shows_forecast_against_measured(shown: Page) -> None:
    assert shown.figures == FIGURES
    assert re.search(
        r"At 1e13 FLOPs the forecast is \d\.\d{4} nats/token "
        r"\(95 % interval \d\.\d{4} to \d\.\d{4}\); "
        r"the promoted run measured \d\.\d{4}, 1\.00 % above it and inside the interval",
        shown.text,
    )


def test_gates_and_stages_of_a_promotion_are_listed(shown: Page) -> None:
    assert "width no 0.31 0.25 wide" in words(shown)
    assert re.search(r"pretrain DONE .* p0 sft DONE .* p1 PLANNED .* p2", words(shown))


def test_a_study_without_promotion_shows_its_forecast(done: Page) -> None:
    assert done.figures == FIGURES - {"promotion-1"}
    assert re.search(r"the forecast is .* parameters and .* tokens\. 28 of 29 trials", done.text)


def test_each_law_says_its_word_and_how_its_back_tests_went(done: Page) -> None:
    text = words(done)
    for law in ("isoflop", "parametric", "tied", "farseer", "envelope"):
        assert len(re.findall(rf"\b{law} ", text)) >= 2, law
    assert "What each law says of the target, 1e13 FLOPs." in text
    assert re.search(r"predictions, near and far, lie between|within the noise of the runs", text)


def test_a_coefficient_that_the_runs_do_not_tell_has_no_number(done: Page) -> None:
    assert re.search(r"coefficient parametric tied farseer E \d.* not identified A ", words(done))


def test_a_study_where_nothing_is_done_says_so(study: Study, tmp_path: Path) -> None:
    page = written(study(done=False), tmp_path)
    assert page.figures == set()
    assert "There is no forecast yet. 0 of 29 trials are done." in page.text
    assert page.text.count("PLANNED") == 2 * 29  # as trials, and as runs


def test_a_study_that_does_not_exist_yet_is_an_empty_report(study: Study, tmp_path: Path) -> None:
    page = written(study(done=False), tmp_path, name="other")
    assert "0 of 0 trials are done" in page.text


def test_a_fit_that_cannot_be_says_why_beside_the_fan(study: Study, tmp_path: Path) -> None:
    con = study()
    trials = store.query(con, "select * from trials where study = 'tiny'").to_dicts()
    store.replace(con, "trials", "tiny", [row for row in trials if row["number"] < 5])
    page = written(con, tmp_path)
    assert "isoflop" in page.figures
    assert "laws" not in page.figures
    assert "No law can be fitted: 1 usable budgets (1e11), 3 are needed" in words(page)


def test_a_study_of_rows_from_outside_counts_them(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    rows = ladders.ladder((1e18, 3e18, 1e19, 3e19), noise=0.002).drop("design", "seed")
    page = written(con, tmp_path, imported(con, tmp_path, rows))
    assert page.figures == LAWS
    text = words(page)
    assert "No target is named, so there is no forecast" in text
    assert "rest on 20 runs up to 3e19 FLOPs. 20 runs were imported." in text
    assert "trials are done" not in text
    assert "What each law says of the largest budget (no target is named), 3e19 FLOPs." in text
    assert "Imported runs run id state budget" in text


@pytest.mark.parametrize(
    ("rows", "figures", "sentence"),
    [
        (lr_sweep(), {"lr-batch", "lr-batch-surfaces", "lr-batch-excess"}, "This law: lr = "),
        (task(), {"downstream-1"}, "the loss on the right answers over compute"),
        (mixing_study(), {"mixture"}, "the mixture of least mean loss"),
    ],
    ids=["lr-batch", "downstream", "mixture"],
)
def test_what_else_was_varied_has_its_figures_and_a_sentence(
    study: Study, tmp_path: Path, rows: pl.DataFrame, figures: set[str], sentence: str
) -> None:
    con = study(done=False)
    page = written(con, tmp_path, imported(con, tmp_path, rows))
    assert figures <= page.figures
    assert sentence in words(page)


def test_mixtures_too_few_for_a_law_say_so(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    text = words(written(con, tmp_path, imported(con, tmp_path, mixing_study(3))))
    assert "Mixture No law can be fitted: 3 usable mixtures of 3 domains" in text


def test_axes_over_budgets_and_together_have_multipliers_and_interactions(
    study: Study, tmp_path: Path
) -> None:
    con = study(done=False)
    crossed_ladder(con, tmp_path / "runs")
    page = written(con, tmp_path, name="axes")
    assert {"ablations", "multipliers", "interactions"} <= page.figures
    text = words(page)
    assert "position = late wins small, expected to lose at the target: its multiplier" in text
    assert re.search(r"norm x activation layer x gelu -0\.0\d+ .* better", text)


def crossed_ladder(con: store.Connection, runs: Path) -> None:
    """Study axes: a position that wins small and loses large; two axes that gain together."""
    trials: list[dict[str, Any]] = []

    def add(design: str, budget: float, seed: int, loss: float, values: dict[str, Any]) -> None:
        run_id = f"axes{len(trials)}"
        spec, result = {"seed": seed, "budget": budget}, {"nats_per_token": loss, "flops": budget}
        ladders.write_run(runs, run_id, spec=spec, result=result)
        row = {"number": len(trials), "run_id": run_id, "design": design, "budget": budget}
        trials.append(row | {"seed": seed, "values": values})

    laws = {"late": ablations.crossing(1e20, 0.13)}
    rows = ablations.ladder(laws, budgets=(1e18, 1e19, 1e20), noise=0.0005)
    for row in rows.iter_rows(named=True):
        values = {name: row[name] for name in ("axis", "level", "baseline")}
        add("one_at_a_time", row["budget"], row["seed"], row["loss"], values)
    rng = np.random.default_rng(0)
    base = ablations.loss(ablations.BASE, 1e18)
    for seed, norm, activation in itertools.product(range(3), ("rms", "layer"), ("relu", "gelu")):
        both = norm == "layer" and activation == "gelu"
        loss = base + 0.02 * (norm == "layer") - 0.03 * both + 0.0005 * rng.normal()
        add("grid", 1e18, seed, loss, {"norm": norm, "activation": activation})
    axes = [{"name": name, "path": f"model.{name}"} for name in ("norm", "activation")]
    resolved = {"promotion": {"target": 1e22}, "axes": axes}
    resolved |= {"base": {"model": {"norm": "rms", "activation": "relu"}}}
    about = {"question": "", "metric": "nats_per_token", "resolved": json.dumps(resolved)}
    store.replace(con, "studies", "axes", [about])
    store.replace(con, "trials", "axes", trials)
    store.ingest(con, runs, {row["run_id"]: ("RUNNING", "") for row in trials})


def test_a_run_kept_out_of_the_fit_is_named_with_its_reason(done: Page) -> None:
    assert "Kept out of the fit run id reason run7 state DIVERGED" in words(done)


def test_an_ablation_is_told_in_words(done: Page) -> None:
    said = r"activation gelu 0\.0\d+ .* worse activation relu2 .* no difference"
    assert re.search(said, words(done))
    assert "There is no compute multiplier: all runs are at one budget" in words(done)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "It is trained when every other gate of the promotion passes."),
        (
            {"nats_per_token": 9.0},
            r"measured 9\.0000, \d+\.\d\d % above it and outside the interval",
        ),
        ({"state": "DIVERGED", "nats_per_token": None}, "Run v0 is DIVERGED."),
    ],
)
def test_the_validation_rung_is_held_against_its_forecast(
    study: Study, tmp_path: Path, result: dict[str, Any] | None, says: str
) -> None:
    con = study()
    resolved = json.dumps({"promotion": {"target": 1e13, "rung": 4e12}})
    store.replace(con, "studies", "tiny", [{"question": "", "resolved": resolved}])
    if result:
        rows = store.query(con, "select * from trials where study = 'tiny'").to_dicts()
        rung = {"number": 29, "run_id": "v0", "design": "validation", "budget": 4e12}
        store.replace(con, "trials", "tiny", [*rows, rung])
        ladders.write_run(tmp_path / "runs", "v0", result=result, spec={"budget": 4e12})
        store.ingest(con, tmp_path / "runs", {"v0": ("RUNNING", "")})
    text = words(written(con, tmp_path))
    assert "A run of 4e12 FLOPs, which no fit is given, tests the laws. At 4e12 FLOPs" in text
    assert re.search(says, text)
    assert "28 of 29 trials are done" in text


def test_markup_in_names_is_shown_and_never_run(study: Study, tmp_path: Path, done: Page) -> None:
    evil = "<script>alert('x')</script><img src=x onerror=alert(1)>"
    page = written(study(name=evil, question=f"Why {evil}?"), tmp_path, name=evil)
    assert page.text.count(evil) == 3  # title, heading, question
    assert page.scripts == done.scripts
    assert page.loaded == done.loaded


def test_a_level_with_markup_cannot_leave_its_figure(
    study: Study, tmp_path: Path, done: Page
) -> None:
    con = study()
    evil = "</script><script>alert(1)</script>"
    rows = store.query(con, "select * from trials where study = 'tiny'").to_dicts()
    for row in rows:
        row["values"] = str(row["values"]).replace("gelu", evil)
    store.replace(con, "trials", "tiny", rows)
    assert written(con, tmp_path).scripts == done.scripts


def test_every_figure_leads_to_the_rows_of_its_runs(shown: Page) -> None:
    assert "run-run0" in shown.links  # a point of the fan
    assert "run-gelu1" in shown.links  # a pair of the ablation
    assert {"run-p0", "run-p2"} <= shown.links  # the promoted stages, also those still to come
    assert shown.links <= shown.anchors


def test_each_run_has_a_row_with_the_code_and_the_host_it_ran_on(
    study: Study, tmp_path: Path
) -> None:
    con = study(done=False)
    run = ladders.write_run(tmp_path / "runs", "swiglu0", result={"nats_per_token": 2.25})
    (run / "attempt.1.json").write_text(json.dumps({"number": 1, "host": "node7"}))
    (run / "env.json").write_text(json.dumps({"commit": "0123456789abcdef"}))
    store.ingest(con, tmp_path / "runs", {"swiglu0": ("RUNNING", "")})
    said = words(written(con, tmp_path))
    assert re.search(r"swiglu0 \d+ pretrain 1e18 DONE 2\.25 1 0123456789ab node7", said)


EVIL = (
    "</script><script>document.body.dataset.owned=1</script>"
    "<img src=x onerror='document.body.dataset.owned=1'>"
    "\"'><svg onload=document.body.dataset.owned=1>"
)


def hostile(con: store.Connection, folder: Path) -> str:
    """Imported runs, axes, tasks, causes and names that all carry markup; the study's name."""
    crossed_ladder(con, folder / "runs")
    (folder / "runs" / "axes3" / "result.json").unlink()
    failure = {"attempt": 1, "cause": "exception", "message": EVIL}
    (folder / "runs" / "axes3" / "failure.1.json").write_text(json.dumps(failure))
    store.ingest(con, folder / "runs", {"axes3": ("FAILED", EVIL)})
    rows = store.query(con, "select * from trials where study = 'axes'").to_dicts()
    for row in rows:
        row["values"] = json.dumps(
            {
                key: f"{value}{EVIL}" if isinstance(value, str) and key != "axis" else value
                for key, value in json.loads(row["values"]).items()
            }
        )
    name = f"axes{EVIL}"
    about = store.query(con, "select resolved from studies where name = 'axes'").item()
    store.replace(
        con, "studies", name, [{"question": EVIL, "metric": "nats_per_token", "resolved": about}]
    )
    store.replace(con, "trials", name, rows)
    return name


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(
    "rows", [None, lr_sweep(), task(), mixing_study()], ids=["axes", "lr", "task", "mixture"]
)
def test_no_script_of_a_user_runs_in_a_browser(
    study: Study, tmp_path: Path, rows: pl.DataFrame | None
) -> None:
    con = study(done=False)
    if rows is None:
        name = hostile(con, tmp_path)
    else:
        names = {n: n + EVIL for n in rows.columns if n.startswith(("weight/", "loss/"))}
        text = [n for n in ("task",) if n in rows.columns]
        rows = rows.rename(names).with_columns(pl.col(n) + EVIL for n in text)
        name = imported(con, tmp_path, rows)
        con.execute("update imported set run_id = run_id || ?", [EVIL])
    report.write(con, name, tmp_path / "report.html")
    done = browse(tmp_path / "report.html", tmp_path)
    assert "data-owned" not in done.stdout.partition("<body")[2].partition(">")[0]
    assert "js-plotly-plot" in done.stdout
    assert "onerror='document" in html.unescape(done.stdout)


def test_the_same_study_gives_the_same_bytes(
    promoted: tuple[store.Connection, Path], tmp_path: Path
) -> None:
    con, first = promoted
    report.write(con, "tiny", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == first.read_bytes()


def test_the_report_loads_nothing(shown: Page) -> None:
    assert shown.loaded == ["data:,"]


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_every_figure_without_a_complaint(
    promoted: tuple[store.Connection, Path], tmp_path: Path
) -> None:
    done = browse(promoted[1], tmp_path)
    drawn = {
        name
        for name in FIGURES
        if f'id="{name}" class="plotly-graph-div js-plotly-plot"' in done.stdout
    }
    assert drawn == FIGURES
    assert "CONSOLE" not in done.stderr

"""From a study file to a promoted, post-trained model: really trained, and killed in between."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest

from model.counts import params_active
from train.runlog import RunDir

pytestmark = pytest.mark.slow

STUDY = Path(__file__).with_name("smallest.py")
SWEEPER = Path(sys.executable).with_name("sweeper")


@dataclass(frozen=True)
class Finished:
    """The store of a study, and what the launch that finished it said."""

    home: Path
    said: str

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return sweeper(self.home, *arguments)

    def sql(self, query: str) -> list[list[str]]:
        done = self.run("sql", str(STUDY), query)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()[1:]]

    @property
    def folder(self) -> Path:
        return self.home / "studies" / "smallest"


def sweeper(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(SWEEPER), *arguments],
        env=os.environ | {"SWEEPER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def results(home: Path) -> int:
    return len(list(home.glob("runs/*/result.json")))


def wait_for_results(home: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while results(home) < count:
        assert time.monotonic() < deadline, f"{results(home)} results, {count} were waited for"
        time.sleep(0.1)


def kill_one_worker(home: Path) -> None:
    """SIGKILL to one process that trains for this store."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "submitit.core._submit" in " ".join(process.info["cmdline"] or [])
        and str(home) in " ".join(process.info["cmdline"] or [])
    ]
    assert found, "no worker outlived its driver"
    found[0].kill()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study whose driver and one worker were killed in the middle, then launched again."""
    home = tmp_path_factory.mktemp("store")
    with subprocess.Popen(
        [str(SWEEPER), "launch", str(STUDY)],
        env=os.environ | {"SWEEPER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        wait_for_results(home, 3)
        driver.send_signal(signal.SIGKILL)
    kill_one_worker(home)
    wait_for_results(home, 5)  # the other worker goes on without a driver
    done = sweeper(home, "launch", str(STUDY))
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(home, done.stdout)


def test_every_trial_and_every_promoted_stage_has_a_result(finished: Finished) -> None:
    states = dict(finished.sql("select state, count(*) from runs group by 1"))
    # 25 different runs of 28 trials, and the three stages of the promotion.
    assert states == {"DONE": "26", "DIVERGED": "2"}
    assert finished.sql("select count(*) from trials") == [["28"]]


def test_a_divergence_is_recorded_without_a_loss_and_named_in_the_ablation(
    finished: Finished,
) -> None:
    rows = finished.sql(
        "select distinct cause, nats_per_token is null, lr > 1 from runs where state = 'DIVERGED'"
    )
    assert [[word.lower() for word in row] for row in rows] == [["diverged", "true", "true"]]
    assert "rate=100" in finished.said


def test_nothing_was_trained_twice_but_what_was_killed(finished: Finished) -> None:
    attempts = [len(RunDir(path).attempts()) for path in finished.home.glob("runs/*")]
    assert len(attempts) <= sum(attempts) <= len(attempts) + 1, attempts


def test_the_summary_names_optimum_forecast_measurement_and_error(finished: Finished) -> None:
    for words in (
        r"N\*",
        r"D\*",
        r"nats/token",
        r"measured",
        r"error [+-][\d.]+ ?%",
        r"report\.html",
    ):
        assert re.search(words, finished.said), (words, finished.said)


def test_the_same_command_again_trains_nothing_and_says_so_in_seconds(finished: Finished) -> None:
    before = sorted(path.stat().st_mtime_ns for path in finished.home.glob("runs/*/*"))
    started = time.monotonic()
    again = finished.run("launch", str(STUDY))
    assert time.monotonic() - started < 20
    assert again.returncode == 0
    assert "nothing was left to train" in again.stdout
    assert sorted(path.stat().st_mtime_ns for path in finished.home.glob("runs/*/*")) == before


def test_optuna_s_own_tools_open_the_storage(finished: Finished) -> None:
    study = optuna.load_study(
        study_name="smallest", storage=f"sqlite:///{finished.folder / 'optuna.db'}"
    )
    assert len(study.trials) == 28
    assert all(trial.state.is_finished() for trial in study.trials)
    assert study.best_value > 0


def test_the_promoted_run_has_the_size_and_tokens_of_the_forecast(finished: Finished) -> None:
    promotion = json.loads((finished.folder / "promotion.json").read_text())
    forecast = promotion["forecast"]
    spec = RunDir(finished.home / "runs" / promotion["run_ids"][0]).spec()
    assert spec.parallel.dp == 2
    assert abs(math.log(params_active(spec.model) / forecast["params"])) < math.log(1.5)
    assert abs(math.log(spec.tokens / forecast["tokens"])) < math.log(2)


def test_each_promoted_stage_starts_from_the_one_before(finished: Finished) -> None:
    rows = finished.sql("select stage, run_id, parent from runs where study = 'smallest'")
    chain = {row[0]: row[1:] for row in rows if row[0] != "pretrain"}
    promotion = json.loads((finished.folder / "promotion.json").read_text())
    pretrain, sft, dpo = promotion["run_ids"]
    assert chain == {"sft": [sft, pretrain], "dpo": [dpo, sft]}
    result = RunDir(finished.home / "runs" / dpo).result()
    assert result is not None
    assert 0 <= result.metrics["preference_accuracy"] <= 1


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


@pytest.mark.browser
def test_the_report_opens_without_network_and_draws_every_figure(
    finished: Finished, tmp_path: Path
) -> None:
    if CHROMIUM is None:
        assert not os.environ.get("SWEEPER_REQUIRE_BROWSER"), "no Chromium, and one is required"
        pytest.skip("no Chromium on this machine; Debian has one as package chromium")
    page = finished.folder / "report.html"
    browser = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *OFFLINE),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"),
            *("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert "CONSOLE" not in browser.stderr, browser.stderr
    figures = len(re.findall(r"Plotly\.newPlot\(", page.read_text(encoding="utf-8")))
    drawn = len(re.findall(r'class="plot-container', browser.stdout))
    assert drawn == figures >= 5

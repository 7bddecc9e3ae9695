"""What trunks save on a ladder that is really trained, and whether they move its optimum."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import store
from analysis.forecast import panel, promotable
from analysis.law import Forecast
from analysis.runs import prepare
from sweeper.folders import StudyDir
from sweeper.opening import reading
from tests.benchmarks import Bench
from train.runlog import RunDir

STUDY = Path(__file__).parents[2] / "studies/trunks.py"
SWEEPER = Path(sys.executable).with_name("sweeper")
MIDDLE, TARGET = 1.7e11, 1.56e12


def launched(home: Path, *overrides: str) -> float:
    """The study trained in a home; the FLOPs that all its runs spent."""
    command = [str(SWEEPER), "launch", str(STUDY), *overrides]
    subprocess.run(command, env=os.environ | {"SWEEPER_HOME": str(home)}, check=True, timeout=3600)
    results = [RunDir(path).result() for path in (home / "runs").iterdir()]
    return sum(result.trained_flops for result in results if result)


def said(home: Path, name: str, budget: float) -> Forecast:
    with reading(StudyDir(home, name)) as con:
        return promotable(panel(prepare(store.points(con, name))).at(budget))


@pytest.mark.bench
def test_trunks_give_the_optimum_of_separate_runs_for_less(bench: Bench, tmp_path: Path) -> None:
    shared, apart = tmp_path / "shared", tmp_path / "apart"
    spent = launched(shared)
    alone = launched(apart, "designs.0.trunks=False")
    bench("trunks: FLOPs, a share of those of separate runs", spent / alone, high=0.6)
    for budget in (MIDDLE, TARGET):
        ours, theirs = (said(home, "trunks", budget) for home in (shared, apart))
        bench(f"trunks: N*({budget:.3g})", ours.params, theirs.params_low, theirs.params_high)
        bench(f"separate runs: N*({budget:.3g})", theirs.params)

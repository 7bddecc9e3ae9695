"""`plan` answers at once, on a machine without torch, and writes nothing."""

import re
import subprocess
import sys
import time
from pathlib import Path

from command_line import CommandLine

from sweeper.designs import expand
from sweeper.folders import StudyDir
from sweeper.overrides import with_values
from sweeper.plan import plan_rows, plan_summary, to_do
from sweeper.speed import Speed
from sweeper.study import Study
from train.runlog import create_run

PROGRAM = """
import sys, sweeper.cli
sys.argv = ["sweeper", "plan", sys.argv[1]]
try:
    sweeper.cli.main()
finally:
    print([name for name in ("torch", "duckdb", "polars", "optuna") if name in sys.modules])
"""


def test_plan_shows_every_trial_in_under_a_second(command: CommandLine, study: Study) -> None:
    # The first start on a machine compiles; what a person waits for is every later one.
    command.run("plan", str(command.study))
    walls: list[float] = []
    for _ in range(3):
        started = time.monotonic()
        code, said = command.run("plan", str(command.study))
        walls.append(time.monotonic() - started)
    assert code == 0
    rows = re.findall(r"^ *\d+  (?:isoflop|one_at_a_time) ", said, re.MULTILINE)
    assert len(rows) == len(expand(study))
    assert min(walls) < 1.0
    assert not command.home.exists()


def test_plan_imports_nothing_heavy(study_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(study_path)], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_runs_with_a_result_are_not_to_be_done_again(study: Study, tmp_path: Path) -> None:
    import fake_trainer

    place, planned = StudyDir(tmp_path, study.name), expand(study)
    create_run(tmp_path, planned[0].spec).write_result(fake_trainer.result(planned[0].spec, 1.0))
    rows = plan_rows(planned, place, Speed())
    assert [row.done for row in rows[:2]] == [True, False]
    distinct = {p.run_id for p in planned}
    assert len(to_do(rows)) == len(distinct) - 1
    assert f"{len(distinct)} runs, 1 of them done" in plan_summary(study, rows, Speed())


def test_the_plan_names_the_cost_of_the_validation_rung(study: Study, tmp_path: Path) -> None:
    def summary(asked: Study) -> str:
        rows = plan_rows(expand(asked), StudyDir(tmp_path, study.name), Speed())
        return plan_summary(asked, rows, Speed())

    line = "then, if every other gate passes, a validation rung of 1.28e+14 FLOPs, dp=2, about "
    assert line in summary(with_values(study, {"promotion.rung": 1.28e14}))
    assert "validation" not in summary(study)

"""`plan` answers at once, on a machine without torch, and writes nothing."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import CommandLine

from sweeper.designs import expand
from sweeper.difference import remember
from sweeper.folders import StudyDir
from sweeper.overrides import with_values
from sweeper.plan import plan_rows, to_do, totals
from sweeper.plan_words import ROWS_READ, plan_table, size, summary_lines
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


def test_a_thousand_trials_are_planned_in_under_a_second(command: CommandLine) -> None:
    arguments = ("plan", str(command.study), f"designs.1.seeds={tuple(range(500))}")
    walls: list[float] = []
    for _ in range(3):
        started = time.monotonic()
        code, said = command.run(*arguments)
        walls.append(time.monotonic() - started)
        assert code == 0, said
    assert "1020 trials" in said
    assert min(walls) < 1.0


def test_ten_thousand_trials_are_expanded_in_under_a_second(study: Study) -> None:
    many = with_values(study, {"designs.1.seeds": tuple(range(5000))})
    started = time.monotonic()
    assert len(expand(many)) == 10_020
    assert time.monotonic() - started < 1.0


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
    assert f"{len(distinct)} runs, 1 of them done" in "\n".join(summary_lines(study, rows, Speed()))


def test_the_plan_names_the_cost_of_the_validation_rung(study: Study, tmp_path: Path) -> None:
    def summary(asked: Study) -> str:
        rows = plan_rows(expand(asked), StudyDir(tmp_path, study.name), Speed())
        return "\n".join(summary_lines(asked, rows, Speed()))

    line = "then, if every other gate passes, a validation rung of 1.28e+14 FLOPs, dp=2, about "
    assert line in summary(with_values(study, {"promotion.rung": 1.28e14}))
    assert "validation" not in summary(study)


def test_the_plan_says_which_studies_trained_runs_first(study: Study, tmp_path: Path) -> None:
    import fake_trainer

    place, planned = StudyDir(tmp_path, study.name), expand(study)
    for p, name in ((planned[0], study.name), (planned[1], "another")):
        spec = p.spec.model_copy(update={"study": name})
        create_run(tmp_path, spec).write_result(fake_trainer.result(spec, 1.0))
    rows = plan_rows(planned, place, Speed())
    assert [row.trained_by for row in rows[:3]] == [study.name, "another", ""]
    assert (totals(study, rows).done, totals(study, rows).reused) == (2, 1)
    said = "\n".join(summary_lines(study, rows, Speed()))
    assert "reused: 1 runs were trained by other studies (1 by 'another')" in said


def test_the_plan_says_what_it_costs_where_the_study_has_a_price(
    study: Study, tmp_path: Path
) -> None:
    rows = plan_rows(expand(study), StudyDir(tmp_path, study.name), Speed())
    hours = totals(study, rows).gpu_hours
    assert totals(study, rows).cost is None
    priced = with_values(study, {"gpu_hour_price": 1000})
    assert totals(priced, rows).cost == pytest.approx(1000 * hours)
    said = "\n".join(summary_lines(priced, rows, Speed()))
    assert f"(cost {1000 * hours:,.2f} at 1000 a GPU-hour)" in said


def test_a_price_is_no_part_of_a_run(study: Study) -> None:
    priced = with_values(study, {"gpu_hour_price": 2.5})
    assert [p.run_id for p in expand(priced)] == [p.run_id for p in expand(study)]


def test_many_trials_are_shown_by_design_and_budget(study: Study, tmp_path: Path) -> None:
    many = with_values(study, {"designs.1.seeds": tuple(range(200))})
    rows = plan_rows(expand(many), StudyDir(tmp_path, many.name), Speed())
    assert plan_table(rows).row_count == len(many.budgets) + 1
    assert plan_table(rows, every=True).row_count == len(rows)
    assert plan_table(rows[:ROWS_READ]).row_count == ROWS_READ


def test_the_plan_as_json_holds_every_trial_and_the_totals(command: CommandLine) -> None:
    code, said = command.run("plan", str(command.study), "--json", "gpu_hour_price=2")
    assert code == 0
    content = json.loads(said)
    total, trials = content["totals"], content["trials"]
    assert total["trials"] == len(trials)
    runs = {trial["run_id"]: trial for trial in trials}.values()
    assert total["flops"] == pytest.approx(sum(run["flops"] for run in runs))
    assert total["storage_bytes"] == sum(run["storage_bytes"] for run in runs)
    assert total["cost"] == pytest.approx(2 * total["gpu_hours"])
    assert content["difference"] is None


def test_the_plan_shows_how_a_file_differs_from_the_last_launch(
    command: CommandLine, study: Study
) -> None:
    place = StudyDir(command.home, study.name)
    place.path.mkdir(parents=True)
    remember(place, study, expand(study))
    assert "against the last launch" not in command.run("plan", str(command.study))[1]
    _, said = command.run("plan", str(command.study), "designs.1.seeds=(0, 1, 2)")
    assert "against the last launch: 2 new runs, 23 kept, 0 orphaned" in said
    assert "designs.1.seeds: [0, 1] -> [0, 1, 2]" in said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (812, "812 B"), (3_140_000, "3.1 MB"), (42e9, "42 GB"),
                        (987_654, "988 kB"), (2.5e12, "2.5 TB")],
)  # fmt: skip
def test_bytes_are_said_in_powers_of_ten(count: float, said: str) -> None:
    assert size(int(count)) == said


def test_the_plan_names_the_trial_furthest_from_its_size(study: Study, tmp_path: Path) -> None:
    def summary(asked: Study) -> str:
        rows = plan_rows(expand(asked), StudyDir(tmp_path, study.name), Speed())
        return "\n".join(summary_lines(asked, rows, Speed()))

    assert "off the size they ask for" not in summary(study)
    axis = {"name": "vocabulary", "path": "data.vocab_size", "levels": (300, 3000)}
    assert re.search(
        r"size: 2 trials are more than 2% off the size they ask for; trial \d+ asks for [\d,]+ "
        r"active parameters and its nearest shape has [\d,]+ \(.*vocab_size=3000\); lower data",
        summary(with_values(study, {"axes": (axis,)})),
    )

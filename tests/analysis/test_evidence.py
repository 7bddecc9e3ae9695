"""What a report reads of a study."""

from pathlib import Path

from analysis import store
from analysis.downstream.fit import Downstream
from analysis.hyper.fit import Hyper
from analysis.law import Diagnostic
from analysis.mixture.fit import MixtureFit
from analysis.report.evidence import gather, widened
from tests.analysis.conftest import Study, imported
from tests.analysis.outside import lr_sweep, mixing_study, task


def test_imported_points_keep_every_column_of_their_file(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    name = imported(con, tmp_path, mixing_study())
    wide = widened(con, name, store.points(con, name))
    assert {"run_id", "lr", "weight/web", "loss/books"} <= set(wide.columns)
    assert wide["weight/web"].to_list() == mixing_study()["weight/web"].to_list()


def test_a_study_without_imports_has_its_points_alone(study: Study) -> None:
    con = study()
    points = store.points(con, "tiny")
    assert widened(con, "tiny", points).equals(points)


def test_each_further_law_is_fitted_where_the_columns_are(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    found = {
        name: gather(con, imported(con, tmp_path, rows, name))
        for name, rows in (("lr", lr_sweep()), ("mix", mixing_study()), ("task", task()))
    }
    assert isinstance(found["lr"].hyper, Hyper)
    assert isinstance(found["mix"].mixture, MixtureFit)
    assert isinstance(found["task"].downstream, Downstream)
    assert found["task"].hyper is found["task"].mixture is found["lr"].downstream is None


def test_runs_too_few_for_a_law_leave_the_reason(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    said = gather(con, imported(con, tmp_path, mixing_study(3))).mixture
    assert isinstance(said, Diagnostic)
    assert "3 usable mixtures of 3 domains, 5 are needed" in said.detail


def test_parameters_of_a_file_are_counted_as_it_counts_them(study: Study, tmp_path: Path) -> None:
    con = study(done=False)
    assert gather(con, imported(con, tmp_path, task())).runs.params_convention.endswith("the file")
    assert gather(con, "tiny").runs.params_convention == "params_active"

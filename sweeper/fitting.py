"""The verbs that take a file of runs: `fit` and `import`."""

import json
import math
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.arguments import (
    Overrides,
    console_here,
    imported_alone,
    launched,
    load_study,
    named,
    say,
)
from sweeper.errors import UserError
from sweeper.folders import StudyDir, home
from sweeper.overrides import nearest
from sweeper.rules import recipe_lines
from sweeper.study import Study

if TYPE_CHECKING:
    from analysis.points import Points

PointsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="POINTS",
        help="Runs: a .csv, .jsonl, .ndjson or .parquet file; a study file; or a study's name.",
        show_default=False,
    ),
]
Columns = Annotated[
    str,
    typer.Option(
        metavar="OURS=THEIRS,...",
        help="Columns of the file by other names, such as loss=val_loss,flops=compute.",
    ),
]


@contextmanager
def _refusals() -> Generator[None]:
    """What the analysis cannot do with the runs is the user's to mend."""
    from analysis.law import NotEnough
    from analysis.tables import BadPoints

    try:
        yield
    except (NotEnough, BadPoints) as error:
        raise UserError(str(error)) from error


def fit(
    points: PointsArgument,
    overrides: Overrides = None,
    law: Annotated[
        str | None, typer.Option(help="The law to fit; auto, the default, lets the runs choose.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(metavar="FLOPS", help="The budget whose optimum is asked for."),
    ] = None,
    predict: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows of params and tokens to predict the loss of."),
    ] = None,
    columns: Columns = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Fit a law to runs, and say the optimum at the target.

    A study file alone shows the study's own forecast, ablations and gates.
    """
    is_study = points.suffix == ".py" or (named(points) and not imported_alone(points, overrides))
    if is_study and law is None and target is None and predict is None and not as_json:
        _refuse_columns(points, columns)
        _fit_study(load_study(points, overrides))
        return
    law = _known_law(law or "auto")
    if target is not None and not (target > 0 and math.isfinite(target)):
        raise UserError(f"--target {target:g} is no number of FLOPs; give one above zero")
    from analysis.answer import answer
    from analysis.points import read_sizes
    from analysis.tables import parse_columns
    from analysis.wording import lines

    with _refusals():
        rows, target = _runs(points, overrides, law, target, columns)
        sizes = None if predict is None else read_sizes(predict, parse_columns(columns))
        said = answer(rows, law, target, sizes)
    if as_json:
        sys.stdout.write(_json(said) + "\n")
    else:
        say(console_here(), lines(said))
        if law == "lr-batch":
            say(console_here(), recipe_lines(said["coef"]))


def _json(said: dict[str, Any]) -> str:
    return json.dumps(said, allow_nan=False)


def _known_law(law: str) -> str:
    from analysis.answer import LAW_NAMES

    if law not in LAW_NAMES:
        raise UserError(f"--law {law!r} is not known; {nearest(law, LAW_NAMES)}")
    return law


def _refuse_columns(points: Path, columns: str) -> None:
    if columns:
        raise UserError(
            f"--columns {columns} names columns of a data file, and {points} is a study"
        )


def _runs(
    points: Path, overrides: list[str] | None, law: str, target: float | None, columns: str
) -> tuple["Points", float | None]:
    """The runs asked for, and the target: that of the study where none was given."""
    place = imported_alone(points, overrides)
    if place is None and (points.suffix == ".py" or named(points)):
        study = load_study(points, overrides)
        place = launched(study)
        _stand(study, place)
        target = target or study.promotion.target
    if place is not None:
        from sweeper import outside

        _refuse_columns(points, columns)
        return outside.points(place), target
    from analysis.points import NEED, NEEDED_BY, read
    from analysis.tables import parse_columns

    _refuse_no_file(points, overrides)
    return read(points, parse_columns(columns), NEEDED_BY.get(law, NEED)), target


def _refuse_no_file(points: Path, overrides: list[str] | None) -> None:
    if not points.suffix:
        raise UserError(
            f"{str(points)!r} is no study below {home()}; give a study's name, a study file such "
            "as studies/tiny.py, or a file of runs such as runs.csv"
        )
    if overrides:
        raise UserError(
            f"{' '.join(overrides)}: values of a study, and {points} is a file of runs; "
            "leave them out"
        )


def _stand(study: Study, place: StudyDir) -> None:
    from sweeper.launch import stand

    stand(study, place.home)


def _fit_study(study: Study) -> None:
    place = launched(study)
    from sweeper import summary
    from sweeper.launch import stand

    standing = stand(study, place.home)
    console = console_here()
    say(console, summary.forecast_lines(standing, study))
    say(console, summary.effect_lines(standing))
    say(console, summary.gate_lines(standing))


def import_points(
    points: PointsArgument,
    study: Annotated[
        str, typer.Option(metavar="NAME", help="The study that the runs are to belong to.")
    ],
    columns: Columns = "",
) -> None:
    """Put runs from outside into a study, for fit, status, report and sql to find.

    A later import takes the place of the one before.
    """
    from analysis.points import read
    from analysis.tables import parse_columns
    from sweeper import outside

    place = StudyDir(home(), study)
    with _refusals():
        rows = read(points, parse_columns(columns))
    console = console_here()
    say(console, [outside.keep(place, rows.frame)])
    say(console, (f"  note: {note}" for note in rows.notes))
    say(console, outside.lines(place))

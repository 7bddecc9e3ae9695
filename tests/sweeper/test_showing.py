"""`show` and `compare`, on a study that was really launched with the fake trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import STUDY, CommandLine

from sweeper.references import run_ids
from train.config import RunSpec, run_id
from train.runlog import Attempt, Cause, Failure, RunDir, Stop, create_run

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    "commit": "c0ffee",
    "diff": "+++ b/x.py\n+one\n+two\n-three\n",
    "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "host": "node1",
    "device": "H100",
}


@pytest.fixture(scope="module")
def launched(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Two launched studies, the second with one seed more; trials 0 to 23 in the first."""
    folder = tmp_path_factory.mktemp("launched")
    path = folder / "small.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    command = CommandLine(folder / "home", path)
    for overrides in ((), ("name=second", "designs[1].seeds=(0, 1, 2)")):
        words = [word.replace("designs[1]", "designs.1") for word in overrides]
        code, said = command.launch("promotion.approve=hold", *words, FAKE_SECONDS="0")
        assert code == 0, said
    return command


def asked(command: CommandLine, *words: str) -> dict[str, Any]:
    code, said = command.run(*words, "--json")
    assert code == 0, said
    return json.loads(said)


def fresh(command: CommandLine, **changes: Any) -> RunDir:
    """A run that nobody tried yet: the spec of trial 0 with other values."""
    spec = RunDir(command.home / "runs" / asked(command, "show", "small:0")["run_id"]).spec()
    return create_run(command.home, RunSpec.model_validate(spec.model_dump() | changes))


def test_a_run_is_found_by_the_start_of_its_id_and_by_its_trial(launched: CommandLine) -> None:
    found = asked(launched, "show", "small:3")
    assert asked(launched, "show", found["run_id"][:9]) == found
    assert found["state"] == "DONE"
    assert found["spec"]["trial"] == 3
    assert (
        found["result"]["run_id"]
        == found["run_id"]
        == run_id(RunSpec.model_validate(found["spec"]))
    )


def test_every_study_that_asks_for_a_run_is_named(launched: CommandLine) -> None:
    askers = asked(launched, "show", "small:3")["asked_by"]
    assert [(one["study"], one["trial"]) for one in askers] == [("second", 3), ("small", 3)]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("zzz", "there is no run 'zzz'"),
        ("", "the nearest are"),
        ("small:999", "its trials are 0 to 23"),
        ("smal:1", "no study 'smal' below"),
        ("../../etc", "there is no run"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    launched: CommandLine, word: str, says: str
) -> None:
    code, said = launched.run("show", word)
    assert code == 2
    assert says in said
    assert "Traceback" not in said


def test_an_ambiguous_start_names_the_runs_that_it_may_be(launched: CommandLine) -> None:
    names = run_ids(launched.home)
    first = next(name[0] for name in names if sum(n[0] == name[0] for n in names) > 1)
    code, said = launched.run("show", first)
    assert code == 2
    assert "give more of the id" in said


def test_each_attempt_says_how_it_ended(launched: CommandLine) -> None:
    run = fresh(launched, seed=101)
    causes: tuple[Cause, ...] = ("killed", "out_of_memory")
    for number, cause in enumerate(causes, start=1):
        run.claim(Attempt(number=number, job="swp-0-1", host="n1", pid=1, started=1.0))
        run.write_failure(Failure(attempt=number, cause=cause, message="why it ended"))
    run.write_stop(3, Stop(state="CANCELLED", cause="by hand", study="small"))
    found = asked(launched, "show", run.path.name)
    assert [one["failure"]["cause"] for one in found["attempts"]] == ["killed", "out_of_memory"]
    assert found["state"] == "CANCELLED"
    code, said = launched.run("show", run.path.name)
    assert code == 0
    assert "out_of_memory: why it ended" in said


def test_a_damaged_run_is_one_message(launched: CommandLine) -> None:
    run = fresh(launched, seed=102)
    (run.path / "env.json").write_text("{torn")
    (run.path / "result.json").write_text("")
    assert asked(launched, "show", run.path.name)["state"] == "PLANNED"
    (run.path / "run.json").write_text("{torn")
    code, said = launched.run("show", run.path.name)
    assert code == 2
    assert "run.json" in said
    assert "Traceback" not in said


def test_provenance_is_shown_with_the_size_of_the_diff(launched: CommandLine) -> None:
    run = fresh(launched, seed=103)
    (run.path / "env.json").write_text(json.dumps(ENVIRONMENT))
    code, said = launched.run("show", run.path.name)
    assert code == 0
    assert "commit c0ffee, changed by 2 lines added and 1 removed" in said
    assert "packages torch 2.13.0, numpy 2.4.6" in said
    assert f"data_digest {run.spec().data.digest}" in said


def test_replicates_differ_in_their_seed_and_within_its_noise(launched: CommandLine) -> None:
    found = asked(launched, "compare", "small:20", "small:21")
    assert found["spec"] == {"seed": [0, 1]}
    loss = next(row for row in found["results"] if row["name"] == "nats_per_token")
    assert loss["verdict"].startswith("within seed noise")
    assert found["noise"]["dof"] >= 2


def test_runs_of_two_sizes_differ_beyond_seed_noise(launched: CommandLine) -> None:
    found = asked(launched, "compare", "small:0", "small:9")
    assert found["spec"]["budget"] == [1e12, 4e12]
    assert found["spec"]["model.d_model"][0] < found["spec"]["model.d_model"][1]
    loss = next(row for row in found["results"] if row["name"] == "nats_per_token")
    assert loss["verdict"].startswith("beyond seed noise")
    assert loss["difference"] == pytest.approx(loss["b"] - loss["a"])


def test_other_code_packages_and_machines_are_said(launched: CommandLine) -> None:
    one, other = fresh(launched, seed=104), fresh(launched, seed=105)
    changed = {"commit": "deadbeef", "packages": {"torch": "2.14.0", "numpy": "2.4.6"}}
    (one.path / "env.json").write_text(json.dumps(ENVIRONMENT))
    (other.path / "env.json").write_text(json.dumps(ENVIRONMENT | changed))
    found = asked(launched, "compare", one.path.name, other.path.name)
    assert found["provenance"] == {
        "commit": ["c0ffee", "deadbeef"],
        "packages.torch": ["2.13.0", "2.14.0"],
    }


def test_losses_of_other_text_are_compared_in_bits_per_byte_alone(launched: CommandLine) -> None:
    donor = launched.home / "runs" / asked(launched, "show", "small:0")["run_id"]
    data = RunDir(donor).spec().data.model_dump() | {"digest": "0" * 64}
    run = fresh(launched, data=data)
    text = (donor / "result.json").read_text().replace(donor.name, run.path.name)
    (run.path / "result.json").write_text(text)
    found = asked(launched, "compare", "small:0", run.path.name)
    assert "nats_per_token" not in [row["name"] for row in found["results"]]
    assert "bits_per_byte" in [row["name"] for row in found["results"]]
    assert "not comparable" in found["notes"][0]


def test_two_studies_are_compared_by_their_least_losses(launched: CommandLine) -> None:
    found = asked(launched, "compare", "small", "second")
    assert found["kind"] == "study"
    assert found["spec"]["designs.1.seeds.2"] == ["-", 2]
    assert "of 23 runs of A and 25 of B, 23 are the same" in found["notes"]
    names = [row["name"] for row in found["results"]]
    assert "least nats_per_token at 1e+12 FLOPs" in names


def test_a_study_is_not_compared_with_a_run(launched: CommandLine) -> None:
    code, said = launched.run("compare", "small", "small:1")
    assert code == 2
    assert "compare two studies, or two runs" in said

"""Phases that change optimizer, rate or activation: a restart of the engine on the way."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import curve, done, events, lines, start, train, twin, until

from train.choices import Phase
from train.config import OptimConfig, ParallelConfig, RunSpec
from train.phases import change_after, in_force, just_changed
from train.runlog import RunDir

MakeRun = Callable[..., RunDir]
LION = OptimConfig(name="lion", lr=0.001)


def changed(spec: RunSpec, *phases: Phase, **fields: object) -> RunSpec:
    return RunSpec.model_validate(spec.model_dump() | {"phases": phases} | fields)


def test_what_no_phase_names_goes_on_as_it_was(make_spec: RunSpec) -> None:
    spec = changed(
        make_spec,
        Phase(start=0.25, optim=LION),
        Phase(start=0.5, lr=0.5),
        Phase(start=0.75, activation="geglu"),
    )
    assert [in_force(spec, step).optim.lr for step in (4, 5, 10, 15)] == [0.01, 0.001, 0.5, 0.5]
    assert [in_force(spec, step).optim.name for step in (4, 5, 15)] == ["adamw", "lion", "lion"]
    assert [in_force(spec, step).model.activation for step in (14, 15)] == ["swiglu", "geglu"]
    assert [change_after(spec, step) for step in (0, 4, 5, 10, 15)] == [5, 5, 10, 15, 20]
    assert [step for step in range(20) if just_changed(spec, step)] == [5, 10, 15]


def test_a_phase_of_other_data_is_no_change_of_the_engine(make_spec: RunSpec) -> None:
    spec = changed(make_spec, Phase(start=0.5, mixture={"code": 1.0}))
    assert change_after(spec, 0) == 20
    assert not just_changed(spec, 10)


@pytest.mark.parametrize(
    ("phase", "fields", "words"),
    [
        (Phase(start=0.5, activation="gelu"), {}, "three matrices, gated; use one of"),
        (Phase(start=0.5, lr=0.1), {"parallel": ParallelConfig(zero_stage=3)}, "zero_stage below"),
        (Phase(start=0.5, optim=OptimConfig(name="muon", lr=0.1)), {}, "use zero_stage in"),
    ],
)
def test_a_change_that_does_not_go_with_the_run_is_refused(
    make_spec: RunSpec, phase: Phase, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        changed(make_spec, phase, **fields)


def test_a_phase_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="changes nothing; give it"):
        Phase(start=0.5)


@pytest.mark.slow
def test_a_change_to_what_there_was_changes_nothing(make_run: MakeRun) -> None:
    plain = make_run(seed=190)
    same = Phase(start=0.5, optim=plain.spec().optim)
    run = make_run(seed=190, phases=(same,))
    assert train(plain, run) == 0
    assert curve(run) == curve(plain)
    assert done(run).nats_per_token == done(plain).nats_per_token


@pytest.mark.slow
def test_each_change_is_recorded_and_parts_the_run_from_what_it_was(make_run: MakeRun) -> None:
    plain = make_run(seed=191)
    runs = [
        make_run(seed=191, phases=(phase,))
        for phase in (
            Phase(start=0.5, lr=0.001),
            Phase(start=0.5, optim=LION),
            Phase(start=0.5, activation="geglu"),
        )
    ]
    assert train(plain, *runs) == 0
    for run, field in zip(runs, ("optim", "optim", "activation"), strict=True):
        assert curve(run)[:10] == curve(plain)[:10]
        first = 11 if field == "optim" else 10
        assert all(a != b for a, b in zip(curve(run)[first:], curve(plain)[first:], strict=True))
        (event,) = events(run, "changed")
        assert (event["step"], event["field"]) == (10, field)
        assert done(run).tokens == 20 * 512


@pytest.mark.slow
def test_another_optimizer_takes_the_weights_as_they_are(make_run: MakeRun) -> None:
    """The loss of the step after the change is that of the weights before it."""
    plain = make_run(seed=192)
    run = make_run(seed=192, phases=(Phase(start=0.5, optim=LION),))
    assert train(plain, run) == 0
    assert curve(run)[10] == curve(plain)[10], "loss and gradient come before the step"


@pytest.mark.slow
def test_a_run_killed_around_a_change_is_resumed_bit_for_bit(
    make_run: MakeRun, tmp_path: Path
) -> None:
    settings = {
        "seed": 193,
        "tokens": 200 * 512,
        "phases": (Phase(start=0.25, optim=LION), Phase(start=0.5, activation="geglu")),
    }
    undisturbed = make_run(**settings)
    assert train(undisturbed) == 0
    for number, seen in ((signal.SIGTERM, 60), (signal.SIGKILL, 120)):
        run = twin(undisturbed, tmp_path / number.name)
        with start(run) as process:
            until(lambda run=run, seen=seen: lines(run) > seen)
            process.send_signal(number)
            process.communicate(timeout=120)
        assert train(run) == 0
        resumed = {step: rest for step, *rest in curve(run, 1, 2)}
        assert resumed == {step: rest for step, *rest in curve(undisturbed)}
        assert done(run).nats_per_token == done(undisturbed).nats_per_token


@pytest.mark.slow
def test_a_phase_added_in_flight_goes_on_from_the_run_that_it_changes(
    make_run: MakeRun, tmp_path: Path
) -> None:
    whole = make_run(seed=194, tokens=200 * 512)
    begun = twin(whole, tmp_path / "home")
    with start(begun) as process:
        until(lambda: lines(begun) > 20)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    reached = lines(begun)
    run = twin(begun, tmp_path / "home", phases=(Phase(start=0.75, lr=0.001),))
    alone = twin(run, tmp_path / "alone")
    assert train(run, alone) == 0
    (event,) = events(run, "adopted")
    assert (event["run"], event["step"]) == (begun.path.name, reached)
    assert curve(run, 0, 1) == curve(alone)
    assert done(run).nats_per_token == done(alone).nats_per_token
    assert (done(run).inherited_tokens, done(alone).inherited_tokens) == (reached * 512, 0)
    assert begun.resume_step() == reached, "its own state is there still"

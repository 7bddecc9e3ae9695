"""States are written in the background, and kept by rule."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainings import curve, done, events, train, twin

from train.config import CheckpointConfig, RunSpec, SpikeConfig, StabilityConfig, run_id
from train.retention import is_milestone, retained
from train.runlog import RunDir, step_of

MakeRun = Callable[..., RunDir]
SLOW = Path(__file__).with_name("slow_disk.py")


@given(
    found=st.sets(st.integers(1, 500), max_size=30),
    keep=st.integers(1, 5),
    every=st.none() | st.integers(1, 50_000),
    rewind=st.integers(1, 100),
)
def test_what_may_be_gone_back_to_is_never_dropped(
    make_spec: RunSpec, found: set[int], keep: int, every: int | None, rewind: int
) -> None:
    spikes = SpikeConfig(deviations=5, rewind=rewind)
    spec = make_spec.model_copy(
        update={
            "checkpoints": CheckpointConfig(keep=keep, keep_every_tokens=every),
            "stability": StabilityConfig(spikes=spikes),
        }
    )
    kept = retained(spec, sorted(found))
    assert kept <= found
    assert set(sorted(found)[-keep:]) <= kept
    assert {step for step in found if is_milestone(spec, step)} <= kept
    before = [step for step in found if step <= max(found) - rewind]
    assert not before or max(before) in kept


def test_milestones_are_the_first_states_past_each_multiple(make_spec: RunSpec) -> None:
    kept = CheckpointConfig(keep_every_tokens=1200)
    spec = make_spec.model_copy(update={"checkpoints": kept})
    batch = spec.batch.global_batch_tokens
    milestones = [step for step in range(1, 13) if is_milestone(spec, step)]
    assert milestones == [-(-k * 1200 // batch) for k in range(1, 12 * batch // 1200 + 1)]


def test_how_a_run_is_kept_is_no_part_of_what_it_is(make_spec: RunSpec) -> None:
    other = CheckpointConfig(every_seconds=1, keep=7, keep_every_tokens=1)
    assert run_id(make_spec.model_copy(update={"checkpoints": other})) == run_id(make_spec)


@pytest.mark.slow
def test_training_goes_on_while_a_slow_disk_takes_a_state(
    make_run: MakeRun, tmp_path: Path
) -> None:
    often = CheckpointConfig(every_seconds=0.01)
    run = make_run(seed=170, tokens=60 * 512, checkpoints=often)
    assert train(run, program=SLOW, LATE="10") == 0
    saved = [int(str(event["step"])) for event in events(run, "checkpoint")]
    assert len(saved) >= 3
    assert all(later - earlier >= 10 for earlier, later in pairwise(saved))
    plain = twin(run, tmp_path / "home", checkpoints=CheckpointConfig())
    assert train(plain) == 0
    assert not events(plain, "checkpoint")
    assert curve(plain) == curve(run), "what is written on the way changes nothing"


@pytest.mark.slow
def test_a_finished_run_keeps_its_milestones_alone(make_run: MakeRun) -> None:
    kept = CheckpointConfig(every_seconds=0.01, keep=1, keep_every_tokens=8 * 512)
    run = make_run(seed=171, tokens=20 * 512, checkpoints=kept)
    assert train(run) == 0
    assert done(run).state == "DONE"
    assert [step_of(state) for state in run.resume_states()] == [16, 8]

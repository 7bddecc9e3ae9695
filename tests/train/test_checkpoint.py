"""Engine states on disk: what may be read back, and what is not run on the way."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import curve, done, failed, lines, start, train, twin, until

from train.checkpoint import _manifest, is_whole
from train.config import ParallelConfig
from train.runlog import RunDir

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]


class Malice:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def interrupted(run: RunDir) -> Path:
    """The state that a preempted first attempt leaves."""
    with start(run) as process:
        until(lambda: lines(run) > 5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    (state,) = run.resume_states()
    return state


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_states_of_every_zero_stage_are_resumed_bit_for_bit(
    make_run: MakeRun, tmp_path: Path, stage: int
) -> None:
    undisturbed = make_run(seed=60, tokens=200 * 512, parallel=ParallelConfig(zero_stage=stage))
    assert train(undisturbed) == 0
    run = twin(undisturbed, tmp_path / "home")
    interrupted(run)
    assert train(run) == 0
    assert curve(run, 1, 2) == curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token


@pytest.mark.parametrize("name", ["*model_states.pt", "*optim_states.pt"])
def test_code_in_a_checkpoint_is_not_run(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    run = twin(make_run(seed=61, tokens=200 * 512), tmp_path / "home")
    state, trace = interrupted(run), tmp_path / "was_run"
    (file,) = state.glob(name)
    content = torch.load(file, weights_only=False)
    torch.save(content | {"more": Malice(trace)}, file)
    torch.load(file, weights_only=False)
    assert trace.exists(), "the malice works where nobody looks"
    trace.rmdir()
    (state / "manifest.json").write_text(json.dumps(_manifest(state)))
    assert is_whole(state)
    assert train(run) == 1
    assert "Weights only load failed" in failed(run, 2).message
    assert not trace.exists()

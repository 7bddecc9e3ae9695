"""Whole runs of objectives, phases and growing batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_checkpoint import interrupted
from test_ranks import ended, together
from trainings import curve, done, train, twin

from train.choices import BatchConfig, ObjectiveConfig, Phase
from train.config import EvalConfig, ParallelConfig, steps, tokens_after
from train.objectives import OBJECTIVES
from train.runlog import RunDir, read_lines

pytestmark = pytest.mark.slow
MakeRun = Callable[..., RunDir]


@pytest.fixture
def make_denoising(make_run: MakeRun) -> MakeRun:
    """Runs over text whose tokenizer has sentinels."""
    data = make_run(seed=1).spec().data.model_copy(update={"sentinels": 20})
    return lambda **fields: make_run(data=data, **fields)


def test_every_objective_learns_and_is_judged_by_the_same_text(make_denoising: MakeRun) -> None:
    runs = {
        kind: make_denoising(seed=90, tokens=150 * 512, objective=ObjectiveConfig(kind=kind))
        for kind in OBJECTIVES
    }
    assert train(*runs.values()) == 0
    for kind, run in runs.items():
        losses = [loss for _, loss, _ in curve(run)]
        assert sum(losses[-20:]) < sum(losses[:20]) - 15, kind
        result = done(run)
        assert result.nats_per_token is not None
        # What knows no more than which tokens are frequent is at 4.8 and above.
        assert result.nats_per_token < 4.6, kind
        assert result.metrics["target_nats_per_token"] == pytest.approx(
            result.nats_per_token, rel=0.1
        )


def test_a_growing_batch_and_phases_are_the_same_in_every_layout_and_after_a_resume(
    make_denoising: MakeRun, tmp_path: Path
) -> None:
    sources = ("code", "prose")
    fields = {
        "seed": 91,
        "tokens": 100 * 512,
        "batch": BatchConfig(
            global_batch_tokens=512, micro_batch_size=1, ramp=((0, 256), (7936, 512))
        ),
        "objective": ObjectiveConfig(kind="ul2"),
        "phases": (
            Phase(start=0.3, mixture=dict.fromkeys(sources, 1.0)),
            Phase(start=0.7, objective=ObjectiveConfig()),
        ),
    }
    alone = make_denoising(**fields)
    shared = make_denoising(**fields, parallel=ParallelConfig(dp=2))
    assert train(alone) == 0
    with together(shared) as ranks:
        assert ended(ranks) == [0, 0]
    for mine, its in zip(curve(alone), curve(shared), strict=True):
        assert its == pytest.approx(mine, rel=1e-4)
    tokens = [line["tokens"] for line in read_lines(alone.metrics(1))]
    assert tokens == [256 * n for n in range(1, 32)] + [7936 + 512 * n for n in range(1, 85)]
    spec = alone.spec()
    assert (len(tokens), tokens[-1]) == (steps(spec), tokens_after(spec, steps(spec)))
    assert done(alone).tokens == tokens[-1]
    run = twin(alone, tmp_path / "home")
    interrupted(run)
    assert train(run) == 0
    assert curve(run, 1, 2) == curve(alone)


def test_measuring_the_noise_scale_changes_nothing_else(make_run: MakeRun) -> None:
    plain = make_run(seed=92, tokens=30 * 512)
    fields = {"seed": 92, "tokens": 30 * 512, "evals": EvalConfig(
        validation_tokens=2048, noise_scale_every=2
    )}  # fmt: skip
    measured = make_run(**fields)
    shared = make_run(**fields, parallel=ParallelConfig(dp=2))
    assert train(plain, measured) == 0
    with together(shared) as ranks:
        assert ended(ranks) == [0, 0]
    assert curve(measured) == curve(plain)
    found = [line for line in read_lines(measured.metrics(1)) if "noise_trace" in line]
    assert [line["step"] for line in found] == list(range(2, 31, 2))
    # Of ten measurements of two sequences against four the order of magnitude is all there is.
    early = found[9]["noise_scale"]
    assert 100 < early < 5000
    theirs = [line for line in read_lines(shared.metrics(1)) if line["step"] == 20]
    assert early / 4 < theirs[0]["noise_scale"] < 4 * early

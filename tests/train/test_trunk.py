"""Trunks and branches: a branch is, bit for bit, the run that it would be alone."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError
from trainings import curve, done, events, failed, lines, start, train, until

from train import lineage
from train.config import (
    BatchConfig,
    ParallelConfig,
    RunSpec,
    ScheduleConfig,
    config_id,
    lineage_id,
    run_id,
)
from train.runlog import RunDir, create_run

MakeRun = Callable[..., RunDir]
KILLED = Path(__file__).with_name("killed_trunk.py")
BATCH = 512
WSD = ScheduleConfig(kind="wsd", warmup_tokens=2 * BATCH)


class Tree(NamedTuple):
    """A trunk and its branches, not trained yet, in a home of their own."""

    trunk: RunDir
    branches: list[RunDir]


@pytest.fixture
def plant(make_run: MakeRun, tmp_path: Path) -> Callable[..., Tree]:
    """Makes runs of these many steps the branches of one trunk."""

    def make(*steps: int, folder: str = "planted", **fields: Any) -> Tree:
        alone = [make_run(tokens=n * BATCH, schedule=WSD, **fields) for n in steps]
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        if not (home / "data").exists():
            (home / "data").symlink_to(alone[0].home / "data")
        specs = [run.spec() for run in alone]
        trunk = lineage.trunk_of(specs, trial=-1)
        own = [spec.model_copy(update={"trunk": run_id(trunk)}) for spec in specs]
        return Tree(create_run(home, trunk), [create_run(home, spec) for spec in own])

    return make


@pytest.fixture
def specs(make_run: MakeRun) -> list[RunSpec]:
    """Two runs of one recipe and of different lengths."""
    return [make_run(tokens=n * BATCH, schedule=WSD).spec() for n in (20, 30)]


def altered(spec: RunSpec, **fields: Any) -> RunSpec:
    return RunSpec.model_validate(spec.model_dump() | fields)


def test_a_branch_keeps_the_id_of_the_run_alone_so_seeds_and_studies_share_it(
    specs: list[RunSpec],
) -> None:
    branch = altered(specs[0], trunk="0" * 16)
    assert run_id(branch) == run_id(specs[0])
    assert config_id(branch) == config_id(altered(specs[0], seed=5))


def test_a_lineage_is_what_a_run_is_until_its_rate_decays(specs: list[RunSpec]) -> None:
    trunk = lineage.trunk_of(specs, trial=-1)
    linear = altered(specs[0], schedule=altered_schedule(kind="plateau_linear"))
    assert {lineage_id(spec) for spec in (*specs, trunk, linear)} == {lineage_id(trunk)}
    others = [
        altered(specs[0], seed=1),
        altered(specs[0], schedule=altered_schedule(warmup_tokens=BATCH)),
        altered(specs[0], optim={"lr": 0.02}),
        altered(specs[0], parallel=ParallelConfig(dp=2)),
    ]
    assert len({lineage_id(spec) for spec in (*others, trunk)}) == 5


def altered_schedule(**fields: Any) -> ScheduleConfig:
    return ScheduleConfig(**(WSD.model_dump() | fields))


def test_a_trunk_ends_where_its_last_branch_leaves(specs: list[RunSpec]) -> None:
    trunk = lineage.trunk_of(specs, trial=-1)
    assert trunk.leaves == (16 * BATCH, 24 * BATCH)
    assert trunk.tokens == 24 * BATCH
    assert lineage.to_train(altered(specs[1], trunk=run_id(trunk))) == 6 * BATCH
    assert lineage.to_train(specs[1]) == 30 * BATCH


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"trunk": "0" * 16, "schedule": ScheduleConfig(warmup_tokens=BATCH)}, "cosine"),
        ({"trunk": "0" * 16, "phases": [{"start": 0.5, "mixture": {}}]}, "1 phases"),
        ({"leaves": [20 * BATCH]}, "constant"),
        ({"leaves": [700], "schedule": altered_schedule(kind="constant")}, "whole batches"),
        ({"leaves": [BATCH], "schedule": altered_schedule(kind="constant")}, "end with it"),
    ],
)
def test_what_runs_cannot_share_is_refused(
    specs: list[RunSpec], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        altered(specs[0], **fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 70},
        {
            "seed": 71,
            "parallel": ParallelConfig(zero_stage=2),
            # Grows beyond the first leaf.
            "batch": BatchConfig(
                global_batch_tokens=2 * BATCH, micro_batch_size=2, ramp=((0, 512), (9_000, 1024))
            ),
        },
    ],
    ids=["plain", "a batch that grows, zero stage 2"],
)
def test_a_branch_is_bit_for_bit_the_run_alone(
    make_run: MakeRun, plant: Callable[..., Tree], fields: dict[str, Any]
) -> None:
    trunk, branches = plant(20, 31, **fields)
    alone = [make_run(tokens=n * BATCH, schedule=WSD, **fields) for n in (20, 31)]
    assert train(trunk, *branches, *alone) == 0
    for branch, straight in zip(branches, alone, strict=True):
        shared = curve(trunk)[: int(curve(branch)[0][0]) - 1]
        assert shared + curve(branch) == curve(straight)
        found, expected = done(branch), done(straight)
        assert found.nats_per_token == expected.nats_per_token
        assert (found.flops, found.tokens) == (expected.flops, expected.tokens)
        assert found.inherited_tokens == lineage.leaf(branch.spec())
        assert found.trained_flops == pytest.approx(
            found.flops * (1 - lineage.leaf(branch.spec()) / found.tokens)
        )
        assert expected.trained_flops == expected.flops


@pytest.mark.slow
def test_a_longer_trunk_goes_on_where_a_shorter_one_ended(plant: Callable[..., Tree]) -> None:
    short, first = plant(20, 30, seed=72)
    longer, more = plant(20, 30, 60, seed=72)
    assert train(short, longer, *more) == 0
    assert done(longer).inherited_tokens == done(short).tokens == 24 * BATCH
    assert curve(longer)[0][0] == 25
    assert [run.path for run in first] == [run.path for run in more[:2]]
    assert done(more[2]).inherited_tokens == 48 * BATCH


@pytest.mark.slow
def test_a_trunk_killed_while_it_keeps_a_state_goes_on_from_the_one_before(
    plant: Callable[..., Tree],
) -> None:
    trunk, (branch, later) = plant(20, 30, seed=73)
    assert train(trunk, program=KILLED) == 1
    assert failed(trunk).cause == "killed"
    folder = lineage.folder(trunk.home, trunk.spec())
    torn = folder / f".{trunk.path.name}-1"
    assert sorted(path.name for path in folder.iterdir()) == [torn.name, "step-16"]
    assert train(branch, trunk, later) == 0
    assert done(branch).inherited_tokens == 16 * BATCH
    assert curve(trunk, 2)[0][0] == 17
    assert done(later).inherited_tokens == 24 * BATCH
    assert sorted(path.name for path in folder.iterdir()) == ["step-16", "step-24"]


@pytest.mark.slow
def test_a_branch_without_a_whole_state_trains_from_what_there_is_and_says_so(
    make_run: MakeRun, plant: Callable[..., Tree]
) -> None:
    trunk, (early, _, late) = plant(10, 20, 30, seed=74)
    alone = make_run(tokens=30 * BATCH, schedule=WSD, seed=74)
    assert train(trunk) == 0
    first, _, last = (lineage.state(trunk.home, trunk.spec(), n) for n in trunk.spec().leaves)
    shutil.rmtree(first)
    (weights,) = last.glob("*model_states.pt")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert train(early, late, alone) == 0
    assert events(early, "trunk_missing")
    assert done(early).inherited_tokens == 0
    assert events(late, "trunk_damaged")[0]["path"] == str(last.relative_to(trunk.home))
    assert done(late).inherited_tokens == 16 * BATCH
    assert done(late).nats_per_token == done(alone).nats_per_token


@pytest.mark.slow
def test_a_preempted_branch_goes_on_from_its_own_state(
    make_run: MakeRun, plant: Callable[..., Tree]
) -> None:
    trunk, (_, branch) = plant(20, 200, seed=75)
    alone = make_run(tokens=200 * BATCH, schedule=WSD, seed=75)
    with start(trunk, branch) as process:
        until(lambda: lines(branch) > 5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert train(branch, alone) == 0
    assert curve(branch, 1, 2) == curve(alone)[160:]
    assert done(branch).inherited_tokens == 160 * BATCH
    assert lines(branch) == failed(branch).step - 160

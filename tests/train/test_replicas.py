"""Ranks that must hold the same: what is compared, who is named, and what a flipped bit does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from trainings import curve, done, events, failed, twin

from train.choices import ZeroStage
from train.config import BatchConfig, ParallelConfig, StabilityConfig, run_id
from train.parallel import Ranks
from train.replicas import PIECE, Replicas, checksum, checksums, fold, odd_ones
from train.runlog import RunDir, create_run

MakeRun = Callable[..., RunDir]
FLIPPED_BIT = Path(__file__).with_name("flipped_bit.py")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_every_bit_of_every_number_counts(dtype: torch.dtype) -> None:
    kept = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).mul(40).to(dtype)
    whole = kept.numpy() if dtype != torch.bfloat16 else kept.view(torch.int16).numpy()
    content = bytearray(whole.tobytes())
    for place in range(len(content)):
        for bit in range(8):
            content[place] ^= 1 << bit
            flipped = torch.frombuffer(bytearray(content), dtype=dtype)
            content[place] ^= 1 << bit
            assert checksum(flipped) != checksum(kept)
    assert checksum(torch.frombuffer(content, dtype=dtype)) == checksum(kept)


def test_two_flips_of_top_bits_do_not_cancel() -> None:
    kept = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert checksum(kept) != checksum(kept * torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))


def test_a_checksum_sees_order_nans_and_signs_of_zero_and_not_strides() -> None:
    kept = torch.arange(12.0).view(3, 4)
    assert checksum(kept) != checksum(kept.flip(0))
    assert checksum(kept) == checksum(kept.t().contiguous().t())
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))
    nan = torch.tensor([float("nan")])
    assert checksum(nan) == checksum(nan.clone())


def test_a_large_tensor_is_summed_in_pieces_that_do_not_commute() -> None:
    kept = torch.zeros(2 * PIECE + 3)
    kept[5] = 1.0
    moved = kept.roll(PIECE)
    assert len({int(checksum(t)) for t in (kept, moved, kept.roll(2 * PIECE))}) == 3
    assert fold(checksums({"a": kept, "b": moved})) != fold(checksums({"a": moved, "b": kept}))


@pytest.mark.parametrize(
    ("rows", "odd"),
    [
        ([(1, 2)], ()),
        ([(1, 2), (1, 2)], ()),
        ([(1, 2), (1, 3)], (0, 1)),
        ([(1, 2), (1, 3), (1, 2)], (1,)),
        ([(1, 2), (9, 2), (1, 9), (1, 2)], (1, 2)),
        ([(1, 2), (1, 2), (9, 2), (9, 2)], (0, 1, 2, 3)),
        ([(1,), (2,), (3,)], (0, 1, 2)),
    ],
)
def test_the_ranks_that_no_majority_agrees_with_are_named(
    rows: list[tuple[int, ...]], odd: tuple[int, ...]
) -> None:
    assert odd_ones(rows) == odd


def test_comparing_replicas_is_no_part_of_what_a_run_is_and_is_done_as_asked_last(
    make_run: MakeRun,
) -> None:
    run = make_run(seed=90)
    stability = StabilityConfig(replica_check_every=7)
    spec = run.spec().model_copy(update={"stability": stability, "trial": 5})
    assert run_id(spec) == run.path.name
    assert create_run(run.home, spec).spec().stability == stability
    assert run.spec().trial == 0


def test_parts_that_nobody_else_has_cannot_be_compared(make_run: MakeRun) -> None:
    parallel = ParallelConfig(dp=2, zero_stage=3)
    with pytest.raises(ValueError, match=r"replica_check_every=4 with parallel.zero_stage=3"):
        make_run(parallel=parallel, stability=StabilityConfig(replica_check_every=4))


def spec_fields(seed: int, every: int, zero_stage: ZeroStage, dp: int = 2) -> dict[str, Any]:
    return {
        "seed": seed,
        "parallel": ParallelConfig(dp=dp, zero_stage=zero_stage),
        "stability": StabilityConfig(replica_check_every=every),
        "batch": BatchConfig(global_batch_tokens=512, micro_batch_size=1),
    }


def fault(rank: int, step: int, what: str = "parameter") -> dict[str, int | str]:
    return {"rank": rank, "step": step, "what": what}


Jobs = dict[str, tuple[RunDir, list[int]]]


@pytest.fixture(scope="module")
def jobs(make_shared_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Jobs with one fault each, and one without any, by name: the run, how its ranks ended."""
    four = make_shared_run(**spec_fields(91, 4, zero_stage=0, dp=4))
    used = make_shared_run(**spec_fields(92, 4, zero_stage=1))
    gradient = make_shared_run(**spec_fields(93, 4, zero_stage=0))
    kept = make_shared_run(**spec_fields(94, 1000, zero_stage=0))
    plain = make_shared_run(**spec_fields(95, 0, zero_stage=0))
    checked = twin(
        plain,
        tmp_path_factory.mktemp("checked"),
        stability=StabilityConfig(replica_check_every=1),
    )
    asked: dict[str, tuple[RunDir, dict[str, Any]]] = {
        "four": (four, {"ranks": 4, "runs": [four], "fault": fault(2, 6)}),
        "used": (used, {"ranks": 2, "runs": [used], "fault": fault(1, 8)}),
        "gradient": (gradient, {"ranks": 2, "runs": [gradient], "fault": fault(1, 8, "gradient")}),
        "kept": (kept, {"ranks": 2, "runs": [kept], "fault": fault(1, 5)}),
        "checked": (checked, {"ranks": 2, "runs": [plain, checked]}),
    }
    orders = [job | {"runs": [str(run.path) for run in job["runs"]]} for _, job in asked.values()]
    ended = subprocess.run(
        [sys.executable, str(FLIPPED_BIT), json.dumps(orders)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    print(ended.stdout, ended.stderr)
    statuses = json.loads(ended.stdout.splitlines()[-1])
    return {
        name: (run, status)
        for (name, (run, _)), status in zip(asked.items(), statuses, strict=True)
    }


@pytest.mark.slow
def test_a_bit_flipped_in_one_of_four_ranks_is_found_at_the_next_check_and_its_host_named(
    jobs: Jobs,
) -> None:
    run, statuses = jobs["four"]
    assert statuses == [1] * 4
    failure = failed(run)
    assert (failure.cause, failure.hosts, failure.step) == ("corrupted", ("n2",), 0)
    assert "step 8: rank 2 (n2) differs from the other 3 ranks" in failure.message
    (event,) = events(run, "corrupted")
    assert (event["step"], event["ranks"], event["hosts"]) == (8, [2], ["n2"])
    assert len(curve(run)) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step", "tensor"),
    [
        # What a step used: gathering has mended it by the time that it is compared.
        ("used", 8, "head.weight in the step"),
        ("gradient", 8, "gradient of head.weight"),
        # Never due, but the last state is to be kept.
        ("kept", 20, "head.weight after the update"),
    ],
)
def test_of_two_ranks_both_are_named(jobs: Jobs, name: str, step: int, tensor: str) -> None:
    run, statuses = jobs[name]
    assert statuses == [1, 1]
    assert (failed(run).cause, failed(run).hosts) == ("corrupted", ("n0", "n1"))
    assert "no majority says which is wrong: rank 0 (n0), rank 1 (n1)" in failed(run).message
    (event,) = events(run, "corrupted")
    assert event["step"] == step
    assert tensor in cast(list[str], event["tensors"])
    assert run.result() is None


@pytest.mark.slow
def test_a_run_that_is_checked_trains_bit_for_bit_as_one_that_is_not(
    jobs: Jobs, make_run: MakeRun
) -> None:
    run, statuses = jobs["checked"]
    plain = make_run(**spec_fields(95, 0, zero_stage=0))
    assert statuses == [0, 0]
    assert run.spec().stability.replica_check_every == 1
    assert curve(run) == curve(plain)
    assert done(run).nats_per_token == done(plain).nats_per_token


def test_one_process_has_nothing_to_compare_and_says_so(make_run: MakeRun) -> None:
    run = make_run(seed=96, stability=StabilityConfig(replica_check_every=1))
    engine: Any = None
    Replicas(engine, run.spec(), run, Ranks(0, 1, torch.device("cpu"))).check(1, kept=True)
    assert events(run, "replicas_unchecked")

"""A real GPU's memory running out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import curve, done, events, failed, train, twin

from model.config import ModelConfig
from train.config import BatchConfig
from train.runlog import RunDir

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SEQUENCES = 256
LEFT_BYTES = 3 * 2**30  # for CUDA's own context and for training
BALLAST = Path(__file__).with_name("full_gpu.py")
WIDE = ModelConfig(
    vocab_size=300,
    seq_len=512,
    n_layers=8,
    d_model=256,
    n_heads=4,
    n_kv_heads=4,
    d_head=64,
    d_ff=1024,
)


@pytest.fixture(autouse=True)
def gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def test_on_a_gpu_that_is_nearly_full_the_forward_is_halved_until_it_fits(
    make_run: Callable[..., RunDir], tmp_path: Path
) -> None:
    batch = BatchConfig(global_batch_tokens=SEQUENCES * 512, micro_batch_size=SEQUENCES)
    plain = make_run(model=WIDE, batch=batch, tokens=5 * SEQUENCES * 512)
    assert train(plain) == 0
    run = twin(plain, tmp_path / "home")
    sizes: list[int] = []
    for number in range(1, 7):
        status = train(run, program=BALLAST, LEFT_BYTES=str(LEFT_BYTES))
        sizes.append(run.attempts()[-1].micro_batch_size)
        if status == 0:
            break
        assert failed(run, number).cause == "out_of_memory", failed(run, number)
    assert len(sizes) > 1, "nothing ran out: leave less"
    assert sizes == [SEQUENCES // 2**n for n in range(len(sizes))]
    assert events(run, "micro_batch_reduced")[-1]["size"] == sizes[-1]
    for mine, theirs in zip(curve(run, len(sizes)), curve(plain), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert done(run).state == "DONE"


def test_a_second_run_of_a_list_has_a_gpu_of_its_own(make_run: Callable[..., RunDir]) -> None:
    """A parent that had started CUDA would leave its children none."""
    runs = [make_run(seed=seed, tokens=5 * 512) for seed in (91, 92)]
    assert train(*runs) == 0
    assert all(done(run).state == "DONE" for run in runs)

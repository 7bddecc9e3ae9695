"""Training and validation batches."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data import tokenizer
from train.data.loader import (
    TokenSource,
    TrainLoader,
    validation_batches,
    validation_bytes_per_token,
)
from train.data.prepare import PreparedData, tokens_path

SEQ_LEN = 64


def loader(prepared: PreparedData, mixture: dict[str, float], seed: int = 0) -> TrainLoader:
    return TrainLoader(prepared.folder, mixture, SEQ_LEN, global_batch=12, seed=seed)


def numbered(rows: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in rows]


def test_windows_cover_the_tokens_and_share_one_with_the_next(prepared: PreparedData):
    source = TokenSource(prepared, "prose", "train", SEQ_LEN)
    windows = source.windows(np.arange(source.n_windows))
    flat = np.fromfile(tokens_path(prepared.folder, "prose", "train"), prepared.manifest.dtype)
    assert windows[:, 1:].ravel().tolist() == flat[1 : source.n_windows * SEQ_LEN + 1].tolist()
    assert (windows[:-1, -1] == windows[1:, 0]).all()


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_window_comes_exactly_once_an_epoch(prepared: PreparedData, epoch: int):
    train = loader(prepared, {"prose": 1.0})
    n = train.sources["prose"].n_windows
    first, last = epoch * n // 12, ((epoch + 1) * n - 1) // 12
    rows = np.concatenate([train.batch(step) for step in range(first, last + 1)])
    rows = rows[epoch * n - first * 12 :][:n]
    everything = train.sources["prose"].windows(np.arange(n))
    assert sorted(numbered(rows)) == sorted(numbered(everything))


def test_epochs_come_in_different_orders(prepared: PreparedData):
    train = loader(prepared, {"prose": 1.0})
    n = train.sources["prose"].n_windows
    first, second = (train.rows(epoch * n + np.arange(n)) for epoch in (0, 1))
    assert (first != second).any(axis=1).mean() > 0.9


def test_a_window_is_found_again_by_what_is_said_of_its_origin(prepared: PreparedData):
    train = loader(prepared, {"code": 2.0, "prose": 1.0})
    samples = np.arange(500, 512)
    rows, origins = train.rows(samples), train.origins(samples)
    for row, origin in zip(rows, origins, strict=True):
        window = train.sources[origin.source].windows(np.array([origin.window]))[0]
        assert (window == row).all()
        ends = int((row[:-1] == tokenizer.END_OF_TEXT).sum())
        assert origin.last_document - origin.first_document == ends


@given(step=st.integers(0, 10**6), seed=st.integers(-3, 2**40), data=st.data())
def test_any_number_of_processes_sees_the_same_global_batch(
    prepared: PreparedData, step: int, seed: int, data: st.DataObject
):
    world = data.draw(st.sampled_from([2, 3, 4, 6, 12]))
    train = loader(prepared, {"code": 2.0, "prose": 1.0}, seed)
    shared = np.concatenate([train.batch(step, rank, world) for rank in range(world)])
    assert (shared == train.batch(step)).all()


@given(steps=st.lists(st.integers(0, 5_000), min_size=2, max_size=5))
def test_a_batch_depends_on_its_step_and_not_on_the_steps_before(
    prepared: PreparedData, steps: list[int]
):
    used = loader(prepared, {})
    for step in steps:
        resumed = loader(prepared, {}).batch(step)
        assert (used.batch(step) == resumed).all()


def test_seeds_give_other_samples(prepared: PreparedData):
    assert (loader(prepared, {}, seed=0).batch(0) != loader(prepared, {}, seed=1).batch(0)).any()


def test_an_empty_mixture_samples_by_size(prepared: PreparedData):
    epochs = loader(prepared, {}).epochs(20_000)
    assert set(epochs) == set(prepared.manifest.sources)
    assert max(epochs.values()) / min(epochs.values()) == pytest.approx(1, abs=0.01)


def test_epochs_say_how_often_a_source_is_repeated(prepared: PreparedData):
    train = loader(prepared, {"code": 3.0, "prose": 1.0, "tests": 0.0})
    n = train.sources["code"].n_windows
    epochs = train.epochs(4 * n)
    assert set(epochs) == {"code", "prose"}
    assert epochs["code"] == pytest.approx(3, abs=0.01)


def test_a_batch_is_int64_ids_inside_the_vocabulary(prepared: PreparedData):
    rows = loader(prepared, {}).batch(3)
    assert rows.shape == (12, SEQ_LEN + 1)
    assert rows.dtype == np.int64
    assert 0 <= rows.min() <= rows.max() < prepared.manifest.data.vocab_size


def test_a_batch_that_cannot_be_shared_evenly_is_refused(prepared: PreparedData):
    with pytest.raises(
        ValueError, match=r"global_batch=12 .* divisible by world=5; use a multiple"
    ):
        loader(prepared, {}).batch(0, rank=0, world=5)


def test_an_unknown_source_is_refused(prepared: PreparedData):
    with pytest.raises(ValueError, match="mixture names 'poems'"):
        loader(prepared, {"poems": 1.0})


@pytest.mark.parametrize("mixture", [{}, {"prose": 1.0}])
def test_a_source_shorter_than_one_window_is_refused(
    prepared: PreparedData, mixture: dict[str, float]
):
    with pytest.raises(ValueError, match=r"training tokens; use a shorter seq_len"):
        TrainLoader(prepared.folder, mixture, seq_len=10**7, global_batch=1, seed=0)


def test_a_folder_without_finished_data_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no finished data; prepare the data first"):
        TrainLoader(tmp_path, {}, SEQ_LEN, global_batch=1, seed=0)


@given(batch=st.integers(1, 50), other=st.integers(1, 50), tokens=st.integers(1, 40_000))
def test_validation_windows_do_not_depend_on_the_batch_size(
    prepared: PreparedData, batch: int, other: int, tokens: int
):
    def windows(size: int) -> list[tuple[str, bytes]]:
        batches = validation_batches(prepared.folder, SEQ_LEN, size, tokens)
        return [(name, row.tobytes()) for name, rows in batches for row in rows]

    assert windows(batch) == windows(other)


@given(tokens=st.integers(SEQ_LEN, 200_000))
def test_validation_has_the_tokens_asked_for_or_all_there_are(prepared: PreparedData, tokens: int):
    found = [rows for _, rows in validation_batches(prepared.folder, SEQ_LEN, 32, tokens)]
    windows = sum(len(rows) for rows in found)
    available = sum(
        TokenSource(prepared, name, "validation", SEQ_LEN).n_windows
        for name in prepared.manifest.sources
    )
    assert windows == min(tokens // SEQ_LEN, available)
    assert all(len(rows) <= 32 for rows in found)


def test_validation_sources_share_by_size(prepared: PreparedData):
    counts: dict[str, int] = {}
    for name, rows in validation_batches(prepared.folder, SEQ_LEN, 8, 8_000):
        counts[name] = counts.get(name, 0) + len(rows)
    sizes = {n: splits["validation"].tokens for n, splits in prepared.manifest.sources.items()}
    for name, size in sizes.items():
        share = size / sum(sizes.values()) * (8_000 // SEQ_LEN)
        assert abs(counts[name] - share) <= 2


def test_validation_reads_held_out_text(prepared: PreparedData):
    name, rows = next(validation_batches(prepared.folder, SEQ_LEN, 4, 20_000))
    flat = np.fromfile(tokens_path(prepared.folder, name, "validation"), prepared.manifest.dtype)
    assert rows[0].tolist() == flat[: SEQ_LEN + 1].tolist()


def test_bytes_per_token_are_those_of_the_text_that_is_validated_on(prepared: PreparedData):
    words = tokenizer.load(prepared.folder)
    measured = validation_bytes_per_token(prepared.folder, SEQ_LEN, 20_000)
    for source, expected in measured.items():
        targets: list[int] = []
        for name, rows in validation_batches(prepared.folder, SEQ_LEN, 7, 20_000):
            targets += rows[:, 1:].ravel().tolist() if name == source else []
        text = words.decode([id for id in targets if id != tokenizer.END_OF_TEXT])
        # A character cut at either end decodes to U+FFFD, three bytes instead of one to three.
        assert math.isclose(expected * len(targets), len(text.encode()), abs_tol=6)

"""Every objective: a pure function of the sample, nothing lost, nothing asked for that is given."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig, Stacks
from tests.train.golden import data as denoising_data
from train.choices import (
    BatchConfig,
    ObjectiveConfig,
    ObjectiveKind,
    OptimConfig,
    ScheduleConfig,
)
from train.config import DataConfig, RunSpec
from train.course import Course
from train.data.prepare import prepare
from train.data.tokenizer import END_OF_TEXT, FIRST_SENTINEL, MODE_R, MODE_S, MODE_X
from train.denoisers import UL2, Denoiser, fitting, sentinels_needed, sizes
from train.examples import Draws, Examples, apart, denoise, documents, in_one_window
from train.objectives import OBJECTIVES, answer_tokens, examples, window_nats

MODEL = ModelConfig(
    vocab_size=400, seq_len=128, n_layers=1, d_model=8, n_heads=1, n_kv_heads=1, d_head=8, d_ff=8
)  # fmt: skip
SENTINELS = range(FIRST_SENTINEL, FIRST_SENTINEL + 100)
SAMPLES = np.arange(40, 104)


def windows(n: int = len(SAMPLES), width: int = 129) -> np.ndarray:
    """Tokens that say where they stand, none of them special."""
    return 200 + np.tile(np.arange(width), (n, 1))


def made(kind: ObjectiveKind, samples: np.ndarray = SAMPLES, seed: int = 0) -> Examples:
    ids = windows(len(samples))
    return OBJECTIVES[kind](ids, Draws(seed, samples), ObjectiveConfig(kind=kind))


def restored(source: list[int], target: list[int]) -> list[int]:
    """The text, each sentinel of the source replaced by what stands behind it in the target."""
    pieces: dict[int, list[int]] = {}
    for token in target:
        if token in SENTINELS:
            current = pieces.setdefault(token, [])
        elif token != END_OF_TEXT:
            current.append(token)
    text: list[int] = []
    for token in source:
        text += pieces[token] if token in SENTINELS else [token]
    return text


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_gives_and_asks_for_each_token_of_a_text_once(kind: ObjectiveKind) -> None:
    found = made(kind)
    for ids, start, end in zip(found.ids, found.start, found.end, strict=True):
        source, target = ids[:start].tolist(), ids[start:end].tolist()
        assert 1 <= start < end <= 129
        if source[0] in (MODE_R, MODE_S, MODE_X):
            source = source[1:]
        text = restored(source, target) if target[0] in SENTINELS else source + target
        assert text == list(range(200, 200 + len(text)))
        assert len(text) >= 0.7 * 129


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_follows_from_seed_and_sample_alone(kind: ObjectiveKind) -> None:
    together, apart_ = made(kind), made(kind, SAMPLES[32:])
    assert np.array_equal(together.ids[32:], apart_.ids)
    assert np.array_equal(together.start[32:], apart_.start)
    if kind != "causal":
        other = made(kind, seed=1)
        assert not np.array_equal(together.start, other.start) or not np.array_equal(
            together.ids, other.ids
        )


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_is_laid_out_for_one_window_and_for_two(kind: ObjectiveKind) -> None:
    found = made(kind)
    window, parts = in_one_window(found), apart(found)
    for row in range(len(SAMPLES)):
        asked = window["ids"][row][window["mask"][row] > 0]
        start = found.start[row]
        assert window["prefix"][row] == start
        assert np.array_equal(window["ids"][row, :start], parts["source"][row, :start])
        assert np.flatnonzero(parts["present"][row]).tolist() == list(range(start))
        assert np.array_equal(parts["ids"][row][parts["mask"][row] > 0], asked)
        assert parts["ids"][row, 0] == END_OF_TEXT
        assert parts["mask"][row, 0] == window["mask"][row, 0] == 0


@pytest.mark.parametrize("architecture", get_args(Stacks))
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_counts_as_many_tokens_as_it_asks_for(
    kind: ObjectiveKind, architecture: Stacks
) -> None:
    """The loss is divided by the count: both are those of the targets, and of no padding."""
    layers = 1 if architecture == "encoder_decoder" else 0
    change = {"architecture": architecture, "n_encoder_layers": layers}
    model = ModelConfig.model_validate(MODEL.model_dump() | change)
    found = made(kind)
    batch = examples(windows(), SAMPLES, 0, ObjectiveConfig(kind=kind), model)
    asked = int((found.end - found.start).sum())
    if "mask" not in batch:
        assert asked == batch["ids"][:, 1:].size
        return
    assert answer_tokens({"mask": torch.from_numpy(batch["mask"])}) == asked
    for ids, mask, row in zip(batch["ids"], batch["mask"], range(len(SAMPLES)), strict=True):
        target = found.ids[row, found.start[row] : found.end[row]]
        assert np.array_equal(ids[mask > 0], target)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_ranks_of_every_objective_share_out_the_batch_of_one(
    kind: ObjectiveKind, denoising: DataConfig, home: Path
) -> None:
    spec = RunSpec(
        study="s", trial=0, budget=1.0, seed=3, model=MODEL.model_copy(update={"vocab_size": 300}),
        data=denoising, objective=ObjectiveConfig(kind=kind),
        batch=BatchConfig(global_batch_tokens=8 * 128, micro_batch_size=1),
        optim=OptimConfig(lr=0.01), schedule=ScheduleConfig(warmup_tokens=0), tokens=20 * 8 * 128,
    )  # fmt: skip
    course, again = (Course(spec, prepare(denoising, home).folder) for _ in range(2))
    for step in (0, 7, 19):
        whole = course.batch(step)
        for world in (2, 4):
            # Another course, and ranks in another order: what was asked before must not matter.
            parts = {rank: again.batch(step, rank, world) for rank in reversed(range(world))}
            for name, column in whole.items():
                shared = np.concatenate([parts[rank][name] for rank in range(world)])
                assert np.array_equal(column, shared)
    other = Course(spec.model_copy(update={"seed": 4}), prepare(denoising, home).folder)
    assert not np.array_equal(other.batch(0)["ids"], course.batch(0)["ids"])


def test_every_objective_that_may_be_named_exists() -> None:
    assert set(OBJECTIVES) == set(get_args(ObjectiveKind))


def test_span_corruption_has_the_published_lengths() -> None:
    """Raffel et al. 2020 (`random_spans_helper`): 512 inputs hold 568 tokens, 114 are targets."""
    denoiser = Denoiser(0.15, 3)
    found = sizes(denoiser, 568)
    # Their inputs, too, end with an end of text.
    assert (found.source + 1, found.target) == (512, 114)


def test_as_many_tokens_are_taken_out_in_as_long_pieces_as_asked() -> None:
    for denoiser in UL2:
        if denoiser.mean_span is None:
            continue
        size = fitting(denoiser, 2049)
        assert size.noise / size.raw == pytest.approx(denoiser.corruption, abs=0.01)
        assert size.noise / size.spans == pytest.approx(denoiser.mean_span, rel=0.2)
        assert 2045 <= size.source + size.target <= 2049


def test_places_and_lengths_of_pieces_are_drawn_evenly() -> None:
    ids = windows(4000)
    source, _ = denoise(ids, Denoiser(0.25, 4), Draws(0, np.arange(4000)))
    given = np.zeros(129)
    for row in source:
        given[row[row >= 200] - 200] += 1
    size = fitting(Denoiser(0.25, 4), 129)
    share = 1 - given[: size.raw] / 4000
    # The first token stays, as in the published code; the rest goes about equally often.
    assert share[0] == 0
    assert share[20 : size.raw - 20] == pytest.approx(size.noise / size.raw, abs=0.04)


def test_the_denoisers_of_ul2_come_equally_often_each_behind_its_mode_token() -> None:
    """Tay et al. 2022, table 1: two regular ones, a sequential one, four extreme ones."""
    found = made("ul2", np.arange(7000))
    modes = found.ids[:, 0]
    counts = [(modes == mode).sum() / 1000 for mode in (MODE_R, MODE_S, MODE_X)]
    assert counts == pytest.approx([2, 1, 4], abs=0.15)
    sequential = found.start[modes == MODE_S]
    assert set(sequential) == {1 + 128 - 32}


def test_sentinels_needed_are_those_of_the_denoiser_with_most_pieces() -> None:
    assert sentinels_needed(ObjectiveConfig(kind="causal"), 512) == 0
    assert sentinels_needed(ObjectiveConfig(kind="span"), 512) == 23
    assert sentinels_needed(ObjectiveConfig(kind="ul2"), 512) == 64


@pytest.fixture(scope="module")
def denoising(home: Path) -> DataConfig:
    """The tests' corpus with sentinels, prepared."""
    data = denoising_data()
    prepare(data, home)
    return data


class Counting(nn.Module):
    """Gives every target its own position as nats, so that sums say which were counted."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 2)
        logits[..., 0] = torch.arange(tokens.shape[1], dtype=torch.float32)
        return logits


def test_the_loss_counts_what_is_asked_for_and_nothing_of_the_prefix() -> None:
    ids = torch.ones((2, 5), dtype=torch.int64)
    mask = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.float32)
    position = torch.logaddexp(torch.zeros(4), torch.arange(4.0))  # nats of token 1 after n tokens
    nats, _ = window_nats(Counting(), {"ids": ids, "mask": mask})
    assert nats.item() == pytest.approx((position[2:].sum() + position[:2].sum()).item())
    plain, _ = window_nats(Counting(), {"ids": ids})
    assert plain.item() == pytest.approx(2 * position.sum().item())


def test_a_decoder_is_not_told_of_a_prefix_it_cannot_see() -> None:
    batch = examples(windows(), SAMPLES, 0, ObjectiveConfig(kind="prefix"), MODEL)
    assert set(batch) == {"ids", "mask"}
    causal = examples(windows(), SAMPLES, 0, ObjectiveConfig(), MODEL)
    assert set(causal) == {"ids"}


def test_a_document_begins_with_the_end_of_the_one_before() -> None:
    ids = np.array([[5, END_OF_TEXT, 6, 7, END_OF_TEXT, 8], [5, 6, 7, 8, 9, END_OF_TEXT]])
    assert documents(ids).tolist() == [[0, 1, 1, 1, 2], [0, 0, 0, 0, 0]]

"""The search of a layout: what it offers is legal, fits and comes in order."""

from dataclasses import replace

import pytest

from model.config import MoEConfig
from model.presets import preset
from train.activations import UNFUSED
from train.hardware import A100, H100
from train.layout import Case
from train.layout_legal import problems
from train.layout_search import Wish, legal_layouts, ranked
from train.memory import peak_bytes
from train.setting import Setting
from train.step_time import step_time

WISH = Wish(preset("gpt2").model_copy(update={"vocab_size": 50_304}), 8, 64, A100)


def test_all_that_is_offered_is_legal_fits_and_comes_in_order() -> None:
    found = ranked(WISH)
    seconds = [float(f"{one.time.total:.3g}") for one in found]
    assert seconds == sorted(seconds)
    assert len({one.layout for one in found}) == len(found) > 50
    for one in found:
        assert problems(Case(WISH.model, one.layout, 8)) == []
        assert one.layout.sequences == 64
        assert one.peak_bytes <= 0.9 * A100.memory_bytes
        setting = Setting(WISH.model, one.layout, A100)
        assert one.time == step_time(setting)


def test_a_small_model_is_data_parallel_with_the_largest_micro_batches() -> None:
    best = ranked(WISH)[0].layout
    assert (best.dp, best.recompute, best.micro_batch_size) == (8, "none", 8)


def test_less_memory_takes_layouts_away_and_never_adds_any() -> None:
    ample = {one.layout for one in ranked(WISH)}
    scarce = ranked(replace(WISH, hardware=replace(A100, memory_bytes=4 * 2**30)))
    assert {one.layout for one in scarce} < ample
    assert all(one.peak_bytes <= 0.9 * 4 * 2**30 for one in scarce)


def test_a_model_too_large_for_a_node_is_split_or_shared() -> None:
    wish = Wish(preset("gpt3-175b").model_copy(update={"vocab_size": 51_200}), 128, 128, A100)
    best = ranked(wish)[0].layout
    assert best.tp * best.pp > 1 or best.zero_stage == 3
    assert peak_bytes(wish.model, best).total <= 0.9 * A100.memory_bytes


def test_what_does_not_fit_anywhere_says_what_it_would_need() -> None:
    wish = Wish(preset("llama-3-405b"), 8, 8, H100)
    with pytest.raises(ValueError, match=r"gpus=8 of 80 GiB: the smallest layout holds .*use more"):
        ranked(wish)


def test_gpus_that_divide_nothing_have_no_layout() -> None:
    with pytest.raises(
        ValueError, match="gpus=11 with a batch of 64 sequences: no layout is legal"
    ):
        ranked(replace(WISH, gpus=11))


def test_experts_are_shared_among_data_ranks() -> None:
    moe = WISH.model.model_copy(update={"moe": MoEConfig(n_experts=4)})
    degrees = {layout.ep for layout in legal_layouts(replace(WISH, model=moe))}
    assert degrees == {1, 2, 4}


def test_an_optimizer_of_whole_matrices_is_offered_no_zero() -> None:
    assert {one.layout.zero_stage for one in ranked(replace(WISH, optimizer="muon"))} == {0}


def test_other_engines_may_interleave_and_compute_scores_anew() -> None:
    free = list(legal_layouts(replace(WISH, engine=False, kernels=UNFUSED)))
    assert {layout.recompute for layout in free} == {"none", "selective", "full"}
    assert max(layout.chunks for layout in free) == 6
    assert {layout.chunks for layout in legal_layouts(WISH)} == {1}

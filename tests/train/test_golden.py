"""A few steps of every family of presets, against the curves that are kept (golden.json).

The bounds are from measurements. One machine gives every digit again. With the kernels that other
processors would choose (ATEN_CPU_CAPABILITY=default and avx2, MKL_CBWR=COMPATIBLE,
ONEDNN_MAX_CPU_ISA=SSE41), and with two threads, losses moved by 1.6e-6 of themselves at most and
gradient norms by 1e-4 (T5's; in most families by 3e-7). Bounds are six and ten times that.
"""

from itertools import combinations
from typing import Any

import pytest

from model.config import ModelConfig, Traits
from model.presets import PRESETS, toy, traits
from tests.train.golden import (
    FAMILIES,
    VOCABULARY,
    Curve,
    curves,
    data,
    family,
    recorded,
    recorded_text,
    spec_of,
)

pytestmark = pytest.mark.slow
LOSS, NORM = 1e-5, 1e-3
COMPARED = 8  # steps of a run with a switch changed
# For every switch of a model a family that shows it, and what is changed there.
SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "architecture": ("ul2", {"architecture": "decoder", "n_encoder_layers": 0}),
    "activation": ("llama", {"activation": "geglu"}),
    "position": ("llama", {"position": "alibi"}),
    "rope_theta": ("llama", {"rope_theta": 500_000.0}),
    "rope_fraction": ("gpt-neox", {"rope_fraction": 0.5}),
    "relative_buckets": ("gopher", {"relative_buckets": 16}),
    "relative_max_distance": ("gopher", {"relative_max_distance": 64}),
    "norm": ("llama", {"norm": "layernorm"}),
    "norm_placement": ("llama", {"norm_placement": "sandwich"}),
    "norm_eps": ("llama", {"norm_eps": 1e-4}),
    "qk_norm": ("llama", {"qk_norm": True}),
    "parallel_blocks": ("gpt-neox", {"parallel_blocks": False}),
    "shared_norm": ("palm", {"shared_norm": False}),
    "window": ("llama", {"window": 32}),
    "sinks": ("llama", {"window": 32, "sinks": 4}),
    "document_mask": ("llama", {"document_mask": True}),
    "tied_embeddings": ("gpt2", {"tied_embeddings": False}),
    "bias": ("gpt2", {"bias": False}),
    "dropout": ("llama", {"dropout": 0.1}),
    "logit_softcap": ("llama", {"logit_softcap": 30.0}),
    "moe": ("llama", {"moe": {"n_experts": 4}}),
    "init": ("gpt2", {"init": "normal"}),
    "init_std": ("gpt2", {"init_std": 0.03}),
    "mup_base_width": ("gpt2", {"init": "mup", "mup_base_width": 32}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    """The curves of all families, and of each switch changed in one, from one job."""
    text = data()
    specs = {name: family(name, text) for name in FAMILIES}
    for switch, (name, change) in SWITCHES.items():
        model = ModelConfig.model_validate(specs[name].model.model_dump() | change)
        specs[f"{name}, other {switch}"] = spec_of(model, FAMILIES[name][1], text, COMPARED)
    return curves(specs, tmp_path_factory.mktemp("golden"))


def apart(one: Curve, other: Curve) -> float:
    """How far two curves of losses lie apart at most, as a share of the loss."""
    return max(abs(a[1] - b[1]) / a[1] for a, b in zip(one, other, strict=False))


def test_the_text_is_the_one_of_the_kept_curves() -> None:
    assert data().digest == recorded_text(), "other pinned wheels: write the curves anew"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_curve_of_every_family_is_the_kept_one(name: str, trained: dict[str, Curve]) -> None:
    for (step, loss, norm), kept in zip(trained[name], recorded()[name], strict=True):
        assert (step, loss) == (kept[0], pytest.approx(kept[1], rel=LOSS))
        assert (step, norm) == (kept[0], pytest.approx(kept[2], rel=NORM))


@pytest.mark.parametrize("switch", SWITCHES)
def test_another_switch_of_the_architecture_is_another_curve(
    switch: str, trained: dict[str, Curve]
) -> None:
    name, _ = SWITCHES[switch]
    mine = f"{name}, other {switch}"
    others = [curve for run, curve in trained.items() if run != mine]
    assert min(apart(trained[mine], curve) for curve in others) > 3 * LOSS


def test_no_two_families_have_one_curve() -> None:
    for one, other in combinations(recorded().values(), 2):
        assert apart(one, other) > 100 * LOSS


def test_every_switch_and_every_family_has_its_row() -> None:
    assert set(SWITCHES) == set(Traits.model_fields)
    assert set(recorded()) == set(FAMILIES)
    covered = {traits(preset).model_dump_json() for preset, _ in FAMILIES.values()}
    assert covered == {traits(preset).model_dump_json() for preset in PRESETS}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_toy_keeps_all_switches_and_ratios_of_its_preset(name: str) -> None:
    whole, small = PRESETS[FAMILIES[name][0]], toy(FAMILIES[name][0], VOCABULARY)
    for trait in Traits.model_fields:
        assert getattr(small, trait) == getattr(whole, trait)
    assert small.d_ff / small.d_model == pytest.approx(whole.d_ff / whole.d_model, abs=0.01)
    assert (small.n_kv_heads < small.n_heads) == (whole.n_kv_heads < whole.n_heads)
    assert (small.n_encoder_layers > 0) == (whole.n_encoder_layers > 0)

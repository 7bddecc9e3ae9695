"""Seconds of the messages that each kind of parallelism sends. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass

from train.hardware import Group, exchange_seconds, gather_seconds, send_seconds
from train.layout import ContextKind, tokens_of_rank, total_layers
from train.memory import keys_and_values, params_of_rank
from train.setting import Setting


def tensor_seconds(setting: Setting) -> float:
    """Of a layer, one way: an all-reduce after each half, or as much in two pieces around it.

    A parallel block has one for both. Source: Shoeybi et al. 2019, arXiv:1909.08053, sec. 3;
    Korthikanti et al. 2022, arXiv:2205.05198, sec. 4.2.2.
    """
    model, layout = setting.model, setting.layout
    size = tokens_of_rank(model, layout) * model.d_model * layout.number_bytes
    halves = 1 if model.parallel_blocks else 2
    reached = setting.efficiency.links
    return 2 * halves * gather_seconds(setting.hardware, setting.tensor, size, reached)


@dataclass(frozen=True)
class Exchange:
    """Messages of context parallelism in a layer.

    `seconds` one way; the backward pass has `backward` times as many. Those that `hides` go on
    while attention computes on what came before.
    """

    seconds: Callable[[Setting], float]
    backward: int
    hides: bool


def _keys_and_values(setting: Setting) -> float:
    """Those of a whole sequence reach every rank of it."""
    model, layout = setting.model, setting.layout
    tokens = layout.cp * tokens_of_rank(model, layout)
    size = tokens * keys_and_values(model, layout) * layout.number_bytes
    return gather_seconds(setting.hardware, setting.context, size, setting.efficiency.links)


def _heads_for_positions(setting: Setting) -> float:
    """All-to-alls of queries, keys and values, and of what attention mixes."""
    model, layout = setting.model, setting.layout
    numbers = keys_and_values(model, layout) + 2 * model.n_heads * model.d_head // layout.tp
    size = tokens_of_rank(model, layout) * numbers * layout.number_bytes
    return exchange_seconds(setting.hardware, setting.context, size, setting.efficiency.links)


# Keys and values come again in the backward pass, and their gradients go back. Source: Liu et al.
# 2023, arXiv:2310.01889, sec. 3; Dubey et al. 2024, arXiv:2407.21783, sec. 3.3.2; Jacobs et al.
# 2023, arXiv:2309.14509, sec. 3.
EXCHANGES: dict[ContextKind, Exchange] = {
    "ring": Exchange(_keys_and_values, backward=2, hides=True),
    "all_gather": Exchange(_keys_and_values, backward=2, hides=False),
    "ulysses": Exchange(_heads_for_positions, backward=1, hides=False),
}


def context_seconds(setting: Setting, attention: float, again: int) -> float:
    """Of a layer, forward and backward, what shows: `attention` takes so long, one way."""
    exchange = EXCHANGES[setting.layout.context_kind]
    hidden = attention if exchange.hides else 0.0
    return (1 + exchange.backward + again) * max(0.0, exchange.seconds(setting) - hidden)


def expert_seconds(setting: Setting) -> float:
    """Of a layer, one way: tokens go to their experts and back.

    Source: Lepikhin et al. 2020, arXiv:2006.16668, sec. 3.
    """
    model, layout = setting.model, setting.layout
    if model.moe is None:
        return 0.0
    copies = tokens_of_rank(model, layout) * model.moe.top_k / layout.tp
    size = copies * model.d_model * layout.number_bytes
    reached = setting.efficiency.links
    return 2 * exchange_seconds(setting.hardware, setting.experts, size, reached)


def stage_seconds(setting: Setting) -> float:
    """Each piece of layers sends its outputs on and gradients back; tp ranks send a part each.

    Source: Narayanan et al. 2021, arXiv:2104.04473, sec. 4.1 (scatter/gather).
    """
    model, layout = setting.model, setting.layout
    if layout.pp == 1:
        return 0.0
    size = tokens_of_rank(model, layout) * model.d_model * layout.number_bytes / layout.tp
    one = send_seconds(setting.hardware, setting.pipeline, size, setting.efficiency.links)
    return 2 * layout.chunks * one


def data_seconds(setting: Setting, backward: float) -> float:
    """Of a step: gradients are summed and weights handed out, as far as no backward pass hides it.

    ZeRO 0 and 1 do it after the last micro-batch; 2 hands gradients over after each; 3 gathers the
    weights too, twice, layer by layer. Source: Rajbhandari et al. 2020, arXiv:1910.02054, sec. 7.
    """
    layout, count = setting.layout, setting.layout.microbatches
    pieces = total_layers(setting.model) if layout.zero_stage == 3 else 1
    weights = _gathered(setting, layout.number_bytes, pieces)
    gradients = _gathered(setting, layout.gradient_bytes, pieces)
    seconds = {
        0: 2 * gradients,
        1: gradients + weights,
        2: count * gradients + weights,
        3: count * (gradients + 2 * weights),
    }[layout.zero_stage]
    hidden = backward * (count if layout.zero_stage >= 2 else 1)
    return max(0.0, seconds - setting.efficiency.overlap * hidden)


def _gathered(setting: Setting, size: int, pieces: int) -> float:
    """Seconds to gather, or to reduce and scatter, a number of `size` bytes a parameter."""
    dense, experts = params_of_rank(setting.model, setting.layout)
    reached, data = setting.efficiency.links, setting.data
    fewer = Group(data.size // setting.layout.ep, data.stride * setting.layout.ep)
    return gather_seconds(setting.hardware, data, dense * size, reached, pieces) + (
        gather_seconds(setting.hardware, fewer, experts * size, reached, pieces) if experts else 0.0
    )

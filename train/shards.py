"""The part of a parameter that one rank updates, wherever DeepSpeed keeps it.

Every number of a parameter is in one rank's part: sums over ranks are of the whole. The parts are
flat or shaped, in fp32, and not copies; None is a parameter that other ranks hold all of.
"""

from typing import Any

from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_grad
from torch import Tensor

from train.parallel import Ranks


def weight_shard(parameter: Any, ranks: Ranks) -> Tensor | None:
    """The weights that this rank updates."""
    if hasattr(parameter, "ds_id"):
        return safe_get_local_fp32_param(parameter)[: _own(parameter, ranks)]
    if hasattr(parameter, "_hp_mapping"):
        stretch = parameter._hp_mapping
        return None if stretch is None else stretch.get_hp_fragment()
    return parameter.detach() if ranks.first else None


def gradient_shard(parameter: Any, ranks: Ranks) -> Tensor | None:
    """Their gradient, over all micro-batches and ranks; between the last backward and the step."""
    if hasattr(parameter, "ds_id"):
        return safe_get_local_grad(parameter)[: _own(parameter, ranks)]
    if hasattr(parameter, "_hp_mapping"):
        if (stretch := parameter._hp_mapping) is None:
            return None
        return stretch.get_lp_grad_fragment(parameter._index_in_param_group)
    return parameter.grad if ranks.first else None


def _own(parameter: Any, ranks: Ranks) -> int:
    """Numbers of a rank's equal part under ZeRO 3 that are not there to fill it up."""
    size = parameter.ds_tensor.numel()
    return max(0, min(size, parameter.ds_numel - size * ranks.rank))

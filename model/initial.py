"""First weights: drawn from a seed by a rule, or grown from a smaller model.

Shapes: D d_model, F width of a feed-forward block, L layers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import Initialisation, ModelConfig
from model.transformer import Transformer

# Projections whose output is added to the residual stream.
RESIDUAL = ("attention.out.weight", "cross.out.weight", ".down.weight")
TABLES = ("embedding.weight", "positions.weight")


def _layers(config: ModelConfig) -> int:
    """Residual additions, in pairs: an encoder-decoder's stacks are read one after the other."""
    return config.n_layers + config.n_encoder_layers


def small(config: ModelConfig, name: str, weight: Tensor) -> float:
    """sqrt(2/5D), residual outputs 2/(L sqrt(D)): both follow the width without a constant.

    Source: Nguyen & Salazar 2019, arXiv:1910.05895, sec. 2.2, and Wang's rule as GPT-NeoX-20B uses
    it (Black et al. 2022, arXiv:2204.06745, sec. 2.1).
    """
    inner = math.sqrt(2 / (5 * config.d_model))
    residual = 2 / (_layers(config) * math.sqrt(config.d_model))
    # One layer would get a residual std above that of its inputs: the smaller one of the two.
    return min(residual, inner) if name.endswith(RESIDUAL) else inner


def normal(config: ModelConfig, name: str, weight: Tensor) -> float:
    """One std for all. Source: Radford et al. 2018 (GPT, sec. 4.1): 0.02."""
    return config.init_std


def depth_scaled(config: ModelConfig, name: str, weight: Tensor) -> float:
    """One std, that of residual outputs by 1/sqrt(2L). Source: Radford et al. 2019 (GPT-2)."""
    deep = math.sqrt(2 * _layers(config))
    return config.init_std / (deep if name.endswith(RESIDUAL) else 1)


def tfixup(config: ModelConfig, name: str, weight: Tensor) -> float:
    """Xavier's std; tables D^-1/2; values, outputs and feed-forward blocks scaled down by depth.

    (9 L)^-1/4 in a decoder that reads an encoder, 0.67 L^-1/4 in a stack that reads itself alone.
    Norms are kept, so that they stay an axis of their own (the paper removes them and warm-up).
    Source: Huang et al. 2020, ICML (T-Fixup), sec. 3.
    """
    if name.endswith(TABLES):
        return config.d_model**-0.5
    xavier = math.sqrt(2 / sum(weight.shape))
    scaled = (*RESIDUAL, ".value.weight", ".up.weight", ".gate.weight")
    if not name.endswith(scaled):
        return xavier
    if name.startswith("decoder") and config.n_encoder_layers:
        return xavier * (9 * config.n_layers) ** -0.25
    layers = config.n_encoder_layers if name.startswith("encoder") else config.n_layers
    return xavier * 0.67 * layers**-0.25


def mup(config: ModelConfig, name: str, weight: Tensor) -> float:
    """`init_std` at the base width; that of hidden matrices falls with the root of the width.

    Residual outputs by 1/sqrt(2L) beside. Tables and the output keep theirs: the output has a
    multiplier. Heads have one size at all widths of a ladder, so that 1/d and 1/sqrt(d) before
    the softmax differ by a constant. Source: Yang et al. 2022, arXiv:2203.03466, table 8.
    """
    assert config.mup_base_width is not None
    if not is_hidden(name):
        return config.init_std
    return depth_scaled(config, name, weight) * math.sqrt(config.mup_base_width / config.d_model)


# Rules for the std of a weight's normal draws, by the model's shape and the weight's name.
INITIALISERS: dict[Initialisation, Callable[[ModelConfig, str, Tensor], float]] = {
    "small": small,
    "normal": normal,
    "depth_scaled": depth_scaled,
    "tfixup": tfixup,
    "mup": mup,
}


def is_hidden(name: str) -> bool:
    """Whether a matrix goes from width to width: neither a table nor the output."""
    return not name.endswith((*TABLES, "head.weight", "bias.weight"))


def initialise(model: Transformer, seed: int) -> None:
    """Draw all weights from the seed by the config's rule; gains are one, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    rule = INITIALISERS[model.config.init]
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.dim() >= 2:
                std = rule(model.config, name, parameter)
                parameter.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()


def rate_multipliers(model: nn.Module) -> dict[str, float]:
    """By name of a parameter, what its rate is multiplied with; those that keep theirs are absent.

    Under muP hidden matrices learn at base width / width of the rate tuned at the base width
    (Adam). Source: Yang et al. 2022, arXiv:2203.03466, table 8.
    """
    config = model.config
    if not isinstance(config, ModelConfig) or config.mup_base_width is None:
        return {}
    ratio = config.mup_base_width / config.d_model
    return {n: ratio for n, p in model.named_parameters() if p.dim() >= 2 and is_hidden(n)}

"""Peak learning rate and batch of a run, by rule. N parameters, D tokens, C FLOPs."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from model.config import ModelConfig
from model.counts import flops_per_token, params_active, params_non_embedding
from sweeper.rules import BatchSizeRule, LearningRateRule, PowerLaw, RampRule
from train.choices import BatchConfig

if TYPE_CHECKING:
    from sweeper.recipe import Recipe

Rule = Callable[["Recipe", ModelConfig, int], float]


def constant_rate(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """The recipe's own value."""
    assert recipe.lr.value is not None
    return recipe.lr.value


def power_rate(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """A power law in N, D and C, its coefficients fields of the recipe."""
    assert recipe.lr.power is not None
    return _power(recipe.lr.power, model, tokens)


def deepseek_rate(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """0.3118 C^-0.125, with C the non-embedding FLOPs of the run (no vocabulary projection).

    Source: Bi et al. 2024, arXiv:2401.02954, eq. 1 and 2.
    """
    return 0.3118 * _non_embedding_flops(model, tokens) ** -0.125


def steplaw_rate(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """1.79 N^-0.713 D^0.307, with N the parameters without embeddings.

    Source: Li et al. 2025, arXiv:2503.04715, eq. 1.
    """
    return 1.79 * params_non_embedding(model) ** -0.713 * max(tokens, 1) ** 0.307


def transferred_rate(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """The value tuned at the base width: the model's muP multipliers carry it to every other.

    Source: Yang et al. 2022, arXiv:2203.03466, sec. 4 and table 8. Raises ValueError without muP.
    """
    assert recipe.lr.value is not None
    if model.init != "mup":
        raise ValueError(
            f"lr.rule='mup' with model.init={model.init!r}: a rate transfers over widths only by "
            "the multipliers of muP; set model.init='mup', or another rule"
        )
    return recipe.lr.value


LR_RULES: dict[LearningRateRule, Rule] = {
    "constant": constant_rate,
    "power": power_rate,
    "deepseek": deepseek_rate,
    "steplaw": steplaw_rate,
    "mup": transferred_rate,
}


def constant_batch(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """The recipe's own batch."""
    return float(recipe.batch.global_batch_tokens)


def power_batch(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """A power law in N, D and C, its coefficients fields of the recipe."""
    assert recipe.batch_rule.power is not None
    return _power(recipe.batch_rule.power, model, tokens)


def deepseek_batch(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """0.2920 C^0.3271 tokens, with C the non-embedding FLOPs of the run.

    Source: Bi et al. 2024, arXiv:2401.02954, eq. 1.
    """
    return 0.2920 * _non_embedding_flops(model, tokens) ** 0.3271


def steplaw_batch(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """0.58 D^0.571 tokens. Source: Li et al. 2025, arXiv:2503.04715, eq. 1."""
    return 0.58 * max(tokens, 1) ** 0.571


BATCH_RULES: dict[BatchSizeRule, Rule] = {
    "constant": constant_batch,
    "power": power_batch,
    "deepseek": deepseek_batch,
    "steplaw": steplaw_batch,
}


def _power(law: PowerLaw, model: ModelConfig, tokens: int) -> float:
    tokens = max(tokens, 1)
    return law.at(params_active(model), tokens, flops_per_token(model) * tokens)


def _non_embedding_flops(model: ModelConfig, tokens: int) -> float:
    vocabulary = 6 * model.vocab_size * model.d_model
    return (flops_per_token(model) - vocabulary) * max(tokens, 1)


def peak_rate(recipe: "Recipe", model: ModelConfig, tokens: int) -> float:
    """The peak learning rate of a run of `tokens` tokens."""
    return LR_RULES[recipe.lr.rule](recipe, model, tokens) * recipe.lr.scale


def batch_tokens(recipe: "Recipe", model: ModelConfig, tokens: int) -> int:
    """The full batch of a run; what a rule says is rounded to whole micro-batches."""
    rule = recipe.batch_rule
    wanted = BATCH_RULES[rule.rule](recipe, model, tokens) * rule.scale
    if rule.rule == "constant" and rule.scale == 1:
        return recipe.batch.global_batch_tokens
    grain = recipe.seq_len * recipe.batch.micro_batch_size
    return max(1, round(wanted / grain)) * grain


def ramp_of(rule: RampRule, full: int, grain: int, tokens: int) -> tuple[tuple[int, int], ...]:
    """The pairs of BatchConfig.ramp along a line; sizes are multiples of `grain` tokens."""
    pairs = dict(_line(rule, full, grain, tokens)) if rule.until_fraction else {}
    # A line of few grains has stretches of one size: each size begins where it first comes.
    starts = [min(start for start in pairs if pairs[start] == size) for size in set(pairs.values())]
    rising = sorted(starts)
    assert all(pairs[a] < pairs[b] for a, b in pairwise(rising))
    return tuple((start, pairs[start]) for start in rising) if len(rising) > 1 else ()


def _line(rule: RampRule, full: int, grain: int, tokens: int) -> Iterator[tuple[int, int]]:
    for piece in range(rule.pieces):
        share = rule.start_fraction + (1 - rule.start_fraction) * piece / (rule.pieces - 1)
        size = full if piece == rule.pieces - 1 else max(1, round(share * full / grain)) * grain
        start = round(rule.until_fraction * tokens * piece / (rule.pieces - 1))
        yield start, min(size, full)


def batch_of(recipe: "Recipe", model: ModelConfig, tokens: int, dp: int) -> BatchConfig:
    """The batches of a run, laid out over dp processes: the largest micro-batch that fits all.

    Raises ValueError where the sequences of a batch cannot be dealt to dp processes.
    """
    full = batch_tokens(recipe, model, tokens)
    grain = recipe.seq_len * dp
    ramp = recipe.batch.ramp or ramp_of(recipe.ramp, full, grain, tokens)
    sizes = [size for _, size in ramp] or [full]
    return BatchConfig(
        global_batch_tokens=full,
        micro_batch_size=_micro_batch(recipe, [full, *sizes], dp),
        ramp=ramp,
    )


def _micro_batch(recipe: "Recipe", batches: list[int], dp: int) -> int:
    for size in batches:
        if size % (recipe.seq_len * dp):
            raise ValueError(
                f"batch.global_batch_tokens={size} is not a multiple of seq_len x dp = "
                f"{recipe.seq_len * dp}; change the batch, seq_len or dp"
            )
    shares = [size // (recipe.seq_len * dp) for size in batches]
    fitting = range(1, recipe.batch.micro_batch_size + 1)
    return max(n for n in fitting if all(share % n == 0 for share in shares))


def micro_batch(recipe: "Recipe", dp: int) -> BatchConfig:
    """The recipe's own batch, without its ramp, its micro-batch the largest that dp divides.

    Raises ValueError where the sequences of a batch cannot be dealt to dp processes.
    """
    full = recipe.batch.global_batch_tokens
    size = _micro_batch(recipe, [full], dp)
    return BatchConfig(global_batch_tokens=full, micro_batch_size=size)

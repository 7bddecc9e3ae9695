"""The designs that a study may choose among, as data; `designs.py` turns each into trials."""

from typing import Annotated, Literal

from pydantic import Field

from train.config import Frozen

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class IsoFLOP(Frozen):
    """A ladder: at every budget of the study, sizes around the expected optimum.

    Sizes run geometrically from centre / spread to centre x spread, where the centre spends the
    budget at `tokens_per_param` tokens an active parameter.
    Source: Hoffmann et al. 2022, arXiv:2203.15556, sec. 3.2; about 20 tokens a parameter.

    With `trunks` all budgets have the same sizes, around the centre of their geometric mean, and
    the runs of a size are branches of one trunk, which holds the peak rate: Hagele et al. 2024,
    arXiv:2405.18392, sec. 4.
    """

    kind: Literal["isoflop"] = "isoflop"
    # A parabola and its noise need four points; fewer are refused by the fit.
    sizes_per_budget: int = Field(default=5, ge=4, le=100)
    spread: float = Field(default=4.0, gt=1)
    tokens_per_param: Positive = 20.0
    trunks: bool = False


class Adaptive(Frozen):
    """A ladder that grows: after a small start, the runs worth most to the forecast, a FLOP.

    It starts with the `start_budgets` cheapest budgets of the study, laid out by `start`: four give
    back-tests and minima to every law. Then batches of `batch` runs at any budget of the study,
    sizes within the spread of the optimum fitted so far, until the calibrated interval at the
    target is within `loss_within` and `params_within` (half its width in ln L and in ln N*), or
    `flops` are spent.
    """

    kind: Literal["adaptive"] = "adaptive"
    flops: Positive
    loss_within: Positive = 0.03
    params_within: Positive = 0.25
    start: IsoFLOP = IsoFLOP()
    start_budgets: int = Field(default=4, ge=3)
    batch: int = Field(default=8, gt=0)


class OneAtATime(Frozen):
    """An ablation: each level of each axis against the baseline, everything else the same."""

    kind: Literal["one_at_a_time"] = "one_at_a_time"
    budget: Positive
    seeds: Seeds = (0,)
    tokens_per_param: Positive = 20.0


class Grid(Frozen):
    """A full factorial: every combination of the levels of all axes, at its budgets and seeds."""

    kind: Literal["grid"] = "grid"
    budgets: tuple[Positive, ...] = Field(min_length=1)
    seeds: Seeds = (0,)
    tokens_per_param: Positive = 20.0


class Fractional(Frozen):
    """A two-level fractional factorial: the fewest combinations that keep a resolution.

    Every axis has two levels. At resolution 3 effects of one axis are confounded with those of
    pairs, at 4 with those of triples (and pairs with pairs), at 5 pairs are clear of one another.
    """

    kind: Literal["fractional"] = "fractional"
    resolution: Literal[3, 4, 5] = 4
    budgets: tuple[Positive, ...] = Field(min_length=1)
    seeds: Seeds = (0,)
    tokens_per_param: Positive = 20.0


class Random(Frozen):
    """`trials` points drawn evenly over the axes, each at every seed; more keep the earlier.

    `draw` decides which points: the same number, the same points.
    """

    kind: Literal["random"] = "random"
    trials: int = Field(gt=0, le=100_000)
    budget: Positive
    seeds: Seeds = (0,)
    draw: Seed = 0
    tokens_per_param: Positive = 20.0


class Sobol(Frozen):
    """As Random, by a scrambled Sobol sequence: it fills the axes more evenly than chance.

    Source: Joe & Kuo 2008 for the sequence, Owen 1998 for the scramble, both by scipy.
    """

    kind: Literal["sobol"] = "sobol"
    trials: int = Field(gt=0, le=100_000)
    budget: Positive
    seeds: Seeds = (0,)
    draw: Seed = 0
    tokens_per_param: Positive = 20.0


class Search(Frozen):
    """A search for the point of least loss: `trials` points in batches, each by what was seen.

    A sampler of Optuna proposes; a point is worth the mean loss over `seeds`. It asks for `batch`
    more whenever there is less to do than there are workers. `draw` decides its dice.
    """

    kind: Literal["search"] = "search"
    sampler: Literal["tpe", "cmaes", "random"] = "tpe"
    trials: int = Field(gt=0, le=10_000)
    budget: Positive
    seeds: Seeds = (0,)
    draw: Seed = 0
    batch: int = Field(default=8, gt=0)
    tokens_per_param: Positive = 20.0


class Pruning(Frozen):
    """Ends trials early that others of their design and budget have left behind.

    Compared is the training loss, smoothed, at fractions of a trial's own tokens: from
    `min_fraction`, each `reduction_factor` times the last (median: each multiple). Not a ladder's
    unless named: a run that was ended has no final loss, and a parabola would miss its dear side.
    Source: ASHA, Li et al. 2018, arXiv:1810.05934; Hyperband, Li et al. 2016, arXiv:1603.06560;
    the median rule, Golovin et al. 2017, KDD (Vizier); all as Optuna has them.
    """

    kind: Literal["asha", "hyperband", "median"] = "asha"
    min_fraction: float = Field(default=0.1, gt=0, lt=1)
    reduction_factor: int = Field(default=3, ge=2)
    designs: tuple[
        Literal["random", "sobol", "search", "grid", "fractional", "one_at_a_time", "isoflop"], ...
    ] = ("random", "sobol", "search")

"""The law that a rehearsal takes for the truth, and what is optimal under it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import duckdb
import numpy as np

from analysis import parametric, store
from analysis.law import NotEnough
from analysis.runs import prepare
from model.counts import flops_per_token, params_active
from sweeper.errors import UserError
from sweeper.folders import StudyDir
from sweeper.opening import reading
from sweeper.overrides import nearest
from sweeper.recipe import Recipe, centre_params, shape
from sweeper.study import Study

# Shapes this far on either side of 20 tokens a parameter are looked at for the optimum.
REACH = 300.0


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta in nats a token, and where it comes from.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, eq. 10.
    """

    name: str
    source: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta


@dataclass(frozen=True)
class Optimum:
    """The least loss that a budget in FLOPs can buy, and the size and tokens that buy it."""

    budget: float
    params: float
    tokens: float
    loss: float


def optimum(law: Law, recipe: Recipe, budget: float) -> Optimum:
    """What is optimal under a law for the models of a recipe, at their own FLOPs a token.

    These are taken from a smooth curve through those of all shapes: a depth that is rounded makes
    neighbours per cents cheaper or dearer, and no design looks for the cheapest. Raises UserError
    where the law has no minimum among sizes that the recipe can build.
    """
    sizes, costs = _costs(recipe, budget)
    if len(sizes) < 3:
        raise UserError(
            f"budget {budget:g}: the recipe has {len(sizes)} sizes that could spend it, and an "
            "optimum needs three; raise the budget, or lower data.vocab_size or shape.d_head"
        )
    params = np.geomspace(sizes[0], sizes[-1], 20_001)
    curve = np.polyfit(np.log(sizes), np.log(costs), min(4, len(sizes) - 1))
    cost = np.exp(np.polyval(curve, np.log(params)))
    tokens = budget / (cost * params)
    losses = law.E + law.A / params**law.alpha + law.B / tokens**law.beta
    best = int(np.argmin(losses))
    if best in (0, len(params) - 1):
        raise UserError(
            f"law {law.name!r}: at {budget:g} FLOPs its loss has no minimum between {sizes[0]:,} "
            f"and {sizes[-1]:,} parameters; state a law whose optimum the recipe can build"
        )
    return Optimum(budget, float(params[best]), float(tokens[best]), float(losses[best]))


def _costs(recipe: Recipe, budget: float) -> tuple[list[int], list[float]]:
    """Active parameters of the recipe's shapes, ascending, and FLOPs a token over parameters."""
    centre = centre_params(recipe, budget, 20.0)
    found: dict[int, float] = {}
    for target in np.geomspace(centre / REACH, centre * REACH, 240):
        try:
            model = shape(recipe, float(target))
        except ValueError:
            continue  # smaller than the smallest shape
        params = params_active(model)
        found[params] = flops_per_token(model) / params
    return sorted(found), [found[params] for params in sorted(found)]


HOFFMANN = Law("hoffmann", "Hoffmann et al. 2022, eq. 10", 1.69, 406.4, 410.7, 0.34, 0.28)
CHINCHILLA = Law(
    "chinchilla",
    "Besiroglu et al. 2024, the refit of Chinchilla's law",
    1.8172,
    482.01,
    2085.43,
    0.3478,
    0.3658,
)
# Chinchilla has Gopher's tokenizer but for details: Rae et al. 2021, arXiv:2112.11446.
CHINCHILLA_VOCABULARY = 32_000
# Loss at the cheapest budget, of what knowing nothing costs. Ours: with it the law gives 2.69 nats
# at the target of studies/tiny.py, whose promoted run measured 2.75.
CHEAPEST_LOSS = 2 / 3


def scaled(study: Study, place: StudyDir) -> Law:
    """Chinchilla's law, brought to the study's vocabulary and budgets.

    The published coefficients give small models more loss than knowing nothing does, which is
    ln(vocabulary). A and B are lessened together, which leaves the optimal sizes as they are.
    """
    everything = math.log(study.base.data.vocab_size)
    floor = CHINCHILLA.E * min(1.0, everything / math.log(CHINCHILLA_VOCABULARY))
    law = replace(CHINCHILLA, name="scaled", E=floor)
    reducible = optimum(law, study.base, study.budgets[0]).loss - floor
    factor = min(1.0, (CHEAPEST_LOSS * everything - floor) / reducible)
    source = f"{CHINCHILLA.source}, its A and B times {factor:.3g} for this vocabulary and budgets"
    return replace(law, source=source, A=law.A * factor, B=law.B * factor)


def measured(study: Study, place: StudyDir) -> Law:
    """The surface that the study's own results so far have.

    Raises UserError where there are none, or too few to tell all coefficients.
    """
    if not (place.store.exists() or place.spare.exists()):
        raise UserError(f"study {study.name!r} has no results yet; launch it, or state a law")
    try:
        with reading(place) as con:
            points = store.points(con, study.name)
        fit = parametric.fit(prepare(points, metric=study.metric.removeprefix("val/")))
    except (NotEnough, duckdb.Error) as error:
        raise UserError(f"the results of study {study.name!r} carry no law: {error}") from error
    coef = {name: value for name, value in fit.coef.items() if value is not None}
    if not {"E", "A", "B", "alpha", "beta"} <= coef.keys():
        doubts = "; ".join(map(str, fit.diagnostics))
        raise UserError(f"the results of study {study.name!r} carry no law: {doubts}")
    numbers = (coef[name] for name in ("E", "A", "B", "alpha", "beta"))
    return Law("measured", f"fitted to {len(fit.run_ids)} runs of this study", *numbers)


TRUTHS: dict[str, Callable[[Study, StudyDir], Law]] = {
    "scaled": scaled,
    "measured": measured,
    "chinchilla": lambda study, place: CHINCHILLA,
    "hoffmann": lambda study, place: HOFFMANN,
}


def stated(text: str | None, study: Study, place: StudyDir) -> Law:
    """The law of a name, or of E,A,B,alpha,beta; without either, what suits the study.

    That is what its own results say, and before it has such, Chinchilla's law scaled to it. Raises
    UserError for what is no law.
    """
    if text is None:
        return _suitable(study, place)
    if "," in text:
        return _of_numbers(text)
    if text not in TRUTHS:
        raise UserError(
            f"--law {text!r} is not known; {nearest(text, [*TRUTHS])} or give the five numbers "
            "E,A,B,alpha,beta"
        )
    return TRUTHS[text](study, place)


def _suitable(study: Study, place: StudyDir) -> Law:
    try:
        law = measured(study, place)
        optimum(law, study.base, study.promotion.target)
        return law
    except UserError as reason:
        law = scaled(study, place)
        return replace(law, source=f"{law.source}; {reason}")


def _of_numbers(text: str) -> Law:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 5 or not all(map(math.isfinite, numbers)):
        raise UserError(f"--law {text} is not the five numbers E,A,B,alpha,beta")
    if numbers[0] < 0 or min(numbers[1:]) <= 0:
        raise UserError(
            f"--law {text}: E must not be negative, and A, B, alpha, beta must be above zero"
        )
    return Law("stated", "as given", *numbers)

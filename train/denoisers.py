"""Denoisers: how much of a text is taken out, in how long pieces, and what that takes. No torch.

A denoised text is a source (what is left, a sentinel for each piece) and a target (each piece
behind its sentinel, then the end of text).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from train.choices import ObjectiveConfig

if TYPE_CHECKING:
    from train.config import RunSpec

Mode = Literal["r", "s", "x"]


@dataclass(frozen=True)
class Denoiser:
    """`corruption` is the share taken out, in pieces of `mean_span` tokens on average.

    Without a mean span it is one piece at the end: the text is continued. `mode` names the token
    that goes before the source.
    """

    corruption: float
    mean_span: float | None
    mode: Mode | None = None


# Seven, drawn evenly: regular, sequential, extreme.
# Source: Tay et al. 2022, arXiv:2205.05131, table 1 and sec. 3.1.2.
UL2 = (
    Denoiser(0.15, 3, "r"),
    Denoiser(0.15, 8, "r"),
    Denoiser(0.25, None, "s"),
    Denoiser(0.5, 3, "x"),
    Denoiser(0.5, 8, "x"),
    Denoiser(0.15, 64, "x"),
    Denoiser(0.5, 64, "x"),
)


@dataclass(frozen=True)
class Sizes:
    """Of a text of `raw` tokens: how many are taken out, in how many pieces, and what that makes.

    `source` and `target` are counted in tokens with everything that goes with them.
    """

    raw: int
    noise: int
    spans: int
    source: int
    target: int


def sizes(denoiser: Denoiser, raw: int) -> Sizes:
    """What a denoiser makes of so many tokens; pieces and gaps are at least one token long.

    Source: Raffel et al. 2020, arXiv:1910.10683, sec. 3.3.4, and `random_spans_helper` of their
    published code.
    """
    noise = min(max(round(raw * denoiser.corruption), 1), raw - 1)
    mode = int(denoiser.mode is not None)
    if denoiser.mean_span is None:
        return Sizes(raw, noise, 1, mode + raw - noise, noise)
    spans = min(max(round(noise / denoiser.mean_span), 1), noise, raw - noise)
    return Sizes(raw, noise, spans, mode + raw - noise + spans, noise + spans + 1)


@lru_cache(maxsize=256)
def fitting(denoiser: Denoiser, window: int) -> Sizes:
    """The longest text whose source and target together fit into a window of tokens."""
    candidates = (sizes(denoiser, raw) for raw in range(window, 1, -1))
    return next(each for each in candidates if each.source + each.target <= window)


def denoisers(objective: ObjectiveConfig) -> tuple[Denoiser, ...]:
    """What an objective draws from, evenly; none where it takes nothing out."""
    if objective.kind == "ul2":
        return UL2
    if objective.kind == "span":
        return (Denoiser(objective.corruption, objective.mean_span),)
    return ()


def sentinels_needed(objective: ObjectiveConfig, seq_len: int) -> int:
    """Sentinels of the text that needs most of them, at least one where there are mode tokens."""
    spanned = [each for each in denoisers(objective) if each.mean_span is not None]
    return max((fitting(each, seq_len + 1).spans for each in spanned), default=0)


def objectives_of(spec: "RunSpec") -> list[ObjectiveConfig]:
    """The objectives of a run, one a phase, in their order."""
    found = [spec.objective]
    for phase in spec.phases:
        found.append(phase.objective or spec.objective)
    return found

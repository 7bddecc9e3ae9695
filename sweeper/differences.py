"""What differs between two runs or two studies, and by how much; pure."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sweeper.dossier import Dossier
from train.config import data_id

Pair = tuple[Any, Any]
ABSENT = "-"
LABELS = ("study", "trial", "data.corpus")
# Of an attempt, not of the conditions that it ran under.
PASSING = ("diff", "time", "pid")
MEASURED = ("tokens", "flops", "gpu_hours", "seconds", "tokens_per_second", "mfu", "params_active")
LEVEL = 0.95


@dataclass(frozen=True)
class Noise:
    """Scatter of ln loss from seed to seed: pooled standard deviation, its degrees of freedom."""

    log_loss: float
    dof: int

    def reach(self) -> float:
        """The |ln ratio| of two runs that seeds alone exceed once in twenty."""
        # scipy comes without types, and slowly: a comparison without replicates needs none.
        from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

        return float(stdtrit(self.dof, (1 + LEVEL) / 2)) * math.sqrt(2) * self.log_loss


@dataclass(frozen=True)
class Row:
    """One quantity of both; `relative` is b / a - 1. `verdict` is said of losses alone."""

    name: str
    a: float | None
    b: float | None
    difference: float | None
    relative: float | None
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two things side by side; a pair is what A has and what B has."""

    kind: Literal["run", "study"]
    a: str
    b: str
    spec: dict[str, Pair]
    provenance: dict[str, Pair]
    results: list[Row]
    noise: Noise | None
    notes: list[str] = field(default_factory=list[str])


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted path; places of a list are numbers in it."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, list):
            value = {str(i): one for i, one in enumerate(cast("list[Any]", value))}
        if isinstance(value, dict) and value:
            found |= flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    """Dotted paths whose values differ, in the order of A and then of B."""
    left, right = flat(a), flat(b)
    paths = dict.fromkeys([*left, *right])
    pairs = {path: (left.get(path, ABSENT), right.get(path, ABSENT)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def row(name: str, a: float | None, b: float | None, verdict: str = "") -> Row:
    """A quantity of both, with its difference where both have it."""
    if a is None or b is None:
        return Row(name, a, b, None, None, verdict)
    return Row(name, a, b, b - a, b / a - 1 if a else None, verdict)


def loss_row(name: str, a: float | None, b: float | None, noise: Noise | None) -> Row:
    """A loss of both, and whether seeds alone would make it differ so much."""
    if a is None or b is None or min(a, b) <= 0:
        return row(name, a, b)
    if noise is None:
        return row(name, a, b, "seed noise is not known: no replicates")
    apart, reach = abs(math.log(b / a)), noise.reach()
    said = "within seed noise" if apart <= reach else "beyond seed noise"
    return row(name, a, b, f"{said} ({100 * reach:.2g}% at {LEVEL:.0%})")


def of_runs(a: Dossier, b: Dossier, noise: Noise | None) -> Comparison:
    """Two runs side by side; where their tokens are not the same, by bits per byte alone."""
    spec = differing(a.spec.model_dump(mode="json"), b.spec.model_dump(mode="json"))
    left, right = (x.result.model_dump() if x.result else {} for x in (a, b))
    notes = _not_comparable(a, b)
    losses = ("bits_per_byte",) if notes else ("nats_per_token", "bits_per_byte")
    results = [loss_row(name, left.get(name), right.get(name), noise) for name in losses]
    results += [row(name, left.get(name), right.get(name)) for name in MEASURED]
    notes += [f"run {x.run_id} is {x.state}: it has no result" for x in (a, b) if not x.result]
    return Comparison(
        kind="run",
        a=a.run_id,
        b=b.run_id,
        spec={path: pair for path, pair in spec.items() if path not in LABELS},
        provenance=differing(conditions(a.provenance), conditions(b.provenance)),
        results=[each for each in results if (each.a, each.b) != (None, None)],
        noise=noise,
        notes=notes,
    )


def _not_comparable(a: Dossier, b: Dossier) -> list[str]:
    """Why nats/token of one say nothing beside those of the other; empty where they do."""
    hashes = [x.provenance.get("tokenizer_sha256") for x in (a, b)]
    same = None in hashes or hashes[0] == hashes[1]
    if a.spec.data.digest != b.spec.data.digest:
        what = "their text differs (data.digest)"
    elif not same or a.spec.data.vocab_size != b.spec.data.vocab_size:
        what = "their tokenizers differ"
    elif data_id(a.spec.data) != data_id(b.spec.data):
        what = "their text is not prepared alike (data)"
    else:
        return []
    return [
        f"{what}: losses in nats/token are not comparable, and bits per byte is compared; it is "
        "of other validation text where the text differs"
    ]


def conditions(env: Mapping[str, Any]) -> dict[str, Any]:
    """What a run ran under; a diff by its hash."""
    diff = env.get("diff")
    named = {name: value for name, value in env.items() if name not in PASSING}
    if diff is not None:
        named["diff"] = hashlib.sha256(str(diff).encode()).hexdigest()[:12] if diff else "none"
    return named


def pooled(groups: Sequence[Sequence[float]]) -> Noise | None:
    """The scatter of ln loss within groups of replicates; None where none has two."""
    squares, dof = 0.0, 0
    for losses in groups:
        logs = [math.log(loss) for loss in losses]
        if len(logs) > 1:
            mean = sum(logs) / len(logs)
            squares += sum((x - mean) ** 2 for x in logs)
            dof += len(logs) - 1
    return Noise(math.sqrt(squares / dof), dof) if dof else None

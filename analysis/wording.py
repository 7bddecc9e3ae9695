"""An answer of `fit` in lines for people to read."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from analysis.law import scientific

# Longer lists are for --json.
SHOWN = 20


def number(value: float | None, digits: int = 4) -> str:
    """A number as papers write it, a dash for none."""
    return "-" if value is None else scientific(value, digits)


def _coefficients(said: dict[str, Any]) -> Iterator[str]:
    if len(said["coef"]) > SHOWN:
        yield f"  {len(said['coef'])} coefficients: see --json"
        return
    for name, value in said["coef"].items():
        pair = said["interval"].get(name)
        sure = f"  95 % {number(pair[0])} .. {number(pair[1])}" if pair else ""
        yield (
            f"  {name} = {number(value, 6)}{sure}"
            if value is not None
            else f"  {name}: not identified"
        )


def _optimum(optimum: dict[str, Any]) -> Iterator[str]:
    at = f" at {scientific(optimum['budget'])} FLOPs" if "budget" in optimum else ""
    yield f"optimum{at}"
    for name in [name for name in optimum if f"{name}_low" in optimum]:
        value, low, high = (optimum[f"{name}{end}"] for end in ("", "_low", "_high"))
        parts = value if name == "weights" else {name: value}
        for part in parts:
            ends = (low[part], high[part]) if name == "weights" else (low, high)
            yield f"  {part} {number(parts[part], 5)} ({number(ends[0])} .. {number(ends[1])})"


def _laws(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "what each law says (weight of its loss, error of its back-tests)"
    for row in rows:
        yield (
            f"  {row['law']}: params {number(row['params'])}, loss {number(row['loss'], 5)}, "
            f"weight {row['loss_weight']:.2f}, error {number(row['loss_error'], 2)}"
        )


def _excluded(rows: list[dict[str, str]]) -> Iterator[str]:
    if len(rows) > SHOWN:
        for reason, count in Counter(row["reason"].split(":")[0] for row in rows).most_common(
            SHOWN
        ):
            yield f"kept out {count} runs: {reason}"
        return
    for row in rows:
        yield f"kept out {row['row']}: {row['reason']}"


def lines(said: dict[str, Any]) -> Iterator[str]:
    """What a law says, its optimum, what each law says, predictions, who was left out, doubts."""
    of = said.get("coefficients_of", said["law"])
    yield f"law {said['law']}: {said['rows']} runs" + (
        f"; coefficients of {of}, which has most weight" if of != said["law"] else ""
    )
    yield from _coefficients(said)
    if said.get("optimum"):
        yield from _optimum(said["optimum"])
    if len(said.get("laws", ())) > 1:
        yield from _laws(said["laws"])
    for row in said.get("predictions", ()):
        yield (
            f"  params {number(row['params'])}, tokens {number(row['tokens'])}: loss "
            f"{number(row['loss'], 5)} ({number(row['low'])} .. {number(row['high'])})"
        )
    yield from _excluded(said["excluded"])
    for doubt in said["diagnostics"]:
        yield f"{doubt['name']}: {doubt['detail']}"

"""Which layouts a model can be trained in: each pair that cannot be, with the way out. No torch.

`SHAPES` are rules of arithmetic: what does not divide. Those of our engine stand in
train.layout_engine; published runs, on others, need to keep the first alone.
"""

from train.layout import Case, Rule, total_layers
from train.layout_engine import ENGINE


def problems(case: Case, *, engine: bool = True) -> list[str]:
    """What is wrong with a layout: value, rule and way out of each; none where it is legal."""
    sizes = _sizes(case)
    if sizes:
        return [sizes]
    rules = (*SHAPES.values(), *(ENGINE.values() if engine else ()))
    return [said for rule in rules if (said := rule(case))]


def check_layout(case: Case, *, engine: bool = True) -> None:
    """Raises ValueError with all that is wrong with a layout."""
    if wrong := problems(case, engine=engine):
        raise ValueError("\n".join(wrong))


def divisors(number: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, number + 1) if number % d == 0)


def _sizes(case: Case) -> str | None:
    names = ("dp", "tp", "pp", "cp", "ep", "chunks", "micro_batch_size", "microbatches")
    wrong = [f"{name}={size}" for name in names if (size := getattr(case.layout, name)) < 1]
    return f"{', '.join(wrong)}: a layout counts from 1; use at least 1" if wrong else None


def _undivided(name: str, number: int, degree: str, by: int, way_out: str = "") -> str | None:
    if number % by == 0:
        return None
    legal = divisors(number)
    shown = str(legal) if len(legal) < 12 else f"the divisors of {number}"
    return f"{name}={number} is not divisible by {degree}={by}; {way_out}use {degree} in {shown}"


def _world(case: Case) -> str | None:
    lay = case.layout
    if case.gpus is None or lay.world_size == case.gpus:
        return None
    return (
        f"dp={lay.dp} x tp={lay.tp} x pp={lay.pp} x cp={lay.cp} is {lay.world_size} ranks, but "
        f"there are {case.gpus} GPUs: every GPU is one rank; use dp="
        f"{case.gpus * lay.dp / lay.world_size:g}, or other degrees of that product"
    )


def _heads(case: Case) -> str | None:
    return _undivided("n_heads", case.model.n_heads, "tp", case.layout.tp)


def _kv_heads(case: Case) -> str | None:
    return _undivided("n_kv_heads", case.model.n_kv_heads, "tp", case.layout.tp)


def _feed_forward(case: Case) -> str | None:
    name = "d_expert" if case.model.moe else "d_ff"
    return _undivided(name, case.model.d_expert, "tp", case.layout.tp)


def _vocabulary(case: Case) -> str | None:
    size, tp = case.model.vocab_size, case.layout.tp
    padded = -(-size // tp) * tp
    return _undivided("vocab_size", size, "tp", tp, f"pad it to vocab_size={padded}, or ")


def _layers(case: Case) -> str | None:
    layers, lay = total_layers(case.model), case.layout
    pieces = lay.pp * lay.chunks
    if layers % pieces == 0 or (layers + 2) % pieces == 0:
        return None
    legal = sorted({*divisors(layers), *divisors(layers + 2)})
    return (
        f"n_layers={layers} in pp={lay.pp} x chunks={lay.chunks} pieces: neither the layers nor "
        "they and the two ends (the embedding and the head as a layer each) divide; use "
        f"pp x chunks in {tuple(legal)}"
    )


def _interleaving(case: Case) -> str | None:
    lay = case.layout
    if lay.chunks == 1:
        return None
    if lay.pp == 1:
        return f"chunks={lay.chunks} with pp=1: one stage interleaves with none; use chunks=1"
    if lay.microbatches % lay.pp:
        return (
            f"microbatches={lay.microbatches} is not a multiple of pp={lay.pp}, but with chunks="
            f"{lay.chunks} micro-batches go through the stages in groups of pp; use chunks=1, or "
            f"microbatches={-(-lay.microbatches // lay.pp) * lay.pp}"
        )
    return None


def _experts(case: Case) -> str | None:
    moe, lay = case.model.moe, case.layout
    if moe is None:
        return f"ep={lay.ep} with moe=None: there are no experts; use ep=1" if lay.ep > 1 else None
    return _undivided("moe.n_experts", moe.n_experts, "ep", lay.ep)


def _expert_ranks(case: Case) -> str | None:
    return _undivided("dp", case.layout.dp, "ep", case.layout.ep)


def _sequence(case: Case) -> str | None:
    lay, length = case.layout, case.model.seq_len
    if lay.cp == 1:
        return None
    # Causal attention is even work only if a rank has a piece from either end of the text.
    pieces = lay.cp if lay.context_kind == "ulysses" else 2 * lay.cp
    if length % pieces == 0:
        return None
    return (
        f"seq_len={length} is not divisible into {pieces} pieces for cp={lay.cp} with context_kind="
        f"{lay.context_kind!r}; use a multiple of {pieces}, or a smaller cp"
    )


def _exchanged_heads(case: Case) -> str | None:
    lay, model = case.layout, case.model
    if lay.cp == 1 or lay.context_kind != "ulysses":
        return None
    heads = model.n_kv_heads // lay.tp
    if heads % lay.cp == 0:
        return None
    return (
        f"cp={lay.cp} with context_kind='ulysses' shares the heads, but a tensor-parallel rank has "
        f"n_kv_heads={model.n_kv_heads} / tp={lay.tp} = {heads} of them; use cp in "
        f"{divisors(max(1, heads))}, or context_kind='ring'"
    )


def _sequence_parallel(case: Case) -> str | None:
    lay, length = case.layout, case.model.seq_len
    if not lay.sequence_parallel:
        return None
    if lay.tp == 1:
        return (
            "sequence_parallel=True with tp=1: it shares among tensor-parallel ranks what they "
            "leave whole; use sequence_parallel=False"
        )
    if length % (lay.cp * lay.tp):
        return (
            f"seq_len={length} / cp={lay.cp} is not divisible by tp={lay.tp} with "
            f"sequence_parallel=True; use a multiple of {lay.cp * lay.tp}"
        )
    return None


def _stacks(case: Case) -> str | None:
    lay = case.layout
    if case.model.architecture != "encoder_decoder" or lay.pp * lay.cp == 1:
        return None
    return (
        f"pp={lay.pp}, cp={lay.cp} with architecture='encoder_decoder': its decoder reads the "
        "encoder whole at every layer; use pp=1 and cp=1"
    )


SHAPES: dict[str, Rule] = {
    "world size": _world,
    "heads by tp": _heads,
    "kv heads by tp": _kv_heads,
    "feed-forward by tp": _feed_forward,
    "vocabulary by tp": _vocabulary,
    "layers by pp": _layers,
    "interleaving": _interleaving,
    "experts by ep": _experts,
    "dp by ep": _expert_ranks,
    "sequence by cp": _sequence,
    "heads by Ulysses": _exchanged_heads,
    "sequence parallelism": _sequence_parallel,
    "two stacks": _stacks,
}

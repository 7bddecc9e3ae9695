"""Which layouts our engine, DeepSpeed 0.19, trains rightly: each rule found by training. No torch.

Every layout was held against one process over eight steps; the numbers are differences of the loss.
"""

from train.choices import ZERO_STAGES
from train.layout import Case, Rule


def _zero_with_pipeline(case: Case) -> str | None:
    lay = case.layout
    if lay.zero_stage < 2 or lay.pp == 1:
        return None
    return (
        f"zero_stage={lay.zero_stage} with pp={lay.pp}: DeepSpeed shares no gradients within a "
        "pipeline, which adds to them after every micro-batch; use zero_stage=1, or pp=1"
    )


def _zero_with_experts(case: Case) -> str | None:
    if case.layout.zero_stage < 3 or case.model.moe is None:
        return None
    return (
        "zero_stage=3 with moe: DeepSpeed's experts cannot be held in pieces; use zero_stage in "
        "(1, 2)"
    )


def _split_without_zero(case: Case) -> str | None:
    lay = case.layout
    if lay.zero_stage or lay.tp * lay.pp == 1:
        return None
    return (
        f"zero_stage=0 with tp={lay.tp}, pp={lay.pp}: DeepSpeed then clips by the norm of a part "
        "of the gradient (loss off by 3e-3 in eight steps); use zero_stage=1"
    )


def _whole_matrices(case: Case) -> str | None:
    lay, stages = case.layout, ZERO_STAGES[case.optimizer]
    if lay.zero_stage in stages and (len(stages) > 1 or lay.tp == 1):
        return None
    return (
        f"optim.name={case.optimizer!r} with zero_stage={lay.zero_stage}, tp={lay.tp}: it works on "
        f"whole matrices; use zero_stage in {stages} and tp=1, or adamw"
    )


def _experts_split(case: Case) -> str | None:
    if case.model.moe is None or case.layout.tp == 1:
        return None
    return (
        f"tp={case.layout.tp} with moe: DeepSpeed's experts fail in their gather; use tp=1 and "
        "share experts by ep"
    )


def _balance_by_pieces(case: Case) -> str | None:
    moe, lay = case.model.moe, case.layout
    if moe is None or lay.cp == 1 or not (moe.balance_weight or moe.router_z_weight):
        return None
    return (
        f"cp={lay.cp} with moe.balance_weight={moe.balance_weight:g}, moe.router_z_weight="
        f"{moe.router_z_weight:g}: each rank would balance its piece of the text alone (loss off "
        "by 1e-3); use cp=1, or set both to 0"
    )


def _one_chunk(case: Case) -> str | None:
    if case.layout.chunks == 1:
        return None
    return (
        f"chunks={case.layout.chunks}: DeepSpeed's pipeline has one piece of layers a stage; use "
        "chunks=1"
    )


ENGINE: dict[str, Rule] = {
    "ZeRO >= 2 with pp": _zero_with_pipeline,
    "ZeRO 3 with experts": _zero_with_experts,
    "ZeRO 0 with tp or pp": _split_without_zero,
    "whole matrices": _whole_matrices,
    "experts with tp": _experts_split,
    "balance of experts with cp": _balance_by_pieces,
    "interleaving": _one_chunk,
}

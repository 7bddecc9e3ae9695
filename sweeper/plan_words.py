"""The plan of a study as people read it: a table of its trials, and what they take together."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table

from sweeper.designs import LeftOut
from sweeper.fractions import summary
from sweeper.layouts import Adaptive, Fractional, Search
from sweeper.plan import PlanRow, saving, to_do, totals
from sweeper.recipe import centre_params
from sweeper.shapes import NEAR
from sweeper.speed import Speed
from sweeper.study import Design, Study
from sweeper.trial import NO_TRIAL
from sweeper.watch import duration

# More trials than anybody reads: they are shown by design and budget.
ROWS_READ = 200
LEFT = ("design", "what", "run")
# Trials left out that are named one by one; the rest are counted.
SHOWN = 10


def plan_table(rows: Sequence[PlanRow], *, every: bool = False) -> Table:
    """A line a trial; a line a design and budget where there are too many, unless asked for."""
    if every or len(rows) <= ROWS_READ:
        names = ("trial", "design", "what", "budget", "params", "shape", "tokens", "FLOPs", "lr")
        return _table((*names, "seed", "memory", "time", "run"), map(_cells, rows))
    names = ("design", "budget", "trials", "to do", "params", "tokens", "FLOPs", "memory")
    return _table((*names, "GPU-hours"), (_group_cells(group) for group in _groups(rows)))


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _cells(row: PlanRow) -> tuple[str, ...]:
    trial, spec = row.planned.trial, row.planned.spec
    what = ", ".join(f"{path}={level}" for path, level in trial.levels.items())
    return (
        "-" if trial.number == NO_TRIAL else str(trial.number),
        trial.design,
        what,
        f"{trial.budget:.3g}",
        f"{row.params:,}",
        f"{spec.model.d_model}x{spec.model.n_layers}",
        f"{spec.tokens:,}",
        f"{row.own_flops:.3g}",
        f"{spec.optim.lr:.3g}",
        str(spec.seed),
        size(row.rank_bytes),
        "done" if row.done else duration(row.seconds),
        row.planned.run_id,
    )


def _groups(rows: Sequence[PlanRow]) -> list[list[PlanRow]]:
    """The rows by design and budget, in the order in which these first come."""
    groups: dict[tuple[str, float], list[PlanRow]] = {}
    for row in rows:
        trial = row.planned.trial
        groups.setdefault((trial.design, trial.budget), []).append(row)
    return list(groups.values())


def _group_cells(rows: Sequence[PlanRow]) -> tuple[str, ...]:
    first, left = rows[0].planned.trial, to_do(rows)
    return (
        first.design,
        f"{first.budget:.3g}",
        str(len(rows)),
        str(len(left)),
        _span([row.params for row in rows]),
        _span([row.planned.spec.tokens for row in rows]),
        f"{sum(row.own_flops for row in left):.3g}",
        size(max(row.rank_bytes for row in rows)),
        f"{sum(row.gpu_hours for row in left):.3g}",
    )


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def size(count: int) -> str:
    """Bytes as people say them: 812 B, 3.1 MB, 42 GB (powers of ten)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return (
                f"{count / scale:.2g} {unit}"
                if count < 100 * scale
                else f"{count / scale:.0f} {unit}"
            )
    return f"{count} B"


def summary_lines(
    study: Study, rows: Sequence[PlanRow], speed: Speed, left_out: Sequence[LeftOut] = ()
) -> Iterator[str]:
    """What is to be done in all, what it takes, and what follows the trials."""
    total = totals(study, rows)
    yield (
        f"{total.trials} trials, {total.runs} runs, {total.done} of them done; "
        f"{total.flops:.3g} FLOPs to train, about {duration(total.seconds)} on "
        f"{study.cluster.workers} workers (speed: {speed.source})"
    )
    yield from reuse_lines(study, {row.planned.run_id: row.trained_by for row in rows})
    yield from _trunks(rows)
    price = study.gpu_hour_price
    cost = "" if total.cost is None else f" (cost {total.cost:,.2f} at {price:g} a GPU-hour)"
    yield (
        f"{total.gpu_hours:.3g} GPU-hours{cost}; tensors of up to {size(total.rank_bytes)} a "
        f"process; storage {size(total.storage_bytes)}, and {size(total.working_bytes)} more while "
        "training"
    )
    yield from _left_out(left_out)
    yield from _far_off(rows)
    for design in study.designs:
        yield from _note(study, design)
    yield from _rung(study, speed)
    plan = study.promotion
    stages = " -> ".join(["pretrain", *(stage.stage for stage in plan.stages)])
    yield (
        f"then {stages} at {plan.target:.3g} FLOPs, dp={plan.dp}, its shape chosen by the fit, "
        f"{'if the gates pass' if plan.approve == 'auto' else 'on approval'}"
    )


def _trunks(rows: Sequence[PlanRow]) -> Iterator[str]:
    """What trunks save, where there are any: a line, or nothing."""
    if found := saving(rows):
        together, alone = found
        specs = {row.planned.run_id: row.planned.spec for row in rows}.values()
        count, branches = sum(bool(s.leaves) for s in specs), sum(bool(s.trunk) for s in specs)
        yield (
            f"trunks: {count} serve {branches} runs; together {together:.3g} FLOPs, "
            f"{together / alone:.0%} of the {alone:.3g} that they would take alone"
        )


def reuse_lines(study: Study, trained: Mapping[str, str]) -> Iterator[str]:
    """By which other studies runs of this one are trained already: a line, or nothing.

    `trained` names for each run the study that trained it, "" for none.
    """
    others = Counter(name for name in trained.values() if name not in ("", study.name))
    if others:
        by = ", ".join(f"{count} by {name!r}" for name, count in sorted(others.items()))
        yield f"reused: {sum(others.values())} runs were trained by other studies ({by})"


def _rung(study: Study, speed: Speed) -> Iterator[str]:
    """What the validation rung costs, where there is one: a line, or nothing."""
    plan = study.promotion
    if plan.rung is None:
        return
    ratios = [_tokens_per_param(design) for design in study.designs]
    params = centre_params(study.base, plan.rung, ratios[0])
    seconds = plan.rung / (speed.flops_per_second(params) * plan.dp)
    yield (
        f"then, if every other gate passes, a validation rung of {plan.rung:.3g} FLOPs, dp="
        f"{plan.dp}, about {duration(seconds)}"
    )


def _tokens_per_param(design: Design) -> float:
    return (
        design.start.tokens_per_param if isinstance(design, Adaptive) else design.tokens_per_param
    )


def _left_out(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """The first trials that are left out with the reason, and how many there are in all."""
    for one in left_out[:SHOWN]:
        what = ", ".join(f"{path}={level}" for path, level in one.trial.levels.items())
        point = f"{what} " if what else ""
        yield f"left out: {one.trial.design} {point}at {one.trial.budget:.3g} FLOPs: {one.why}"
    if len(left_out) > SHOWN:
        counts = Counter(one.trial.design for one in left_out)
        said = ", ".join(f"{count} of {design}" for design, count in counts.items())
        yield f"left out in all: {said}"


def _far_off(rows: Sequence[PlanRow]) -> Iterator[str]:
    """The trial furthest from the size it asks for, where the rule cannot build that: a line."""
    far = [row for row in rows if _off(row) > NEAR]
    if not far:
        return
    worst = max(far, key=_off)
    trial, model = worst.planned.trial, worst.planned.spec.model
    stated = model.moe is not None and model.moe.d_expert is not None
    way_out = "unset model.moe.d_expert" if stated else "lower data.vocab_size or shape.d_head"
    yield (
        f"size: {len(far)} trials are more than {NEAR:.0%} off the size they ask for; trial "
        f"{trial.number} asks for {trial.params_target:,.0f} active parameters and its nearest "
        f"shape has {worst.params:,} (d_model={model.d_model}, n_layers={model.n_layers}, d_ff="
        f"{model.d_ff}, vocab_size={model.vocab_size}); {way_out}"
    )


def _off(row: PlanRow) -> float:
    return abs(row.params / row.planned.trial.params_target - 1)


def _note(study: Study, design: Design) -> Iterator[str]:
    """What the rows of a design do not show: what may follow them, what they confuse."""
    if isinstance(design, Adaptive):
        yield (
            f"adaptive: up to {design.flops:.3g} FLOPs with its start, {design.batch} runs at "
            f"a time, until the interval at the target is within {design.loss_within:g} of "
            f"ln L and {design.params_within:g} of ln N*"
        )
    if isinstance(design, Search):
        cost = design.trials * len(design.seeds) * design.budget
        yield (
            f"search: {design.trials} points by {design.sampler}, {design.batch} at a time; up to "
            f"{cost:.3g} FLOPs in all"
        )
    if isinstance(design, Fractional):
        yield f"fractional: {summary([axis.name for axis in study.axes], design.resolution)}"

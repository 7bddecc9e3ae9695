"""Which choices of a recipe go together: what `plan` refuses before a job is queued. No torch."""

from itertools import pairwise
from typing import TYPE_CHECKING, get_args

from model.config import GATED, Activation
from train.choices import PLATEAUS, ZERO_STAGES
from train.denoisers import objectives_of, sentinels_needed
from train.phases import begins, in_force, is_change
from train.ramp import seen_after, steps_within
from train.schedule import lr_factor

if TYPE_CHECKING:
    from train.config import RunSpec

# Fewer tokens leave denoisers no text between their sentinels.
SHORTEST = 16
# Points of a schedule that are held against Adafactor's cap.
SAMPLES = 128


def check_recipe(spec: "RunSpec") -> None:
    """Raises ValueError with the value, the rule it breaks, and the way out."""
    for check in CHECKS:
        check(spec)
    for phase in spec.phases:
        if is_change(phase):
            changed = in_force(spec, begins(spec, phase))
            for check in (_zero_stage, _adafactor, _model):
                check(changed)


def _batches(spec: "RunSpec") -> None:
    step = spec.batch.micro_batch_size * spec.model.seq_len * spec.parallel.dp
    for _, size in spec.batch.ramp:
        if size % step:
            raise ValueError(
                f"batch.ramp={spec.batch.ramp} has a batch of {size} tokens, which is not a "
                f"multiple of micro_batch_size x seq_len x dp = {step}; change one of them"
            )


def _pretraining_only(spec: "RunSpec") -> None:
    if spec.stage == "pretrain":
        return
    for name, given in (
        ("batch.ramp", bool(spec.batch.ramp)),
        ("phases", bool(spec.phases)),
        ("objective", spec.objective.kind != "causal"),
    ):
        if given:
            raise ValueError(
                f"{name} is set for stage={spec.stage!r}, which learns answers in batches of one "
                f"size; only pretraining has it, so leave {name} out"
            )


def _phases(spec: "RunSpec") -> None:
    if any(a.start >= b.start for a, b in pairwise(spec.phases)):
        starts = [phase.start for phase in spec.phases]
        raise ValueError(f"phases start at {starts}; list them by ascending start, each once")


def _changes(spec: "RunSpec") -> None:
    """What a phase changes of the engine goes with the rest of the run, and keeps its shapes."""
    for phase in spec.phases:
        new, old = phase.activation, spec.model.activation
        if new is not None and (new in GATED) != (old in GATED):
            kind = "three matrices, gated" if old in GATED else "two matrices"
            raise ValueError(
                f"a phase changes model.activation={old!r} to {new!r}, but a block of this model "
                f"has {kind}; use one of "
                f"{sorted(a for a in get_args(Activation) if (a in GATED) == (old in GATED))}"
            )
        if is_change(phase) and spec.parallel.zero_stage == 3:
            raise ValueError(
                "a phase changes optim, lr or activation with parallel.zero_stage=3, whose states "
                "hold the weights in pieces; use zero_stage below 3"
            )


def _spikes(spec: "RunSpec") -> None:
    if spec.stability.spikes.deviations is None:
        return
    for name, given in (
        ("batch.ramp", bool(spec.batch.ramp)),
        ("trunk", spec.trunk is not None),
        ("leaves", bool(spec.leaves)),
    ):
        if given:
            raise ValueError(
                f"stability.spikes.deviations={spec.stability.spikes.deviations:g} with {name}: "
                "after a spike a run takes other batches than planned, so its batches must be "
                f"alike and its own; leave {name} out, or set deviations to null"
            )


def _objectives(spec: "RunSpec") -> None:
    """Every objective has its sentinels, and an encoder something to read."""
    for objective in objectives_of(spec):
        if spec.model.seq_len < SHORTEST and objective.kind != "causal":
            raise ValueError(
                f"objective.kind={objective.kind!r} with seq_len={spec.model.seq_len}: a window is "
                f"cut in two; use seq_len >= {SHORTEST}"
            )
        needed = sentinels_needed(objective, spec.model.seq_len)
        if needed > spec.data.sentinels:
            raise ValueError(
                f"objective.kind={objective.kind!r} takes out up to {needed} pieces of a window of "
                f"{spec.model.seq_len} tokens, but data.sentinels={spec.data.sentinels}; set "
                f"data.sentinels={needed} (for every run that is compared with it)"
            )
        if spec.model.document_mask and objective.kind != "causal":
            raise ValueError(
                f"objective.kind={objective.kind!r} with model.document_mask=True: targets answer "
                "to all of their source; set document_mask=False, or objective.kind='causal'"
            )
        if spec.model.architecture == "encoder_decoder" and objective.kind == "causal":
            raise ValueError(
                "objective.kind='causal' gives an encoder nothing to read; use prefix, span or "
                "ul2, or model.architecture='decoder'"
            )


def _zero_stage(spec: "RunSpec") -> None:
    name, stage = spec.optim.name, spec.parallel.zero_stage
    if stage not in ZERO_STAGES[name]:
        raise ValueError(
            f"optim.name={name!r} with parallel.zero_stage={stage}: ZeRO cuts parameters into "
            f"equal parts, and {name} works on whole matrices; use zero_stage in "
            f"{tuple(sorted(ZERO_STAGES[name]))}, or adamw or lion"
        )


def _schedule(spec: "RunSpec") -> None:
    schedule = spec.schedule
    left = (1 - schedule.decay_fraction) * spec.tokens
    if schedule.kind in PLATEAUS and schedule.warmup_tokens > left:
        raise ValueError(
            f"schedule.kind={schedule.kind!r}: warmup_tokens={schedule.warmup_tokens} reaches into "
            f"the decay, which is the last decay_fraction={schedule.decay_fraction:g} of tokens="
            f"{spec.tokens}; shorten one of them"
        )
    if schedule.kind == "inverse_sqrt" and not schedule.warmup_tokens:
        raise ValueError(
            "schedule.kind='inverse_sqrt' with warmup_tokens=0: the rate falls as the root of "
            "warm-up over tokens; give it a warm-up"
        )


def _trunk(spec: "RunSpec") -> None:
    """A trunk holds its rate; a branch does until it decays; both are all of one piece."""
    for name, given, kinds in (
        ("leaves", bool(spec.leaves), ("constant",)),
        ("trunk", spec.trunk is not None, PLATEAUS),
    ):
        if given and (spec.schedule.kind not in kinds or spec.stage != "pretrain" or spec.phases):
            raise ValueError(
                f"{name} with schedule.kind={spec.schedule.kind!r}, stage={spec.stage!r} and "
                f"{len(spec.phases)} phases: runs share a trunk while their rate is held and "
                f"nothing else depends on their length; use schedule.kind in {kinds} in "
                "pretraining without phases"
            )
    whole = [seen_after(spec.batch, steps_within(spec.batch, tokens)) for tokens in spec.leaves]
    rises = all(a < b for a, b in pairwise([0, *spec.leaves]))
    if spec.leaves and (whole != list(spec.leaves) or not rises or whole[-1] != spec.tokens):
        raise ValueError(
            f"leaves={spec.leaves} of a trunk of {spec.tokens} tokens must rise in whole batches "
            f"and end with it; the nearest below are {tuple(whole)}"
        )


def _adafactor(spec: "RunSpec") -> None:
    """Adafactor never goes faster than 1 / sqrt(k) in step k: a schedule must not ask for more."""
    if spec.optim.name != "adafactor":
        return
    count = steps_within(spec.batch, spec.tokens)
    looked_at = {max(1, round(count * part / SAMPLES)) for part in range(1, SAMPLES + 1)}
    tokens = {step: seen_after(spec.batch, step) for step in looked_at}
    factors = {step: lr_factor(spec.schedule, seen, spec.tokens) for step, seen in tokens.items()}
    limit = min(step**-0.5 / factor for step, factor in factors.items() if factor)
    if spec.optim.lr > limit * (1 + 1e-9):
        raise ValueError(
            f"optim.lr={spec.optim.lr:g} with adafactor, whose rate of step k is at most "
            f"1 / sqrt(k): over {count} steps schedule.kind={spec.schedule.kind!r} would not be "
            f"what runs; use a rate of at most {limit:.4g} (it is relative to the size of a "
            "parameter), or schedule.kind='inverse_sqrt'"
        )


def _noise_scale(spec: "RunSpec") -> None:
    if not spec.evals.noise_scale_every:
        return
    smallest = min([size for _, size in spec.batch.ramp] or [spec.batch.global_batch_tokens])
    for wrong, rule in (
        (smallest < 2 * spec.model.seq_len, "compares parts of a batch: have two sequences in it"),
        (spec.parallel.zero_stage == 3, "needs whole parameters: use zero_stage below 3"),
        (spec.stage != "pretrain", "is measured in pretraining: set it to 0"),
    ):
        if wrong:
            raise ValueError(
                f"evals.noise_scale_every={spec.evals.noise_scale_every} with batches of "
                f"{smallest} tokens, zero_stage={spec.parallel.zero_stage} and stage="
                f"{spec.stage!r}: it {rule}"
            )


def _replicas(spec: "RunSpec") -> None:
    every = spec.stability.replica_check_every
    if every and spec.parallel.zero_stage == 3:
        raise ValueError(
            f"stability.replica_check_every={every} with parallel.zero_stage=3: every rank holds a "
            "part that no other has, so there is nothing to compare; use zero_stage in (0, 1, 2), "
            "or set it to 0"
        )


def _model(spec: "RunSpec") -> None:
    if spec.model.init == "mup" and spec.optim.name in ("adafactor", "muon"):
        raise ValueError(
            f"optim.name={spec.optim.name!r} with model.init='mup': the multipliers of its rates "
            "are those of steps that do not scale with the weights; use adamw or lion"
        )
    if spec.model.architecture == "encoder_decoder" and spec.stage != "pretrain":
        raise ValueError(
            f"stage={spec.stage!r} with model.architecture='encoder_decoder': its examples are "
            "one text, without a source; use model.architecture='decoder'"
        )


CHECKS = (
    _batches,
    _pretraining_only,
    _phases,
    _changes,
    _spikes,
    _objectives,
    _zero_stage,
    _schedule,
    _trunk,
    _adafactor,
    _noise_scale,
    _replicas,
    _model,
)

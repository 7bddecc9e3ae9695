"""Which optimizer, rate and activation a run has when: its phases may change them. No torch here.

A change comes between two steps, at a restart of the engine from the state after the first of them.
"""

from typing import TYPE_CHECKING

from train.choices import OptimConfig, Phase
from train.ramp import steps_reaching, steps_within

if TYPE_CHECKING:
    from train.config import RunSpec


def begins(spec: "RunSpec", phase: Phase) -> int:
    """Steps that are done when a phase begins."""
    return steps_reaching(spec.batch, phase.start * spec.tokens)


def is_change(phase: Phase) -> bool:
    """Whether a phase has an engine of its own, and not just other data."""
    return any(new is not None for new in (phase.optim, phase.lr, phase.activation))


def in_force(spec: "RunSpec", step: int) -> "RunSpec":
    """The run as it trains the step after `step`."""
    optim, activation = spec.optim, spec.model.activation
    for phase in spec.phases:
        if begins(spec, phase) <= step:
            optim = phase.optim or optim
            optim = optim if phase.lr is None else optim.model_copy(update={"lr": phase.lr})
            activation = phase.activation or activation
    model = spec.model.model_copy(update={"activation": activation})
    return spec.model_copy(update={"optim": optim, "model": model})


def change_after(spec: "RunSpec", step: int) -> int:
    """The step after `step` that is the last before a change, or the run's last."""
    found = (begins(spec, phase) for phase in spec.phases if is_change(phase))
    last = steps_within(spec.batch, spec.tokens)
    return min([last, *(begin for begin in found if step < begin < last)])


def just_changed(spec: "RunSpec", step: int) -> bool:
    """Whether the state after `step` is one of another engine than trains the step after it."""
    return any(is_change(phase) and begins(spec, phase) == step for phase in spec.phases)


def keeps_moments(before: OptimConfig, after: OptimConfig) -> bool:
    """Whether an optimizer can go on with what another one remembers."""
    grouped = ("name", "decay_all", "decay_embeddings")
    return all(getattr(before, name) == getattr(after, name) for name in grouped)

"""Which states to resume from a run keeps. No torch here."""

from collections.abc import Sequence

from train.config import RunSpec, tokens_after


def is_milestone(spec: RunSpec, step: int) -> bool:
    """Whether the state after a step (from 1) stays for good."""
    every = spec.checkpoints.keep_every_tokens
    if every is None or step < 1:
        return False
    return tokens_after(spec, step) // every > tokens_after(spec, step - 1) // every


def retained(spec: RunSpec, found: Sequence[int]) -> frozenset[int]:
    """Of the steps whose states are whole those that stay while the run trains.

    The newest few, the milestones and, where a spike may send the run back, the newest that lies
    far enough before it.
    """
    newest_first = sorted(set(found), reverse=True)
    kept = set(newest_first[: spec.checkpoints.keep])
    kept |= {step for step in newest_first if is_milestone(spec, step)}
    if newest_first and spec.stability.spikes.deviations is not None:
        before = newest_first[0] - spec.stability.spikes.rewind
        kept |= set([step for step in newest_first if step <= before][:1])
    return frozenset(kept)

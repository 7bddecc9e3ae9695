"""How probable held-out text is: nats per token and bits per byte, by source and in all."""

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from train.config import RunSpec
from train.data.loader import validation_batches, validation_bytes_per_token
from train.data.tokenizer import MODE_S
from train.denoisers import objectives_of
from train.examples import Examples, apart, in_one_window
from train.objectives import token_nats_of, window_nats, windows
from train.parallel import Ranks, total
from train.step import Batch, to_device


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Without gradients and in evaluation mode; the mode that was is put back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def validate(model: nn.Module, spec: RunSpec, folder: Path, ranks: Ranks) -> dict[str, float]:
    """Mean nats per token and bits per byte over the validation windows, the same for every model.

    Whatever the objective was, held-out text is continued: every token of a window but the first by
    those before it, and, as `target_nats_per_token`, those of its second half alone, for which the
    first half is the prefix or the encoder's source. An encoder-decoder is judged by the second
    alone, so its nats per token and bits per byte are those. Sources weigh by their size in the
    validation text, not by the training mixture, so that a mixture cannot choose what it is judged
    by.
    """
    sums: dict[str, list[float]] = {}
    length, count = spec.model.seq_len, spec.evals.validation_tokens
    with evaluating(model):
        for index, (source, ids) in enumerate(validation_batches(folder, length, 32, count)):
            counted = sums.setdefault(source, [0.0] * 4)
            if index % ranks.world_size == ranks.rank:
                for place, value in enumerate(continued(model, spec, ids, ranks)):
                    counted[place] += value
    by_source = {source: total(values, ranks) for source, values in sums.items()}
    halves = {source: values[2:] for source, values in by_source.items()}
    if encoded(spec):
        first, judged = half(length), halves
    else:
        first, judged = 0, {source: values[:2] for source, values in by_source.items()}
    found = summarise(judged, validation_bytes_per_token(folder, length, count, first))
    return found | {"target_nats_per_token": _mean(halves)}


def encoded(spec: RunSpec) -> bool:
    return spec.model.architecture == "encoder_decoder"


def half(length: int) -> int:
    """The first target of the second half of a window of `length` targets."""
    return length // 2


def continued(model: nn.Module, spec: RunSpec, ids: np.ndarray, ranks: Ranks) -> list[float]:
    """Nats and number of all targets of windows (n, T + 1), and of those in their second halves.

    A model of several denoisers is told to go on, by the mode token in the place of the first id.
    """
    first, (n, width) = half(ids.shape[1] - 1), ids.shape
    given = ids.copy()
    if any(objective.kind == "ul2" for objective in objectives_of(spec)):
        given[:, 0] = MODE_S
    start = np.full(n, first + 1)
    second = Examples(given, start, np.full(n, width))
    if encoded(spec):
        nats, _ = window_nats(model, to_device(apart(second), ranks))
        asked = float(n * (width - 1 - first))
        return [0.0, 0.0, nats.item(), asked]
    by_token = token_nats_of(model, to_device(windows(given, spec.model), ranks))
    everything, later = by_token.sum().item(), by_token[:, first:].sum().item()
    if spec.model.architecture == "prefix_decoder":
        later = window_nats(model, to_device(in_one_window(second), ranks))[0].item()
    return [everything, float(by_token.numel()), later, float(by_token[:, first:].numel())]


def _mean(by_source: dict[str, list[float]]) -> float:
    return sum(p[0] for p in by_source.values()) / sum(p[1] for p in by_source.values())


def summarise(
    by_source: dict[str, list[float]], bytes_per_token: dict[str, float]
) -> dict[str, float]:
    """Nats per token and bits per byte from {source: [nats, tokens]}; in all, and by source."""
    nats = sum(pair[0] for pair in by_source.values())
    tokens = sum(pair[1] for pair in by_source.values())
    length = sum(pair[1] * bytes_per_token[source] for source, pair in by_source.items())
    metrics = {"nats_per_token": nats / tokens, "bits_per_byte": nats / math.log(2) / length}
    for source, (source_nats, source_tokens) in sorted(by_source.items()):
        metrics[f"nats_per_token/{source}"] = source_nats / source_tokens
    return metrics


def mean_over(
    model: nn.Module,
    batches: Iterable[dict[str, np.ndarray]],
    measure: Callable[[nn.Module, Batch], dict[str, float]],
    ranks: Ranks,
) -> dict[str, float]:
    """Sums of `measure` over batches, each divided by the summed `count` that it returns too."""
    sums: dict[str, float] = {}
    with evaluating(model):
        for batch in batches:
            for name, value in measure(model, to_device(batch, ranks)).items():
                sums[name] = sums.get(name, 0.0) + value
    values = dict(zip(sums, total(list(sums.values()), ranks), strict=True))
    count = values.pop("count")
    return {name: value / count for name, value in values.items()}

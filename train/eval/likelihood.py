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
from train.loop import Batch, to_device
from train.objectives import window_nats
from train.parallel import Ranks, total


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

    Sources weigh by their size in the validation text, not by the training mixture, so that a
    mixture cannot choose what it is judged by.
    """
    sums: dict[str, list[float]] = {}
    length, count = spec.model.seq_len, spec.evals.validation_tokens
    with evaluating(model):
        for index, (source, ids) in enumerate(validation_batches(folder, length, 32, count)):
            nats_tokens = sums.setdefault(source, [0.0, 0.0])
            if index % ranks.world_size == ranks.rank:
                nats, _ = window_nats(model, to_device({"ids": ids}, ranks))
                nats_tokens[0] += nats.item()
                nats_tokens[1] += ids.shape[0] * length
    by_source = {source: total(pair, ranks) for source, pair in sums.items()}
    return summarise(by_source, validation_bytes_per_token(folder, length, count))


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

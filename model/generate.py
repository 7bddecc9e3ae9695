"""Writing on from a prompt, with the keys and values of what was read kept.

Shapes: B batch, T time, V vocab.
"""

import torch
from torch import Tensor

from model.attention import Cache
from model.masks import decoder_mask
from model.transformer import Memory, Transformer


class Writer:
    """A decoder that reads tokens piece by piece; `logits` are those of the last token read."""

    def __init__(self, model: Transformer, memory: Memory | None = None) -> None:
        self.model = model
        self.memory = memory
        self.caches = [Cache() for _ in range(model.config.n_layers)]
        self.seen = torch.empty(0, dtype=torch.long)  # positions of the cached keys

    def read(self, tokens: Tensor) -> Tensor:
        """Take in tokens (B, T); logits after the last of them (B, V).

        Raises ValueError beyond the model's seq_len.
        """
        model, config = self.model, self.model.config
        start = int(self.seen[-1]) + 1 if len(self.seen) else 0
        if start + tokens.shape[1] > config.seq_len:
            raise ValueError(
                f"{start + tokens.shape[1]} tokens are more than the model's seq_len="
                f"{config.seq_len}; give a shorter prompt, or ask for fewer tokens"
            )
        queries = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        keys = torch.cat((self.seen.to(tokens.device), queries))
        mask = decoder_mask(config, queries, keys, shift=model.decoder.shift(queries, keys))
        x = model.embedded(tokens, queries)
        x = model.decoder(x, mask, model.angles(queries), self.memory, self.caches)
        self._forget(keys)
        return model.logits(x[:, -1:])[:, 0]

    def _forget(self, keys: Tensor) -> None:
        """Keep what the next token sees: all, or the window and the sinks."""
        config = self.model.config
        self.seen = keys
        if config.window is None:
            return
        # The next query is one further on, and itself in the window.
        kept = (keys > keys[-1] - config.window) | (keys < config.sinks)
        if not bool(kept.all()):
            self.seen = keys[kept]
            for cache in self.caches:
                cache.keep(torch.where(kept)[0])


def generate(
    model: Transformer,
    prompt: Tensor,
    count: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    source: Tensor | None = None,
) -> Tensor:
    """`count` tokens (B, count) after a prompt (B, T); the likeliest at temperature 0.

    Else drawn from the softmax of logits / temperature, cut to the `top_k` likeliest. `source`
    (B, S) is what an encoder reads first.
    """
    training = model.training
    model.eval()
    dice = torch.Generator(device=prompt.device).manual_seed(seed)
    with torch.no_grad():
        writer = Writer(model, None if source is None else model.read(source))
        written = [_choose(writer.read(prompt), temperature, top_k, dice)]
        while len(written) < count:
            written.append(_choose(writer.read(written[-1]), temperature, top_k, dice))
    model.train(training)
    return torch.cat(written, dim=1)


def _choose(
    logits: Tensor, temperature: float, top_k: int | None, dice: torch.Generator
) -> Tensor:  # (B, V) -> (B, 1)
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=dice)

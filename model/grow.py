"""A larger model that computes what a smaller one does, to go on training from.

What is new adds nothing at first: added layers, heads and feed-forward channels have outputs of
zero. A wider stream holds the old one several times over, each copy with its share of the weights
that read it, so that norms see the same mean. Source: Chen et al. 2015, arXiv:1511.05641 (Net2Net);
Chen et al. 2021, arXiv:2110.07143 (bert2BERT, copies of a stream); Gong et al. 2019, ICML (depth).

Shapes: D d_model, H heads, K kv heads, E d_head, F d_ff.
"""

import torch
from torch import Tensor

from model.config import ModelConfig
from model.growth import check_growth
from model.initial import initialise
from model.transformer import Transformer

# Copies that read with equal weights would get equal gradients and stay copies for ever.
UNEVEN = 0.2


def grow(small: Transformer, config: ModelConfig, seed: int = 0) -> Transformer:
    """A model of `config` with the function of `small`; what is new is drawn from the seed.

    Raises ValueError where the shapes do not allow it (check_growth).
    """
    check_growth(small.config, config)
    large = Transformer(config)
    initialise(large, seed)
    growth = Growth(small.config, config, torch.Generator().manual_seed(seed))
    old = dict(small.named_parameters())
    with torch.no_grad():
        for name, weight in large.named_parameters():
            if name in old:
                weight.copy_(growth.grown(name, old[name], weight))
            elif name.endswith((".out.weight", ".down.weight", ".out.bias", ".down.bias")):
                weight.zero_()
    return large


class Growth:
    """Places of old rows and columns among the new, by what a weight reads and writes."""

    def __init__(self, small: ModelConfig, large: ModelConfig, dice: torch.Generator) -> None:
        self.copies = large.d_model // small.d_model
        self.dice = dice
        e = small.d_head
        kv = torch.arange(small.n_kv_heads)
        # Query head g of key head k stays with it: its place follows the new size of groups.
        old_group = small.n_heads // small.n_kv_heads
        new_group = large.n_heads // large.n_kv_heads
        heads = (kv[:, None] * new_group + torch.arange(old_group)).flatten()
        self.heads = heads
        self.queries = (heads[:, None] * e + torch.arange(e)).flatten()
        self.keys = (kv[:, None] * e + torch.arange(e)).flatten()
        self.hidden = torch.arange(small.d_ff)

    def grown(self, name: str, old: Tensor, fresh: Tensor) -> Tensor:
        """The weight of the larger model that computes what `old` did."""
        if name == "decoder.bias.weight":  # a column of scores for each head
            return _placed(old.t(), fresh.t(), self.heads).t()
        kind = name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]
        if kind == "query":
            return self._reader(old, fresh, self.queries)
        if kind in ("key", "value"):
            return self._reader(old, fresh, self.keys)
        if kind in ("up", "gate"):
            return self._reader(old, fresh, self.hidden)
        if kind == "out":
            return self._writer(old, fresh, self.queries)
        if kind == "down":
            return self._writer(old, fresh, self.hidden)
        if kind == "head":
            return self._shared(old)
        if kind in ("embedding", "positions"):
            return old.repeat(1, self.copies)
        if kind in ("query_norm", "key_norm"):
            return old
        return old.repeat(self.copies)  # norms

    def _reader(self, old: Tensor, fresh: Tensor, rows: Tensor) -> Tensor:
        """A projection from the stream: its old rows, what each copy of the stream adds to them."""
        return _placed(old if old.dim() == 1 else self._shared(old), fresh, rows)

    def _writer(self, old: Tensor, fresh: Tensor, columns: Tensor) -> Tensor:
        """A projection into the stream: the same into every copy, nothing from what is new."""
        if old.dim() == 1:
            return old.repeat(self.copies)
        grown = torch.zeros_like(fresh)
        grown[:, columns] = old.repeat(self.copies, 1)
        return grown

    def _shared(self, old: Tensor) -> Tensor:  # (rows, D) -> (rows, copies * D)
        """Shares of the weights for every copy of the stream: uneven, and one in all."""
        shares = 1 + UNEVEN * torch.rand(self.copies, old.shape[1], generator=self.dice)
        shares = shares / shares.sum(dim=0)
        return torch.cat([old * share for share in shares], dim=1)


def _placed(old: Tensor, fresh: Tensor, rows: Tensor) -> Tensor:
    grown = fresh.clone()
    grown[rows] = old
    return grown

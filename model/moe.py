"""A feed-forward block of many experts, of which each token meets a few.

Shapes: N tokens, D d_model, X experts, k experts a token.
"""

import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import FeedForward


class MixtureOfExperts(nn.Module):
    """Top-k routing with the chosen probabilities scaled to one, and experts that see every token.

    After a forward, `terms` holds the balance loss, the router's z loss and the share of choices
    that were dropped. Source: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021,
    arXiv:2101.03961, eq. 4 (balance), sec. 2.2 (capacity); Zoph et al. 2022, arXiv:2202.08906, eq.
    5 (z loss); Dai et al. 2024, arXiv:2401.06066 (shared experts).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        self.config = config.moe
        self.router = nn.Linear(config.d_model, self.config.n_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config) for _ in range(self.config.n_experts))
        self.shared = nn.ModuleList(FeedForward(config) for _ in range(self.config.n_shared))
        self.terms: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        tokens = x.flatten(0, 1)  # (N, D)
        logits = self.router(tokens).float()  # (N, X)
        weights, chosen = logits.softmax(dim=-1).topk(self.config.top_k, dim=-1)  # (N, k)
        weights = (weights / weights.sum(dim=-1, keepdim=True)).to(x.dtype)
        kept = self.within_capacity(chosen)
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            row, place = torch.where((chosen == index) & kept)
            part = expert(tokens[row]) * weights[row, place, None]
            out = out.index_add(0, row, part.to(out.dtype))
        for expert in self.shared:
            out = out + expert(tokens)
        self.terms = router_terms(logits, chosen, kept)
        return out.view_as(x)

    def within_capacity(self, chosen: Tensor) -> Tensor:
        """Which choices (N, k) an expert has room for: first ones first, in order of the text."""
        if self.config.capacity_factor is None:
            return torch.ones_like(chosen, dtype=torch.bool)
        room = math.ceil(self.config.capacity_factor * chosen.numel() / self.config.n_experts)
        in_turn = chosen.t().flatten()  # every token's first choice, then every second one
        taken = nn.functional.one_hot(in_turn, self.config.n_experts).cumsum(dim=0)
        order = taken.gather(1, in_turn[:, None]).squeeze(1)
        return (order <= room).view(chosen.shape[1], -1).t()


def router_terms(logits: Tensor, chosen: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """The balance loss (1 when even), the z loss, and the share of choices that found no room."""
    n_experts = logits.shape[-1]
    share = nn.functional.one_hot(chosen, n_experts).float().mean(dim=(0, 1))  # (X,), sums to one
    probability = logits.softmax(dim=-1).mean(dim=0)  # (X,)
    return {
        "balance": n_experts * (share * probability).sum(),
        "router_z": logits.logsumexp(dim=-1).square().mean(),
        "dropped_fraction": 1 - kept.float().mean(),
    }


def router_losses(model: nn.Module) -> dict[str, Tensor]:
    """The terms of the last forward, a mean over layers; empty where there are no experts."""
    found = [m.terms for m in model.modules() if isinstance(m, MixtureOfExperts) and m.terms]
    if not found:
        return {}
    return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}

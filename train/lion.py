"""Lion: the sign of an interpolated momentum, with decoupled decay."""

from collections.abc import Callable

import torch
from torch.optim.optimizer import ParamsT


class Lion(torch.optim.Optimizer):
    """One moment a parameter; every number moves by the rate, whatever its gradient.

    Works number by number, so ZeRO may cut what it is given anywhere. Own code: torch has none, and
    DeepSpeed's need a GPU or a compiler. Source: Chen et al. 2023, arXiv:2302.06675, alg. 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """c = b1 m + (1 - b1) g; p -= lr (sign c + decay p); m = b2 m + (1 - b2) g."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                moment = self._moment(parameter)
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(gradient.lerp(moment, beta1).sign_(), alpha=-lr)
                moment.lerp_(gradient, 1 - beta2)

    def _moment(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]

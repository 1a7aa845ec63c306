"""The rival that is sparse from the start and moves its synapses: RigL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Held
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget.budget import Budget


class RigL(Held):
    """Dropping the smallest weights, growing where gradients are largest (Evci et al. 2020, arXiv 1911.11134).

    The whole budget is in force from the start, and the first survivors are the largest weights. At every update a layer drops
    the share  f(t) = share / 2 (1 + cos(pi t))  of its synapses, those of least |w|, and grows about as many where |dL/dw| is
    largest, from zero; t runs from 0 to 1 until a given progress, and then the synapses stay. As synapses on other axons take
    other memory, it grows in the order of the gradients as far as the core's count fits, in all layers of the core alike.

    The optimizer's moments of a weight are those of its dense gradient, also before it is grown.

    Parameters
    ----------
    share : float
        Of the synapses that the first update drops; 0.3 in the paper.
    every : int
        Choices from one update to the next: 100 steps in the paper, whose training is longer.
    until : float
        Progress of the last update: the paper's three quarters of training, where the compression goes on to progress 2.
    """

    def __init__(
        self, budget: Budget, model: TrainableNetwork, *, share: float = 0.3, every: int = 2, until: float = 1.5, **common: Any
    ) -> None:
        super().__init__(budget, model, **common)
        self.share, self.every, self.until = share, every, until
        self._asked = 0

    def select(self, progress: float) -> None:
        """The largest weights at first, then an update where one is due."""
        if self._asked == 0:
            self.masks, _ = self.best(self.magnitudes(), 1.0)
        elif progress < self.until and self._asked % self.every == 0:
            self._update(self.share / 2 * (1 + math.cos(math.pi * progress / self.until)))
        self._asked += 1

    def _update(self, share: float) -> None:
        """Drop so much, and grow."""
        gradients = {name: module.weight.grad for name, module in self.layers.items()}
        scores = {
            name: _score(module.weight.detach().abs(), self.masks[name], gradient.abs(), share)
            for (name, module), gradient in zip(self.layers.items(), gradients.values(), strict=True)
            if gradient is not None
        }
        if len(scores) == len(self.layers):
            self.masks, _ = self.best(scores, 1.0)

    def state_dict(self) -> Mapping[str, Any]:
        """With how often it was asked."""
        return {**super().state_dict(), "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        super().load_state_dict(state)
        self._asked = state["asked"]


def _score(size: torch.Tensor, active: torch.Tensor, gradient: torch.Tensor, share: float) -> torch.Tensor:
    """Infinite for what stays; for what may grow, from 1 down in the order of the gradients: 1/2 at as many as are dropped."""
    sizes = size[active]
    dropped = min(int(share * sizes.numel()), sizes.numel() - 1)
    if dropped == 0:
        return torch.where(active, torch.inf, 0.0)
    stays = active & (size > sizes.kthvalue(dropped).values)
    order = torch.where(stays, -1.0, gradient).flatten().topk(min(2 * dropped, gradient.numel())).indices
    score = torch.zeros_like(size).flatten()
    score[order] = 1 / (1 + torch.arange(order.numel(), device=size.device) / dropped)
    return torch.where(stays, torch.inf, score.view_as(size))

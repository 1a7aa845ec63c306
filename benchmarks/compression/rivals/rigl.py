"""RigL: training that is sparse from the start and moves its synapses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Held
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget import Budget


class RigL(Held):
    """RigL: drop the smallest weights, grow where gradients are largest (Evci et al. 2020, arXiv 1911.11134).

    The whole budget is in force from the start, and the largest weights are kept first. At every update a layer drops
    the share  f(t) = share / 2 (1 + cos(pi t))  of its synapses, those of least |w|, and grows about as many where |dL/dw| is
    largest, from zero; t runs from 0 to 1 until a given progress, and then the masks are fixed. Synapses on different axons take
    different memory, so it grows in the order of the gradients until the core is full, in all layers of the core together.

    The optimizer's moments of a weight are those of its dense gradient, also before it is grown.

    Parameters
    ----------
    share : float
        Share of synapses that the first update drops; 0.3 in the paper.
    every : int
        Selections between two updates: 100 steps in the paper, whose training is longer.
    until : float
        Progress of the last update: three quarters of training, as in the paper (the compression ends at progress 2).
    """

    def __init__(
        self, budget: Budget, model: TrainableNetwork, *, share: float = 0.3, every: int = 2, until: float = 1.5, **common: Any
    ) -> None:
        super().__init__(budget, model, **common)
        self.share, self.every, self.until = share, every, until
        self._asked = 0

    def select(self, progress: float) -> None:
        """Select the largest weights at first; then update every `every` calls."""
        if self._asked == 0:
            self.masks, _ = self.best(self.magnitudes(), 1.0)
        elif progress < self.until and self._asked % self.every == 0:
            self._update(self.share / 2 * (1 + math.cos(math.pi * progress / self.until)))
        self._asked += 1

    def _update(self, share: float) -> None:
        """Drop a share of the synapses, and grow others."""
        gradients = {name: module.weight.grad for name, module in self.layers.items()}
        scores = {
            name: _score(module.weight.detach().abs(), self.masks[name], gradient.abs(), share)
            for (name, module), gradient in zip(self.layers.items(), gradients.values(), strict=True)
            if gradient is not None
        }
        if len(scores) == len(self.layers):
            self.masks, _ = self.best(scores, 1.0)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with the number of selections."""
        return {**super().state_dict(), "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the number of selections."""
        super().load_state_dict(state)
        self._asked = state["asked"]


def _score(size: torch.Tensor, active: torch.Tensor, gradient: torch.Tensor, share: float) -> torch.Tensor:
    """Scores: infinite for kept synapses; for candidates from 1 down in the order of gradients, 1/2 at the number dropped."""
    sizes = size[active]
    dropped = min(int(share * sizes.numel()), sizes.numel() - 1)
    if dropped == 0:
        return torch.where(active, torch.inf, 0.0)
    stays = active & (size > sizes.kthvalue(dropped).values)
    order = torch.where(stays, -1.0, gradient).flatten().topk(min(2 * dropped, gradient.numel())).indices
    score = torch.zeros_like(size).flatten()
    score[order] = 1 / (1 + torch.arange(order.numel(), device=size.device) / dropped)
    return torch.where(stays, torch.inf, score.view_as(size))

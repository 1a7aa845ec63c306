"""Minimax with one sparsity for all layers, as published: the paper that our method is named after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.compression.rivals.masked import Masked
from neurodeploy.compression.minimax import shrink
from neurodeploy.compression.pruning_method import Phase, memory_in_force
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.resources.usage import count


class GlobalMinimax(Masked):
    """Minimax with one global s (Chen et al. 2023, arXiv 2308.04672), R being the chip's bits.

        min over W, s   max over y, z >= 0    L(W) + y ||W||_{s,2}^2 + z (R(s) - B)

    s is the number of smallest weights, ||W||_{s,2}^2 the sum of their squares, R the share of the dense model's bits that the
    others take, B the budget's share. The updates are the paper's:

        W   after the optimizer's step, the s smallest are divided by 1 + 2 rate y        (the proximal map)
        s   <- s - rate_s (y |W|_(s+1)^2 + z dR/ds)
        y   <- y + rate_y ||W||_{s,2}^2
        z   <- z + rate_z (R(s) - B)

    with the bottom norm as a share of all squares, and s of all weights. The proximal map is taken every step, the others with
    every choice, at rates for progress 0 to 1. The paper lowers B in stages: once R(s) <= B it continues from there
    with the next, tighter B; here B is the budget in force, and a step of s ends where R(s) = B.

    Parameters
    ----------
    rate_s, rate_y, rate_z : float
    y, z : float
        Initial values; that of y is the authors' own.
    """

    def __init__(
        self, budget: Budget, model: TrainableNetwork, *, rate_s: float = 1.0, rate_y: float = 1e3, rate_z: float = 5.0,
        y: float = 10.0, z: float = 1.0, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(budget, model, **common)
        self.rate_s, self.rate_y, self.rate_z = rate_s, rate_y, rate_z
        self.y, self.z, self.sparsity, self.progress = y, z, 0.0, 0.0

    def select(self, progress: float) -> None:
        """Take one step of s, y and z; the s smallest weights are pruned."""
        squared = torch.cat([size.flatten() for size in self.magnitudes().values()]).square_()
        step, self.progress = max(progress - self.progress, 0.0), progress
        edge, outside = self._bottom(squared)
        needed, allowed = self._shares(progress)
        slope = -needed / max(1 - self.sparsity, 1 / squared.numel())
        descent = self.y * edge + self.z * slope
        self.sparsity = min(max(self.sparsity - self.rate_s * step * descent, 0.0), 1 - 1 / squared.numel())
        self.y += self.rate_y * step * outside
        self.z = max(self.z + self.rate_z * step * (needed - allowed), 0.0)
        edge, _ = self._bottom(squared)
        self.masks = {name: size.square() >= edge for name, size in self.magnitudes().items()}
        needed, allowed = self._shares(progress)
        if needed < allowed:
            self.masks, _ = self.best(self.magnitudes(), progress)
            self.sparsity = 1 - self.connectivity

    def _bottom(self, squared: torch.Tensor) -> tuple[float, float]:
        """Smallest square above the s smallest, and the share of all squares in the s smallest."""
        s = math.ceil(self.sparsity * squared.numel())
        if s >= squared.numel():
            return float(squared.max()), 1.0
        edge = squared.kthvalue(s + 1).values
        return float(edge), float(squared[squared < edge].sum() / squared.sum().clamp(min=torch.finfo().tiny))

    def _shares(self, progress: float) -> tuple[float, float]:
        """Return R and B of the core that is furthest over its budget."""
        shares = []
        for parts in self.plan.by_core():
            need = 0
            for part in parts:
                n = self.masks[part.layer][part.start : part.stop].sum(dim=0).cpu().numpy()
                need += count(n, part.neurons, self.width, self.budget.profile).synapse_memory_bits
            full = max(memory_in_force(parts, self.budget, 0.0), 1)
            shares.append((need / full, self.memory(parts, progress) / full))
        return max(shares, key=lambda share: share[0] - share[1])

    @torch.no_grad()
    def after_step(self, phase: Phase, learning_rate: float) -> None:
        """Apply the proximal map in the compress phase."""
        if phase == "finetune":
            super().after_step(phase, learning_rate)
            return
        self.penalties = dict.fromkeys(self.penalties, self.y)
        shrink(self.layers, self.masks, self.penalties, learning_rate)

    def close(self) -> None:
        """Prune to the budget, whether or not z has driven s there."""
        self.masks, _ = self.best(self.magnitudes(), 1.0)
        self.is_final = True
        super().close()

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with s, y and z."""
        return {**super().state_dict(), "y": self.y, "z": self.z, "sparsity": self.sparsity, "progress": self.progress}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore s, y and z."""
        super().load_state_dict(state)
        self.y, self.z = float(state["y"]), float(state["z"])
        self.sparsity, self.progress = float(state["sparsity"]), float(state["progress"])

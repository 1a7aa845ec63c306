"""Pruning of whole neurons: those whose spikes contribute least, by Fisher information."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.compression.rivals.masked import Held
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.mapping.budget import Budget, SliceBudget
from neurodeploy.resources.usage import count

_MEMORY = 0.99
"""Share of the contributions that a step leaves of those before it."""


class FisherNeurons(Held):
    """Fisher spike contribution (SpikeFit, arXiv 2510.15542): neurons go, with all synapses that enter and leave them.

    Removing neuron i costs, to second order, the Fisher information of a factor m_i on its spikes at m_i = 1:
    the mean of (dL/dm_i)^2 with  dL/dm_i = sum over t of s_i dL/ds_i.  Since the spikes of i act by its outgoing weights alone,
    that is  sum over j of w_ji dL/dw_ji,  which every backward pass gives for free; the mean runs over batches. Hidden neurons
    are removed in this order until every core's bits are within the budget in force, with shorter indices for the others.
    They do not come back. Where one neuron per slice is still too much, its largest weights are kept.
    """

    def __init__(self, budget: Budget, model: TrainableNetwork, **common: Any) -> None:
        super().__init__(budget, model, **common)
        hidden = list(self.layers)[:-1]
        self.contribution = {name: torch.zeros(len(self.layers[name].weight)).double() for name in hidden}
        self.alive = {name: torch.ones(len(self.layers[name].weight), dtype=torch.bool) for name in hidden}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Run a block with the compressed weights; record gradients computed in it with the weights that they belong to."""
        with super().in_force():
            is_fresh = all(module.weight.grad is None for module in self.layers.values())
            yield
            if is_fresh:
                self._note()

    @torch.no_grad()
    def _note(self) -> None:
        for before, after in pairwise(self.layers):
            weight = self.layers[after].weight
            if weight.grad is not None:
                change = (weight * weight.grad).sum(dim=0).double().cpu()
                self.contribution[before].mul_(_MEMORY).add_(change.square())

    def select(self, progress: float) -> None:
        """Remove as few neurons as the budget requires."""
        ranked = self._ranked()
        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high) // 2
            if self._fits(self._without(ranked[:middle]), progress):
                high = middle
            else:
                low = middle + 1
        self.alive = self._without(ranked[:low])
        for name in self.layers:
            rows, columns = self._sides(name, self.alive)
            self.masks[name] = (rows[:, None] & columns).to(self.masks[name].device)
        if not self._fits(self.alive, progress) or self._is_over_caps(progress):
            sizes = {name: size * self.masks[name] for name, size in self.magnitudes().items()}
            self.masks, _ = self.best(sizes, progress)

    def _ranked(self) -> list[tuple[str, int]]:
        """Active hidden neurons, least contribution first, without the best of each slice, which is never removed."""
        found = list[tuple[float, str, int]]()
        for name, alive in self.alive.items():
            contribution, is_left = self.contribution[name].tolist(), alive.tolist()
            for part in self.budget.of(name):
                found += sorted((contribution[n], name, n) for n in range(part.start, part.stop) if is_left[n])[:-1]
        return [(name, n) for _, name, n in sorted(found)]

    def _without(self, gone: list[tuple[str, int]]) -> dict[str, torch.Tensor]:
        left = {name: alive.clone() for name, alive in self.alive.items()}
        for name, n in gone:
            left[name][n] = False
        return left

    def _sides(self, name: str, alive: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Active neurons of a layer and of the layer before it."""
        names, shape = list(self.layers), self.masks[name].shape
        before = names[names.index(name) - 1] if name != names[0] else ""
        everyone = [torch.ones(n, dtype=torch.bool) for n in shape]
        return alive.get(name, everyone[0]), alive.get(before, everyone[1])

    def _fits(self, alive: Mapping[str, torch.Tensor], progress: float) -> bool:
        return all(
            sum(self._bits(part, alive) for part in parts) <= self.memory(parts, progress) for parts in self.plan.by_core()
        )

    def _bits(self, part: SliceBudget, alive: Mapping[str, torch.Tensor]) -> int:
        rows, columns = self._sides(part.layer, alive)
        n = int(rows[part.start : part.stop].sum())
        synapses: NDArray[np.int64] = columns.numpy() * np.int64(n)
        return count(synapses, n, self.width, self.budget.profile).synapse_memory_bits

    def _is_over_caps(self, progress: float) -> bool:
        """Whether a slice has more sources than its axon limit allows; `_fits` checks memory."""
        overruns = self.overruns() if progress >= 1 else {}
        return any(over > 0 for name, over in overruns.items() if "axons" in name)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state, with contributions and active neurons."""
        return {**super().state_dict(), "contribution": self.contribution, "alive": self.alive}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore contributions and active neurons."""
        super().load_state_dict(state)
        for own, kept in ((self.contribution, state["contribution"]), (self.alive, state["alive"])):
            for name, values in own.items():
                values.copy_(kept[name])

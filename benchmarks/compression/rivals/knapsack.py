"""Hardware-aware pruning: a knapsack problem over groups of synapses that fill a unit of memory."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.compression.rivals.masked import Held
from neurodeploy.resources.usage import axon_bits, index_bits, weight_bits


class Knapsack(Held):
    """Resource-aware pruning (Ramhorst et al. 2023, arXiv 2308.05170, as hls4ml has it), with this chip's memory for the FPGA's.

    The structures are groups of an axon's synapses, sorted by |w|, that fill one unit of its list. A group's value is the sum of
    its |w| over the largest of the layer, its cost the bits that the list grows by; a core keeps the groups of most value per bit
    that its memory holds, a group never without those before it in its list. The budget shrinks, and what is pruned does not
    come back.
    """

    def select(self, progress: float) -> None:
        """Keep the groups of most value per bit."""
        sizes = self.magnitudes()
        scores = {name: torch.zeros_like(size) for name, size in sizes.items()}
        for part in self.plan.slices:
            size = sizes[part.layer]
            largest = size.max().clamp(min=torch.finfo().tiny)
            scores[part.layer][part.start : part.stop] = self._value_per_bit(size[part.start : part.stop] / largest)
        self.masks, _ = self.best(scores, progress)

    def _value_per_bit(self, size: torch.Tensor) -> torch.Tensor:
        """(n_neurons, n_in): for each synapse, the value per bit of its group, or the smaller one of a group before it."""
        there, profile = size > 0, self.budget.profile
        n_neurons = max(int(there.any(dim=1).sum()), 1)
        longest = max(int(there.sum(dim=0).max()), 1)
        ranked, where = size.t().contiguous().topk(longest, dim=1)
        width = weight_bits(self.width, profile)
        bits = axon_bits(np.arange(longest + 1), width, index_bits(n_neurons, profile), profile)
        ends = np.flatnonzero(np.append(np.diff(bits) > 0, True))
        cost = torch.from_numpy(np.diff(bits[ends])).to(ranked)
        running = torch.nn.functional.pad(ranked.cumsum(dim=1), (1, 0))[:, torch.from_numpy(ends).to(size.device)]
        value = (running.diff(dim=1) / cost).cummin(dim=1).values
        group = torch.from_numpy(np.searchsorted(ends, np.arange(longest), side="right") - 1).to(size.device)
        placed = torch.zeros_like(size.t(), memory_format=torch.contiguous_format)
        placed.scatter_(1, where, torch.where(ranked > 0, value[:, group], 0.0))
        return placed.t()

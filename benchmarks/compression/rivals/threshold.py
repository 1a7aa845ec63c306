"""Selection of the synapses with the largest scores that fit the cores: one threshold for all slices of a core.

This is the obvious way to bring a method that ranks synapses onto a chip: try a threshold, count the memory of the kept synapses,
try another. The count is the resource model's, with lists, headers and rounding. Neurons without synapses on one side
lose those on the other, as in Han et al. 2015 (arXiv 1506.02626), and the threshold is lowered by the memory that this frees.
A lower threshold never takes less memory, so bisection finds the lowest that fits. It bisects over the bits of the float:
nonnegative floats are in the order of their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from neurodeploy.compression.synapse_selection import within_caps
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.budget import SliceBudget
from neurodeploy.resources.usage import count

Tensors = dict[str, torch.Tensor]

_INFINITY = 0x7F800000
"""The bits of a float32 that is infinite."""
_OCTAVE = 1 << 23
"""How far the bits of a float32 are from those of its half."""
_NEAR = 1 << 13
"""A thousandth, where dead neurons are counted out: thresholds need not be nearer than that."""
_NEGLIGIBLE = 0.005
"""Share of a core's bits that dead neurons may leave without anything being done about it."""


class Ranking:
    """Synapses of a model ranked by score, and masks for cores of a given memory.

    Parameters
    ----------
    scores : mapping of layer to tensor (n_out, n_in)
        In the order of the layers, at least 0. A synapse of score 0 is never kept, one of infinite score always, and the best of
        each slice. Axon limits hold: the axons with the largest sums of scores are kept.
    cores : sequence of sequences of SliceBudget
        The slices of each core, with the axon limits in force.
    memory_bits : sequence of int
        Memory limit of each core.
    width : int
        Bits of a weight.
    """

    def __init__(
        self, scores: Mapping[str, torch.Tensor], cores: Sequence[Sequence[SliceBudget]], memory_bits: Sequence[int],
        width: int, profile: HardwareProfile,
    ) -> None:  # fmt: skip
        self.cores, self.memory_bits, self.width, self.profile = cores, memory_bits, width, profile
        self.scores = {name: score.detach().float().clone() for name, score in scores.items()}
        self.best = {part.name: _with_best(self._of(self.scores, part), part) for parts in cores for part in parts}

    def masks(self) -> tuple[Tensors, dict[str, float]]:
        """Masks (n_out, n_in) by layer, and the threshold by slice: the least score that is kept."""
        found = [_lowest(partial(self._fits_alone, core), 1, _INFINITY) for core in range(len(self.cores))]
        masks = self._masks(found)
        if self._is_given_back(masks):
            for core, threshold in enumerate(found):
                lowest = max(threshold - 4 * _OCTAVE, 1)
                found[core] = _lowest(partial(self._fits_connected, found, core), lowest, threshold, _NEAR)
            masks = self._masks(found)
        thresholds = {part.name: _float(at) for parts, at in zip(self.cores, found, strict=True) for part in parts}
        return self._connected(masks), thresholds

    def _of(self, layers: Mapping[str, torch.Tensor], part: SliceBudget) -> torch.Tensor:
        return layers[part.layer][part.start : part.stop]

    def _above(self, core: int, threshold: int) -> list[torch.Tensor]:
        return [self._of(self.scores, part) >= _float(threshold) for part in self.cores[core]]

    def _bits(self, masks: Sequence[torch.Tensor], core: int, *, trimmed: bool = False) -> int:
        """Memory of masks; if `trimmed`, without neurons that have no sources, with shorter indices for the others."""
        last, bits = next(reversed(self.scores)), 0
        for mask, part in zip(masks, self.cores[core], strict=True):
            neurons = max(1, int(mask.any(dim=1).sum())) if trimmed and part.layer != last else part.neurons
            bits += count(mask.sum(dim=0).cpu().numpy(), neurons, self.width, self.profile).synapse_memory_bits
        return bits

    def _masks(self, thresholds: Sequence[int]) -> Tensors:
        masks = {name: torch.zeros_like(score, dtype=torch.bool) for name, score in self.scores.items()}
        for core, threshold in enumerate(thresholds):
            for part, mask in zip(self.cores[core], self._above(core, threshold), strict=True):
                self._of(masks, part).copy_(mask)
        return masks

    def _connected(self, masks: Tensors) -> Tensors:
        """Masks without synapses of neurons that have none on their other side; the best of each slice is always kept."""
        left = {name: mask.clone() for name, mask in masks.items()}
        for before, after in pairwise(masks):
            is_live = masks[before].any(dim=1) & masks[after].any(dim=0)
            left[before] &= is_live[:, None]
            left[after] &= is_live
        for parts in self.cores:
            for part in parts:
                self._of(left, part).view(-1)[self.best[part.name]] = True
        return left

    def _is_given_back(self, masks: Tensors) -> bool:
        """Whether dead neurons free memory on some core: by their synapses, or by shorter indices for the others."""
        left = self._connected(masks)
        for core, parts in enumerate(self.cores):
            whole, less = ([self._of(some, part) for part in parts] for some in (masks, left))
            if self._bits(less, core, trimmed=True) < (1 - _NEGLIGIBLE) * self._bits(whole, core):
                return True
        return False

    def _fits_alone(self, core: int, threshold: int) -> bool:
        """Whether all synapses at or above a threshold fit the core."""
        return self._bits(self._above(core, threshold), core) <= self.memory_bits[core]

    def _fits_connected(self, thresholds: Sequence[int], core: int, threshold: int) -> bool:
        """Whether the synapses at or above the thresholds, with this one for a core, fit every core without dead neurons."""
        left = self._connected(self._masks([*thresholds[:core], threshold, *thresholds[core + 1 :]]))
        return all(
            self._bits([self._of(left, part) for part in parts], core, trimmed=True) <= self.memory_bits[core]
            for core, parts in enumerate(self.cores)
        )


def _with_best(score: torch.Tensor, part: SliceBudget) -> int:
    """Set scores to 0 on axons beyond the limits, to infinity at the best synapse; return its place in the slice."""
    if part.input_axons < score.shape[1] or any(cap.axons < cap.stop - cap.start for cap in part.sources):
        worth = score.double().sum(dim=0).cpu().numpy()
        score[:, torch.from_numpy(~within_caps(worth, part)).to(score.device)] = 0
    best = int(score.argmax())
    score.view(-1)[best] = torch.inf
    return best


def _lowest(fits: Callable[[int], bool], low: int, high: int, near: int = 1) -> int:
    """Lowest threshold that fits, as the bits of a float; `high` fits."""
    if fits(low):
        return low
    while high - low > near:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high


def _float(bits: int) -> float:
    return float(np.array(bits, dtype=np.int32).view(np.float32))

"""Which synapses have the largest scores that the cores hold: one threshold for all slices of a core.

This is how anybody would bring a method that ranks synapses onto a chip: try a threshold, count what its survivors take of
the core's memory, try another. The count is the resource model's, with lists, headers and rounding. Neurons that are left
without a synapse on one side lose those on the other, as Han et al. 2015 (arXiv 1506.02626) do, and the threshold goes lower
for the memory that they give back. A lower threshold never takes less, so bisection finds the lowest that fits; floats from
0 up are in the order of their bits, and it is over these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from neurodeploy.compression.synapse_selection import within_caps
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.budget.budget import SliceBudget
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
    """The synapses of a model by their scores, and what survives on cores of some memory.

    Parameters
    ----------
    scores : mapping of layer to tensor (n_out, n_in)
        In the order of the layers, at least 0. What scores 0 never survives, what is infinite always does; of each slice its
        best synapse stays. Caps on axons are kept: the axons stay whose scores add up to most.
    cores : sequence of sequences of SliceBudget
        The slices of each core, with the caps in force.
    memory_bits : sequence of int
        What each core may use.
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
        """Masks (n_out, n_in) by layer, and the threshold by slice: survivors score so much or more."""
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
        """What masks take; `trimmed`, once neurons that hear nobody are out, and a shorter index tells the others apart."""
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
        """Without the synapses of neurons that have none on their other side; the best of each slice stays even so."""
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
        """Whether dead neurons leave memory on some core: by their synapses, or by a shorter index for the others."""
        left = self._connected(masks)
        for core, parts in enumerate(self.cores):
            whole, less = ([self._of(some, part) for part in parts] for some in (masks, left))
            if self._bits(less, core, trimmed=True) < (1 - _NEGLIGIBLE) * self._bits(whole, core):
                return True
        return False

    def _fits_alone(self, core: int, threshold: int) -> bool:
        """Whether all that is above it fits the core."""
        return self._bits(self._above(core, threshold), core) <= self.memory_bits[core]

    def _fits_connected(self, thresholds: Sequence[int], core: int, threshold: int) -> bool:
        """Whether what is above all of them, with this one for a core, fits every core without the dead neurons."""
        left = self._connected(self._masks([*thresholds[:core], threshold, *thresholds[core + 1 :]]))
        return all(
            self._bits([self._of(left, part) for part in parts], core, trimmed=True) <= self.memory_bits[core]
            for core, parts in enumerate(self.cores)
        )


def _with_best(score: torch.Tensor, part: SliceBudget) -> int:
    """Score 0 on the axons that the caps leave out, and infinity at the best, whose place in the slice is returned."""
    if part.input_axons < score.shape[1] or any(cap.axons < cap.stop - cap.start for cap in part.sources):
        worth = score.double().sum(dim=0).cpu().numpy()
        score[:, torch.from_numpy(~within_caps(worth, part)).to(score.device)] = 0
    best = int(score.argmax())
    score.view(-1)[best] = torch.inf
    return best


def _lowest(fits: Callable[[int], bool], low: int, high: int, near: int = 1) -> int:
    """The lowest threshold that fits, as the bits of a float; `high` is known to."""
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

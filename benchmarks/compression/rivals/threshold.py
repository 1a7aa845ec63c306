"""Which synapses have the largest scores that a core holds: one threshold for all of its slices.

This is how anybody would bring a method that ranks synapses onto a chip: try a threshold, count what its survivors take of
the core's memory, try another. Whatever the threshold keeps is counted by the resource model, with its lists, headers and
rounding. Floats from 0 up are in the order of their bits, so the bisection is over these, and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.usage import count
from neurodeploy.training.masks import within_caps

_INFINITY = 0x7F800000
"""The bits of a float32 that is infinite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A slice, and what its synapses score.

    Attributes
    ----------
    part : SliceBudget
        Its caps on axons are kept: the axons stay whose scores add up to most.
    score : tensor (n_neurons, n_in), float32
        At least 0. What scores 0 never survives, what is infinite always does; of each slice its best synapse stays.
    """

    part: SliceBudget
    score: torch.Tensor

    def within_caps(self) -> Scored:
        """The same, with scores of 0 on the axons that the caps leave out, and an infinite one where the best is."""
        score, part = self.score.clone(), self.part
        if part.input_axons < score.shape[1] or any(cap.axons < cap.stop - cap.start for cap in part.sources):
            worth = score.double().sum(dim=0).cpu().numpy()
            score[:, torch.from_numpy(~within_caps(worth, part)).to(score.device)] = 0
        score.view(-1)[score.argmax()] = torch.inf
        return Scored(part=part, score=score)

    def above(self, threshold: float) -> torch.Tensor:
        """(n_neurons, n_in), bool: the scores of at least so much."""
        return self.score >= threshold


def best_on_core(
    slices: Sequence[Scored], memory_bits: int, width: int, profile: HardwareProfile
) -> tuple[list[torch.Tensor], float]:
    """The survivors of the lowest threshold at which the slices of one core fit its memory.

    Parameters
    ----------
    memory_bits : int
        What they may use together.
    width : int
        Bits of a weight.

    Returns
    -------
    masks : list of tensor (n_neurons, n_in), bool
        One for each slice.
    threshold : float
        The survivors score so much or more.
    """
    slices = [one.within_caps() for one in slices]

    def bits(threshold: float) -> int:
        counts = [one.above(threshold).sum(dim=0).cpu().numpy() for one in slices]
        return sum(count(n, one.part.neurons, width, profile).synapse_memory_bits for n, one in zip(counts, slices, strict=True))

    low, high = 0, _INFINITY
    if bits(_float(1)) <= memory_bits:
        high = 1
    while high - low > 1:
        middle = (low + high) // 2
        if bits(_float(middle)) <= memory_bits:
            high = middle
        else:
            low = middle
    return [one.above(_float(high)) for one in slices], _float(high)


def _float(bits: int) -> float:
    return float(np.array(bits, dtype=np.int32).view(np.float32))

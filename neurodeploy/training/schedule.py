"""The budget in force while a model is pressed into its own: every limit shrinks geometrically from the unpruned need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from neurodeploy.budgets.budget import AxonCap, Budget, SliceBudget
from neurodeploy.resources.usage import count


def constraint(part: SliceBudget, resource: str) -> str:
    """What a constraint is called in an `EpochRecord`, e.g. ``hidden[0:64] input_axons``."""
    return f"{part.name} {resource}"


def axons_in_force(part: SliceBudget, progress: float) -> SliceBudget:
    """A slice with the caps on axons in force at `progress` 0..1: they shrink geometrically from all there are."""
    n_in = max(cap.stop for cap in part.sources)
    return replace(
        part,
        input_axons=between(n_in, part.input_axons, progress),
        sources=tuple(
            AxonCap(start=cap.start, stop=cap.stop, axons=between(cap.stop - cap.start, cap.axons, progress))
            for cap in part.sources
        ),
    )


def memory_in_force(
    parts: Sequence[SliceBudget], budget: Budget, progress: float, axons: Mapping[str, int] = MappingProxyType({})
) -> int:
    """Synapse memory of a core with these slices at `progress` 0..1: it shrinks geometrically from what they need unpruned.

    `axons` says how many stand behind each column of a layer's weights, one where it says nothing.
    """
    full = 0
    for part in parts:
        lists = np.full(max(cap.stop for cap in part.sources) * axons.get(part.layer, 1), part.neurons)
        full += count(lists, part.neurons, budget.weight_bits, budget.profile).synapse_memory_bits
    return between(full, sum(part.synapse_memory_bits for part in parts), progress)


def between(need: int, limit: int, progress: float) -> int:
    """`need` at progress 0, `limit` at 1 and beyond, geometrically between; `limit` throughout where it is not exceeded."""
    if need <= limit or progress >= 1:
        return limit
    return max(limit, int(need * (max(limit, 1) / need) ** progress))

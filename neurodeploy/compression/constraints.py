"""Constraints of a budget while a model is compressed into it: limits in force, and the usage of the current masks.

Every limit in force shrinks geometrically from what the unpruned model needs to what it may use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch

from neurodeploy.compression.bit_width import LayerFormat
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.budget.budget import AxonCap, Budget, SliceBudget
from neurodeploy.resources.usage import count

Masks = Mapping[str, torch.Tensor]
Formats = Mapping[str, LayerFormat]


def constraint(part: SliceBudget, resource: str) -> str:
    """Name of a constraint in an `EpochRecord`, e.g. ``hidden[0:64] input_axons``."""
    return f"{part.name} {resource}"


def axons_in_force(part: SliceBudget, progress: float) -> SliceBudget:
    """Return a slice with the caps on axons in force at `progress` 0..1."""
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
    """Synapse memory in bits of a core with these slices at `progress` 0..1.

    `axons` is the number of axons behind each column of a layer's weights; 1 for layers that it leaves out.
    """
    full = 0
    for part in parts:
        synapses = np.full(max(cap.stop for cap in part.sources) * axons.get(part.layer, 1), part.neurons)
        full += count(synapses, part.neurons, budget.weight_bits, budget.profile).synapse_memory_bits
    return between(full, sum(part.synapse_memory_bits for part in parts), progress)


def between(need: int, limit: int, progress: float) -> int:
    """Interpolate geometrically: `need` at progress 0, `limit` from 1 on; `limit` throughout where the need is within it."""
    if need <= limit or progress >= 1:
        return limit
    return max(limit, int(need * (max(limit, 1) / need) ** progress))


def memory_bits(parts: Sequence[SliceBudget], masks: Masks, formats: Formats, profile: HardwareProfile) -> int:
    """Synapse memory of the kept synapses of some slices, in the formats of their layers."""
    total = 0
    for part in parts:
        form = formats[part.layer]
        synapses = masks[part.layer][part.start : part.stop].sum(dim=0).cpu().numpy()
        n_neurons = len(form.rows.get(part.name, range(part.neurons)))
        total += count(np.repeat(synapses, form.axons), n_neurons, form.width, profile).synapse_memory_bits
    return total


def overruns_of(plan: Budget, masks: Masks, formats: Formats) -> dict[str, float]:
    """Usage over budget less one, of every constraint; memory is a core's."""
    overruns = {}
    for parts in plan.by_core():
        for part in parts:
            used = masks[part.layer][part.start : part.stop].any(dim=0).cpu().numpy()
            from_sources = [used[cap.start : cap.stop].sum() / max(cap.axons, 1) for cap in part.sources]
            overruns[constraint(part, "input_axons")] = float(used.sum()) / max(part.input_axons, 1) - 1
            overruns[constraint(part, "output_axons")] = float(max(from_sources)) - 1
        limit = sum(part.synapse_memory_bits for part in parts)
        memory = memory_bits(parts, masks, formats, plan.profile)
        overruns |= {constraint(part, "synapse_memory_bits"): memory / max(limit, 1) - 1 for part in parts}
    return overruns

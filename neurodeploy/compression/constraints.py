"""The budget in force while a model is pressed into its own: every limit shrinks geometrically from the unpruned need.

What surviving synapses take, beside what their slices may take: counted on masks, while weights still learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.compression.bit_width import Form
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.budget.budget import AxonCap, Budget, SliceBudget
from neurodeploy.resources.usage import count

# -------------------- training.schedule


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


# -------------------- training.needs

Survivors = Mapping[str, torch.Tensor]
Forms = Mapping[str, Form]


def memory_bits(parts: Sequence[SliceBudget], survivors: Survivors, forms: Forms, profile: HardwareProfile) -> int:
    """Synapse memory that the survivors of some slices take, in the forms of their layers."""
    total = 0
    for part in parts:
        form, lists = forms[part.layer], _on(part, survivors)
        n_neurons = len(form.rows.get(part.name, range(part.neurons)))
        total += count(np.repeat(lists, form.axons), n_neurons, form.width, profile).synapse_memory_bits
    return total


def overruns_of(plan: Budget, survivors: Survivors, forms: Forms) -> dict[str, float]:
    """Usage over budget less one, of every constraint; memory is a core's."""
    overruns = {}
    for parts in plan.by_core():
        for part in parts:
            heard = _on(part, survivors) > 0
            from_sources = [heard[cap.start : cap.stop].sum() / max(cap.axons, 1) for cap in part.sources]
            overruns[constraint(part, "input_axons")] = float(heard.sum()) / max(part.input_axons, 1) - 1
            overruns[constraint(part, "output_axons")] = float(max(from_sources)) - 1
        limit = sum(part.synapse_memory_bits for part in parts)
        memory = memory_bits(parts, survivors, forms, plan.profile)
        overruns |= {constraint(part, "synapse_memory_bits"): memory / max(limit, 1) - 1 for part in parts}
    return overruns


def _on(part: SliceBudget, survivors: Survivors) -> NDArray[np.int64]:
    """(n_in,): synapses of each source onto the slice."""
    n_synapses: NDArray[np.int64] = survivors[part.layer][part.start : part.stop].sum(dim=0).cpu().numpy()
    return n_synapses

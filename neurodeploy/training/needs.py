"""What surviving synapses take, beside what their slices may take: counted on masks, while weights still learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.budgets.budget import Budget, SliceBudget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.usage import count
from neurodeploy.training.forms import Form
from neurodeploy.training.schedule import constraint

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

"""What a core has, shared among its slices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from neurodeploy.budgets.budget import SliceBudget, Slices
from neurodeploy.budgets.room import Lack, least_room
from neurodeploy.chip_clock import constant
from neurodeploy.graph import INPUT
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.placement import Slice
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.regions import grid_of
from neurodeploy.resources.usage import Layers
from neurodeploy.wiring import DenseWiring


def memory_for_synapses(profile: HardwareProfile) -> int:
    """Bits of a core that synapses may use, alone or beside neurons and axons."""
    return min(profile.capacity("memory_bits"), profile.capacity("synapse_memory_bits"))


def bits_beside(part: Slice, profile: HardwareProfile) -> int:
    """Bits of that memory that a slice takes for its neurons and the axons that leave them."""
    state, sent = profile.number("neuron_state_bits", 0), profile.number("output_axon_bits", 0)
    return part.usage.neurons * state + part.output_axons * sent if "memory_bits_per_core" in profile else 0


def prunable_sources(layers: Layers) -> dict[str, str]:
    """The layers that can be pruned axon by axon, and whom they hear: by one dense connection between rows of neurons.

    Biases may come beside it.
    """
    beside, found = constant(layers), {}
    rows = {INPUT, *(layer.name for layer in layers if len(grid_of(layer)) == 1)}
    for layer in layers:
        main = [c.source for c in layer.connections if c.source not in beside]
        is_dense = all(isinstance(c.synapse, DenseWiring) for c in layer.connections)
        if len(main) == 1 and is_dense and layer.name not in beside and {layer.name, main[0]} <= rows:
            found[layer.name] = main[0]
    return found


def biases_of(layers: Layers, among: Collection[str] | None = None) -> dict[str, int]:
    """How many neurons bring biases to each layer; to those among some alone, the others none, where these are told."""
    beside = constant(layers)
    return {
        layer.name: len(beside & {c.source for c in layer.connections}) * (among is None or layer.name in among)
        for layer in layers
    }


def topped_up(
    layers: Layers, profile: HardwareProfile, counts: Mapping[str, LayerCount], plan: tuple[Slice, ...], prunable: Collection[str]
) -> Slices | Lack:
    """Memory shared in proportion to what slices were given, input axons in proportion to what they hear.

    Those that cannot be pruned axon by axon hear all that they do; the others share what is left of the core's axons, each
    having those of a single synapse at least.
    """
    on_core: dict[int, list[Slice]] = defaultdict(list)
    for part in plan:
        on_core[part.core].append(part)
    biases = biases_of(layers, prunable)
    cores = [_Core(together, counts, profile, prunable, biases) for together in on_core.values()]
    if lacks := [lack for core in cores for lack in core.lacks()]:
        return max(lacks, key=lambda lack: lack.need / lack.limit if lack.limit else math.inf)
    budgets = [budget for core in cores for budget in core.budgets()]
    order = {name: n for n, name in enumerate(counts)}
    return tuple(sorted(budgets, key=lambda part: (order[part.layer], part.region)))


class _Core:
    """A core, and the slices on it."""

    def __init__(
        self, together: list[Slice], counts: Mapping[str, LayerCount], profile: HardwareProfile, prunable: Collection[str],
        biases: Mapping[str, int],
    ) -> None:  # fmt: skip
        self.together, self.profile, self._prunable = together, profile, prunable
        whole = [counts[part.layer].usage(part.region) for part in together]
        least = [least_room(counts[part.layer], usage, biases[part.layer]) for part, usage in zip(together, whole, strict=True)]
        self._heard, self._least = [usage.input_axons for usage in whole], [bits for bits, _ in least]
        self._beside = sum(bits_beside(part, profile) for part in together)
        self._pruned = [part.layer in prunable for part in together]
        self._fewest = [n if is_pruned else 0 for (_, n), is_pruned in zip(least, self._pruned, strict=True)]
        self._fixed = sum(n for n, is_pruned in zip(self._heard, self._pruned, strict=True) if not is_pruned)

    def lacks(self) -> Iterator[Lack]:
        """Which of the core's limits leave no room for a single synapse of each slice that hears anybody."""
        pool = "memory_bits" if "memory_bits_per_core" in self.profile else "synapse_memory_bits"
        asked = ((pool, self._beside, self._least), ("input_axons", self._fixed, self._fewest))
        first = self.together[int(np.argmax(self._least))]
        what = f"for {first.region.words}{' and others' * (len(self.together) > 1)} with a synapse each"
        for resource, beside, least in asked:
            if any(least) and beside + sum(least) > (limit := self.profile.capacity(resource)):
                is_of_cut = resource == "memory_bits"  # where output axons take of it
                yield Lack(
                    layer=first.layer, what=f"{resource} {what}", need=beside + sum(least), limit=limit,
                    key=f"{resource}_per_core", hangs_on_cut=is_of_cut,
                )  # fmt: skip

    def budgets(self) -> list[SliceBudget]:
        """What each slice may use."""
        memory = memory_for_synapses(self.profile) - self._beside
        given = [part.usage.synapse_memory_bits for part in self.together]
        shares = given if any(given) else [part.usage.neurons for part in self.together]
        return [
            SliceBudget(
                layer=part.layer, core=part.core, region=part.region, input_axons=axons, sources=(),
                synapse_memory_bits=memory * share // sum(shares) if memory < UNLIMITED else bits,
            )
            for part, share, bits, axons in zip(self.together, shares, given, self._axons(), strict=True)
        ]  # fmt: skip

    def _axons(self) -> list[int]:
        """Input axons of each slice."""
        left, fewest = self.profile.capacity("input_axons") - self._fixed, sum(self._fewest)
        wanted = sum(n for n, is_pruned in zip(self._heard, self._pruned, strict=True) if is_pruned)
        return [
            n if not is_pruned or wanted <= left else few + (n - few) * (left - fewest) // (wanted - fewest)
            for n, few, is_pruned in zip(self._heard, self._fewest, self._pruned, strict=True)
        ]

"""How layers are laid onto cores.

Layers are laid onto the cores one after another, each core filled to its limits before the next is begun. Usage only
grows as neurons are added, so no other plan that keeps the layers in order and in one piece a core takes fewer cores,
as far as neurons, synapse memory and input axons go. Layers are laid from the last to the first, so that the cores which
a neuron's spikes go to, and with them its output axons, are known when it finds its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import RequestError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Network
from neurodeploy.placement import RESOURCES, Placement, Slice, limit_of, use_of
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.resources import DEFAULT_WEIGHT_BITS, AnyLayer, Layers, SynapseCounts, bits_of, least_axon_bits, weight_bits

Cut: TypeAlias = "tuple[str, int, int, int]"
"""Layer, core, start, stop: neurons start..stop-1 of the layer are to stand on the core."""


def place(
    network: QuantizedNetwork, profile: HardwareProfile, *, cores: int | None = None, plan: Sequence[Cut] = ()
) -> Placement:
    """Put a network on the fewest cores.

    Parameters
    ----------
    cores : int, optional
        How many it may use; all of the profile's by default.
    plan : sequence of (layer, core, start, stop), optional
        The slices of a budget that it keeps: how it stands where that takes no core more, or where it fits only so. Laid
        closely, the targets of a neuron may be cut apart where the plan does not cut, and take an output axon more.

    Raises
    ------
    PlacementError
        It does not fit; the error names layer, resource, need, limit and its source.
    RequestError
        `cores` is not within 1..what the profile has, or `plan` is not of this network.
    """
    placement = lay_out(network, profile, cores=cores, plan=plan)
    for overrun in placement.overruns():
        raise overrun.error()
    return placement


def lay_out(
    network: Network | QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    bits: int = DEFAULT_WEIGHT_BITS,
    plan: Sequence[Cut] = (),
) -> Placement:
    """As `place`, but for floats too (with weights of `bits` bits), and whether it fits or not.

    A neuron that no empty core can hold gets one to itself, and `Placement.overruns` says by how much it is too large.
    """
    available = profile.cores_given(cores)
    layers: Layers = network.layers
    widths = {layer.name: weight_bits(bits_of(layer, bits), profile) for layer in layers}
    closely = Placement(
        profile=profile,
        cores_available=available,
        cores_lower_bound=_lower_bound(network, profile, widths),
        weight_bits=widths,
        n_weights={layer.name: layer.weight.size for layer in layers},
        slices=_filled(layers, profile, widths),
    )
    if not plan:
        return closely
    planned = replace(closely, slices=_as_planned(layers, profile, widths, plan))
    return planned if planned.fits and (planned.cores_used <= closely.cores_used or not closely.fits) else closely


def _filled(layers: Layers, profile: HardwareProfile, widths: dict[str, int]) -> tuple[Slice, ...]:
    """One core after another filled to its limits, the last layer first."""
    core = _Core(profile, 0)
    slices: list[Slice] = []
    for layer in reversed(layers):
        filling = _Filling(layer, widths[layer.name], _target_cores(layer, layers, slices))
        stop = layer.n_neurons
        while stop > 0:
            start = core.start(filling, stop)
            if start < stop or core.is_empty:
                slices.append(core.take(filling, min(start, stop - 1), stop))
                stop = slices[-1].start
            if stop > 0:
                core = _Core(profile, core.number + 1)
    first_core_first = (replace(part, core=core.number - part.core) for part in reversed(slices))
    return tuple(sorted(first_core_first, key=lambda part: part.core))


def _as_planned(layers: Layers, profile: HardwareProfile, widths: dict[str, int], plan: Sequence[Cut]) -> tuple[Slice, ...]:
    slices: list[Slice] = []
    for layer in reversed(layers):
        cuts = sorted((start, stop, core) for name, core, start, stop in plan if name == layer.name)
        if [n for start, stop, _ in cuts for n in range(start, stop)] != list(range(layer.n_neurons)):
            raise RequestError("plan", f"does not give each neuron of layer {layer.name!r} one core")
        filling = _Filling(layer, widths[layer.name], _target_cores(layer, layers, slices))
        slices[:0] = [filling.measure(start, stop, core, profile) for start, stop, core in cuts]
    return tuple(sorted(slices, key=lambda part: part.core))


class _Filling:
    """A layer being laid out: what any run of its neurons would use."""

    def __init__(self, layer: AnyLayer, bits: int, targets: NDArray[np.int64]) -> None:
        self.name, self.n_neurons, self.bits = layer.name, layer.n_neurons, bits
        self.counts = SynapseCounts(layer)
        self._outputs = np.concatenate([[0], np.cumsum(targets)])

    def measure(self, start: int, stop: int, core: int, profile: HardwareProfile) -> Slice:
        usage = self.counts.usage(start, stop, self.bits, profile)
        output_axons = int(self._outputs[stop] - self._outputs[start])
        return Slice(layer=self.name, core=core, start=start, stop=stop, usage=usage, output_axons=output_axons)


class _Core:
    """A core being filled: what is left on it."""

    def __init__(self, profile: HardwareProfile, number: int) -> None:
        self.profile, self.number, self.is_empty = profile, number, True
        self.left = {resource: limit_of(profile, resource).number for resource in RESOURCES}

    def start(self, filling: _Filling, stop: int) -> int:
        """Where the longest run of neurons begins that ends before `stop` and still fits; `stop` where none does."""
        low, high = max(0, stop - self.left["neurons"]), stop
        while low < high:
            middle = (low + high) // 2
            part = filling.measure(middle, stop, self.number, self.profile)
            fits = all(use_of(part, resource) <= self.left[resource] for resource in RESOURCES)
            low, high = (low, middle) if fits else (middle + 1, high)
        return low

    def take(self, filling: _Filling, start: int, stop: int) -> Slice:
        part = filling.measure(start, stop, self.number, self.profile)
        self.left = {resource: left - use_of(part, resource) for resource, left in self.left.items()}
        self.is_empty = False
        return part


def _target_cores(layer: AnyLayer, layers: Layers, placed: list[Slice]) -> NDArray[np.int64]:
    """(n_neurons,): to how many cores each neuron's spikes go."""
    reached: dict[int, NDArray[np.bool_]] = {}
    for target in layers:
        if target.connections[0].source == layer.name:
            counts = SynapseCounts(target)
            for part in placed:
                if part.layer == target.name:
                    none = np.zeros(layer.n_neurons, dtype=bool)
                    reached[part.core] = reached.get(part.core, none) | counts.axons(part.start, part.stop)
    return np.sum(list(reached.values()), axis=0, dtype=np.int64) if reached else np.zeros(layer.n_neurons, dtype=np.int64)


def _lower_bound(network: Network | QuantizedNetwork, profile: HardwareProfile, widths: dict[str, int]) -> int:
    """Cores that the limits alone imply, however the layers are cut."""
    synapses = {layer.name: np.count_nonzero(layer.weight, axis=0) for layer in network}
    bits = sum(int(least_axon_bits(n, widths[name], profile).sum()) for name, n in synapses.items())
    axons = sum(int(np.count_nonzero(n)) for n in synapses.values())
    return max(
        math.ceil(network.n_neurons / profile.neurons_per_core.number),
        math.ceil(bits / profile.synapse_memory_bits_per_core.number),
        math.ceil(axons / profile.input_axons_per_core.number),
    )

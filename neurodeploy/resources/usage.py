"""Resources of a core, the usage of a slice, and regions: boxes of neurons in a layer's grid.

`neurodeploy.resources.encodings` has the formulas for synapse memory; `neurodeploy.resources.counting` measures regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.graph import INPUT, LayerGraph, Population
from neurodeploy.ir.network import Layer
from neurodeploy.ir.quantized import QuantizedLayer
from neurodeploy.resources.encodings import Formula, list_bits, weight_bits

if TYPE_CHECKING:  # counting measures regions, and needs this module
    from neurodeploy.resources.counting import LayerCount

AnyLayer: TypeAlias = "Layer | QuantizedLayer"
Layers: TypeAlias = "tuple[Layer | QuantizedLayer, ...]"
DEFAULT_WEIGHT_BITS = 8  # Loihi's widest weight

RESOURCES = (
    "neurons", "memory_bits", "synapse_memory_bits", "neuron_memory_bits", "input_axons", "output_axons", "slices", "biases",
    "synapse_formats", "neuron_profiles", "threshold_profiles",
)  # fmt: skip
"""Amounts that add up over the slices of a core. A chip limits a resource if its profile has the key ``<resource>_per_core``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Resource usage of a slice of a layer on its core, without output axons.

    Attributes
    ----------
    neurons, synapses : int
        Synapses are connected pairs of neurons; a shared weight of a convolution counts at every position.
    synapse_memory_bits : int
        In the named encoding, with all rounding, and with the axons' entries where they share the memory.
    input_axons : int
        Sources with at least one synapse here: neurons, or pixels where a convolution's lists are shared.
    encoding : str
        Names of the encodings of its connections, joined by ``+``.
    fan_in : int
        Synapses onto the neuron with the most.
    delay_steps : int
        Longest wait of a spike in one of its synapses.
    neuron_memory_bits : int
        Memory for neuron state.
    biases, synapse_formats, neuron_profiles, threshold_profiles : int
        Number of distinct ones that the slice needs on its core.
    """

    neurons: int
    synapses: int
    synapse_memory_bits: int
    input_axons: int
    encoding: str
    fan_in: int = 0
    delay_steps: int = 0
    neuron_memory_bits: int = 0
    biases: int = 0
    synapse_formats: int = 1
    neuron_profiles: int = 1
    threshold_profiles: int = 0

    def of(self, resource: str, output_axons: int, profile: HardwareProfile) -> int:
        """Usage of one of `RESOURCES` by the slice with `output_axons` (neuron, target slice) pairs."""
        match resource:
            case "output_axons":
                return output_axons
            case "slices":
                return 1
            case "memory_bits":
                # One memory for all, as on Loihi 2. Input axons are in synapse_memory_bits already.
                sent = output_axons * profile.number("output_axon_bits", 0)
                return self.synapse_memory_bits + self.neurons * profile.number("neuron_state_bits", 0) + sent
            case _:  # all others are fields of this class
                return int(getattr(self, resource))


def limited_resources(profile: HardwareProfile) -> tuple[str, ...]:
    """The `RESOURCES` that the profile limits, in their order."""
    return tuple(resource for resource in RESOURCES if profile.capacity(resource) < UNLIMITED)


def usage_vector(usage: Usage, output_axons: int, profile: HardwareProfile) -> Integers:
    """A usage in the order of `limited_resources`: (n_resources,)."""
    return np.array([usage.of(resource, output_axons, profile) for resource in limited_resources(profile)], dtype=np.int64)


def count(n_synapses: Integers, n_neurons: int, bits: int, profile: HardwareProfile) -> Usage:
    """Usage of a slice of `n_neurons` neurons with one dense or sparse connection.

    Parameters
    ----------
    n_synapses : array (n_in,)
        Synapses from each source neuron onto the slice, 0..n_neurons.
    bits : int
        Width of a weight; rounded up to one that the chip has.
    """
    memory, encoding = list_bits(n_synapses, n_neurons, Formula.of(profile, weight_bits(bits, profile)), profile)
    return Usage(
        neurons=n_neurons,
        synapses=int(np.sum(n_synapses)),
        synapse_memory_bits=memory,
        input_axons=int(np.count_nonzero(n_synapses)),
        encoding=encoding,
    )


def slice_usage(weight: NDArray[np.float64] | Integers | NDArray[np.bool_], bits: int, profile: HardwareProfile) -> Usage:
    """Usage of a slice with the weights (n_neurons, n_in); zeros are no synapses."""
    return count(np.count_nonzero(weight, axis=0), weight.shape[0], bits, profile)


def bits_of(layer: AnyLayer, default: int = DEFAULT_WEIGHT_BITS) -> int:
    """Width of the layer's weights: its own if it is quantised, `default` before."""
    return layer.weight_bits if isinstance(layer, QuantizedLayer) else default


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A box of neurons: starts[axis]..stops[axis] - 1 along each axis of a layer's grid (`grid_of`)."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def run(cls, start: int, stop: int) -> Region:
        """Neurons start..stop-1 of a layer with a grid of one axis."""
        return cls((start,), (stop,))

    @classmethod
    def whole(cls, grid: tuple[int, ...]) -> Region:
        """All of a grid."""
        return cls((0,) * len(grid), grid)

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def n_neurons(self) -> int:
        return math.prod(self.sides)

    @property
    def box(self) -> tuple[slice, ...]:
        """The region as an index into an array of the grid's shape."""
        return tuple(slice(start, stop) for start, stop in zip(self.starts, self.stops, strict=True))

    def neurons(self, grid: tuple[int, ...]) -> NDArray[np.int64]:
        """Numbers of the neurons in the layer, ascending: (n_neurons,)."""
        # Neurons are numbered in C order, as `reshape(-1)` of torch and NumPy does.
        along = [np.arange(start, stop) for start, stop in zip(self.starts, self.stops, strict=True)]
        numbers: NDArray[np.int64] = np.ravel_multi_index(np.ix_(*along), grid).reshape(-1)
        return numbers

    @property
    def words(self) -> str:
        """Text for reports: ``neurons 0..63``, ``channels 0..7, rows 0..15, columns 0..31``."""
        # Grids have one axis or three; see `grid_of`.
        names = ("neurons",) if len(self.starts) == 1 else ("channels", "rows", "columns")
        return ", ".join(f"{name} {a}..{b - 1}" for name, a, b in zip(names, self.starts, self.stops, strict=True))

    def __str__(self) -> str:
        """Python index: ``[0:64]``, ``[0:8, 0:16, 0:32]``."""
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in zip(self.starts, self.stops, strict=True)) + "]"


def grid_of(layer: Population[Any, Any]) -> tuple[int, ...]:
    """Shape in which a layer is cut: (channels, rows, columns) if a convolution leads into it, else (n_neurons,)."""
    # Pixels of a convolution share lists, so boxes of the image are its natural slices. A matrix gives the axes no meaning.
    return layer.shape if any(is_convolution(c.synapse) for c in layer.connections) else (layer.n_neurons,)


def layer_usage(
    network: LayerGraph[Any], counts: Mapping[str, LayerCount], profile: HardwareProfile
) -> dict[str, dict[str, int]]:
    """Usage under the limits that no partition into slices can change, by key of the profile, then by layer.

    Returns
    -------
    mapping
        ``"external_inputs"``: neurons of the network's input, under `INPUT`. ``"targets_per_layer"``: layers that receive
        a layer's spikes. ``"fan_out_per_neuron"``: synapses from the neuron of a layer that has most. Only keys that the
        profile states.
    """
    usage: dict[str, dict[str, int]] = {}
    if "external_inputs" in profile:
        usage["external_inputs"] = {INPUT: network.n_inputs}
    if "targets_per_layer" in profile:
        sources = [{c.source for c in layer.connections} for layer in network.layers]
        usage["targets_per_layer"] = {layer.name: sum(layer.name in each for each in sources) for layer in network.layers}
    if "fan_out_per_neuron" in profile:
        fan_out: dict[str, NDArray[np.float64]] = {}
        for count in counts.values():
            whole = Region.whole(count.grid)
            for of, n_synapses in zip(count.sources(whole), count.fan_outs(whole), strict=True):
                # Targets may number a source's neurons differently, as a row or as an image: add in the row's order.
                total, here = fan_out.setdefault(of.source, np.zeros(math.prod(of.shape))), np.zeros(of.shape)
                here[of.box.box] = n_synapses
                total += here.reshape(-1)
        # The input's axons are not neurons of the chip.
        most = {name: math.ceil(total.max() - 1e-9) for name, total in fan_out.items() if name != INPUT}
        usage["fan_out_per_neuron"] = {layer.name: most.get(layer.name, 0) for layer in network.layers}
    return usage

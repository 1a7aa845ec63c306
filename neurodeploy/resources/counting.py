"""How much of each resource any region of a layer needs.

Counted exactly, on the weights that are not zero; or in closed form, as expected if every weight survived with a given
chance, which at 1 is exact too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.graph import Connection
from neurodeploy.hardware import HardwareProfile
from neurodeploy.quantized import QuantizedLIF
from neurodeploy.resources.encodings import Formula, power_of_two, weight_bits
from neurodeploy.resources.parts import ConvPart, Counted, expected_fan_in, part_of
from neurodeploy.resources.regions import Region, grid_of
from neurodeploy.resources.usage import AnyLayer, Usage, limited, vector
from neurodeploy.resources.windows import Window
from neurodeploy.wiring import Wiring

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """The neurons of a source that a region hears: those of a box, in the source's shape, where `mask` is true."""

    source: str
    shape: tuple[int, ...]
    box: Region
    mask: NDArray[np.bool_]


class LayerCount:
    """A layer, ready to be counted on any region.

    Parameters
    ----------
    bits : int
        Width of a weight; rounded up to one that the chip has.
    connectivity : float, optional
        Count what to expect if each weight survived with this chance, 0..1; None counts the weights that are not zero.
    counted : mapping, optional
        What layers of one network share, each filling it: connections that are alike are counted once.
    waits : sequence of int, optional
        Steps that spikes wait in each connection's synapses (`neurodeploy.chip_clock.waits`); its delays alone by default.

    Raises
    ------
    BudgetError
        The chip has no weights as wide.

    Attributes
    ----------
    share : float
        Of the memory that synapses would take as they are, what `usage` counts: 1, but for plans to prune them.
    """

    def __init__(
        self,
        layer: AnyLayer,
        bits: int,
        profile: HardwareProfile,
        connectivity: float | None = None,
        counted: MutableMapping[Any, Any] | None = None,
        waits: Sequence[int] | None = None,
    ) -> None:
        self.layer, self.profile, self.connectivity, self.grid = layer, profile, connectivity, grid_of(layer)
        self.width = weight_bits(bits, profile)
        self.counted = {} if counted is None else counted
        self.waits = tuple(c.delay_steps for c in layer.connections) if waits is None else tuple(waits)
        bundled = list(_bundles(layer, self.waits))
        self._bundles = [bundle for bundle, _ in bundled]
        self._parts = [
            part_of(bundle[0].synapse, Formula.of(profile, self.width, is_delayed=steps > 0), profile, connectivity, self.counted)
            for bundle, steps in bundled
        ]
        self._state_bits = profile.number("neuron_state_bits", 0)
        self.share = 1.0
        self._used: dict[tuple[Any, ...], Usage] = {}
        self._taken: dict[tuple[Any, ...], Integers] = {}
        self._limits_profiles = {"neuron_profiles", "threshold_profiles"} & set(limited(profile))

    def usage(self, region: Region) -> Usage:
        """What a region needs on one core; regions that count alike are counted once.

        Raises
        ------
        BudgetError
            The chip has no index as long.
        """
        key = self._key(region)
        if key not in self._used:
            self._used[key] = self._counted(region)
        return self._used[key]

    def _counted(self, region: Region) -> Usage:
        counted = [
            _times(part.count(region, self.grid), len(bundle), part.formula)
            for part, bundle in zip(self._parts, self._bundles, strict=True)
        ]
        memory, axons, synapses, encodings = zip(*counted, strict=True)
        return Usage(
            neurons=region.n_neurons,
            synapses=sum(synapses),
            synapse_memory_bits=sum(memory),
            input_axons=sum(axons),
            encoding="+".join(sorted(set(encodings))),
            fan_in=math.ceil(self.fan_in()[region.box].max() - 1e-9),
            neuron_memory_bits=self._neuron_bits(region),
            biases=self._biases(region),
            synapse_formats=len(counted),
            neuron_profiles=self._profiles(region, ("du", "dv")),
            threshold_profiles=self._profiles(region, ("vth",)) if isinstance(self.layer.neuron, QuantizedLIF) else 0,
            delay_steps=max(self.waits),
        )

    def takes(self, region: Region) -> Integers:
        """(n_resources,): `usage`, in the order of `limited`, without output axons."""
        key = self._key(region)
        if key not in self._taken:
            self._taken[key] = vector(self.usage(region), 0, self.profile)
        return self._taken[key]

    def _key(self, region: Region) -> tuple[Any, ...]:
        """Equal for regions that count alike."""
        alike = (region.sides, *[part.key(region) for part in self._parts])
        return (region, *alike) if self._limits_profiles else alike

    def by_connection(self, region: Region) -> list[Counted]:
        """Memory bits, input axons, synapses and encoding of a region, connection by connection, each as if it were alone."""
        return [part.count(region, self.grid) for part, bundle in zip(self._parts, self._bundles, strict=True) for _ in bundle]

    def heard(self, region: Region) -> Iterator[Heard]:
        """What a region hears, connection by connection."""
        for bundle, part in zip(self._bundles, self._parts, strict=True):
            shape, box, mask = part.heard(region, self.grid)
            for connection in bundle:
                yield Heard(source=connection.source, shape=shape, box=box, mask=mask)

    def fan_outs(self, region: Region) -> Iterator[NDArray[Any]]:
        """Synapses onto a region of every neuron that it may hear, in the shape of `Heard.mask`, connection by connection."""
        for part, bundle in zip(self._parts, self._bundles, strict=True):
            for _ in bundle:
                yield part.fan_out(region, self.grid)

    def hears(self, region: Region) -> dict[str, int]:
        """How many neurons of each source a region hears at most: as if no weight were zero."""
        heard: dict[str, int] = {}
        for bundle, part in zip(self._bundles, self._parts, strict=True):
            n = part.hears(region, self.grid)
            for connection in bundle:
                heard[connection.source] = heard.get(connection.source, 0) + n
        return heard

    def fan_in(self) -> NDArray[np.float64]:
        """Synapses onto each neuron, in the layer's grid."""
        key = ("fan-in", *((id(part), len(bundle)) for part, bundle in zip(self._parts, self._bundles, strict=True)))
        if key not in self.counted:
            total = np.zeros(self.layer.n_neurons)
            for part, bundle in zip(self._parts, self._bundles, strict=True):
                total += expected_fan_in(part.wiring, self.connectivity) * len(bundle)
            self.counted[key] = total.reshape(self.grid)
        fan_in: NDArray[np.float64] = self.counted[key]
        return fan_in

    def bundles(self) -> list[tuple[Wiring, Formula, tuple[str, ...]]]:
        """Wirings that differ, each with how its lists are stored and with its sources."""
        return [
            (part.wiring, part.formula, tuple(connection.source for connection in bundle))
            for part, bundle in zip(self._parts, self._bundles, strict=True)
        ]

    def windows(self) -> list[tuple[Window, tuple[str, ...]]] | None:
        """The convolutions with the sources of each, where the layer has nothing else."""
        parts = [(part, tuple(c.source for c in bundle)) for part, bundle in zip(self._parts, self._bundles, strict=True)]
        found = [(part.window, sources) for part, sources in parts if isinstance(part, ConvPart)]
        return found if len(found) == len(parts) else None

    def _neuron_bits(self, region: Region) -> int:
        if "dynapcnn" in self.profile["encodings"].names and len(region.sides) == 3:
            channels, rows, columns = region.sides
            return channels * power_of_two(rows) * power_of_two(columns) * self._state_bits
        return region.n_neurons * self._state_bits

    def _biases(self, region: Region) -> int:
        return region.sides[0] if self.layer.bias.any() else 0

    def _profiles(self, region: Region, names: tuple[str, ...]) -> int:
        """Different settings of the region's neurons; 1 where nothing limits them or they are all alike."""
        arrays = [getattr(self.layer.neuron, name) for name in names if hasattr(self.layer.neuron, name)]
        arrays = [array for array in arrays if array.shape]
        if not arrays or not self._limits_profiles:
            return 1
        settings = np.stack([array.reshape(self.grid)[region.box].reshape(-1) for array in arrays])
        return int(np.unique(settings, axis=1).shape[1])


def _bundles(layer: AnyLayer, waits: Sequence[int]) -> Iterator[tuple[list[Connection[Wiring]], int]]:
    """Connections with equal synapses, as those of a sum of spikes: their axons point to the same lists, stored once.

    With each bundle come the steps that its spikes wait.
    """
    bundles: list[tuple[list[Connection[Wiring]], int]] = []
    connections: tuple[Connection[Any], ...] = layer.connections
    for connection, steps in zip(connections, waits, strict=True):
        for bundle, others in bundles:
            first = bundle[0]
            if steps == others and (first.synapse is connection.synapse or first.synapse == connection.synapse):
                bundle.append(connection)
                break
        else:
            bundles.append(([connection], steps))
    yield from bundles


def _times(counted: Counted, sources: int, formula: Formula) -> Counted:
    """What a connection takes from so many sources, whose axons point to the same lists."""
    memory, axons, synapses, encoding = counted
    return memory + (sources - 1) * axons * formula.entry, sources * axons, sources * synapses, encoding

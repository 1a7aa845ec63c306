"""Balancing of paths of different depth: spikes that skip layers wait in their synapses, or relay neurons repeat them.

On the chip every synapse takes a step, so spikes on a short path come early. Waiting costs bits for the delay in every synapse
of the connection; relays (neurons that repeat a spike a step later, each with one synapse) cost neurons, axons and
synapse lists, and serve all layers that skip from the same source. Neither changes a spike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import check_arguments, counted
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.graph import INPUT, Connection, LayerGraph, early_steps
from neurodeploy.ir.network import LIF, Conv, Layer, Network, Neuron, Sparse, SubtractiveLIF, Synapse
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLIF, QuantizedNetwork, QuantizedNeuron, QuantizedSubtractiveLIF
from neurodeploy.mapping.place import CountCache, quick_core_count
from neurodeploy.passes.quantize import quantized_kind
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import (
    AnyLayer,
    Region,
    Usage,
    bits_of,
    grid_of,
    limited_resources,
    weight_bits,
)
from neurodeploy.targets import arithmetic_named, default_weight_bits

Vector: TypeAlias = "NDArray[np.float64]"
G = TypeVar("G", bound="LayerGraph[Any]")

# Firing is strict: 2 > 1. See `SPIKE - 1` below.
SPIKE = 2
"""A relay's weight and, less one, its threshold mantissa: one spike fires it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The way in which spikes of a source that skip layers are delayed, and the cost of both ways.

    Attributes
    ----------
    source : str
    targets : tuple of str
        The layers that receive its spikes too early.
    steps : int
        Steps by which they come early, at most.
    by : "synapses" | "relays"
        Delays in the synapses of the targets, or populations in between.
    synapses_cost, relays_cost : float
        Additional cores for this source with delays, and with relays, while the other sources stay as selected. An estimate by
        the resource that is used most, before layers are cut. None where the chip's synapses cannot delay spikes that long.
    """

    source: str
    targets: tuple[str, ...]
    steps: int
    by: Literal["synapses", "relays"]
    synapses_cost: float | None
    relays_cost: float | None

    def __str__(self) -> str:
        by_relays = f"pass {counted(self.steps, 'layer')} of relay neurons"
        way, other = ("wait in their synapses", "relay neurons") if self.by == "synapses" else (by_relays, "waiting in synapses")
        costs = [self.synapses_cost, self.relays_cost]
        cost, instead = costs if self.by == "synapses" else costs[::-1]
        took = "" if cost is None else f", which takes about {cost:.2g} cores" if cost else " at no cost"
        rest = f"{other} cannot delay them that long" if instead is None else f"{other} would take {instead:.2g} cores"
        targets = ", ".join(map(repr, self.targets))
        return f"spikes from {self.source!r} reach {targets} {counted(self.steps, 'step')} too early; they {way}{took} ({rest})"


@check_arguments
def balance(
    network: G, profile: Chip, *, bits: int | None = None, counted: CountCache | None = None
) -> tuple[G, tuple[Balance, ...]]:  # fmt: skip
    """Choose, for every source whose spikes skip layers, the cheaper way to delay them; relays become layers.

    The result fires as the network does, layer by layer and step by step (`neurodeploy.ir.graph`). Sources depend on each
    other, since a sum of spikes that all wait equally long stores its synapse lists once. So one source after another is
    changed as long as the estimate falls. The result is then packed, and so are delays everywhere and relays everywhere: the
    fewest cores win.

    Parameters
    ----------
    bits : int, optional
        Width of the weights of a network in floats; the widest that the chip has by default.
    counted : dict, optional
        Filled with what is counted, for later calls with this profile, such as `lay_out`.
    """
    profile, counted = load_profile(profile), {} if counted is None else counted
    bits = default_weight_bits(profile, bits)
    steps = skips(network)
    if not steps:
        return network, ()
    costs = _Costs(network, profile, bits, steps, counted)
    none, everywhere = frozenset[str](), frozenset(steps)
    # Greedy: two starts against local optima.
    improved = min((costs.improved(start) for start in (none, everywhere)), key=costs.of)
    # Relays everywhere run on every chip: they need no delays but the network's own.
    candidates = [each for each in dict.fromkeys((improved, none, everywhere)) if costs.of(each) < np.inf] or [everywhere]
    choices = [tuple(costs.balance_of(source, each) for source in steps) for each in candidates]
    networks: list[Any] = [balanced(network, each) for each in choices]
    if len(choices) == 1:
        return networks[0], choices[0]
    cores = [quick_core_count(each, profile, bits=bits, counted=counted) for each in networks]
    best = cores.index(min(cores))
    return networks[best], choices[best]


def balanced(network: G, choices: Iterable[Balance]) -> G:
    """Return the network with the relays that `choices` name; they may come from a network with the same connections."""
    relayed = {choice.source: choice.steps for choice in choices if choice.by == "relays"}
    steps_early = early_steps(network)
    layers: list[Any] = list(_chain(network, INPUT, relayed.get(INPUT, 0)))
    for layer in network:
        connections: Any = tuple(
            replace(c, source=_name(c.source, steps)) if steps and c.source in relayed else c
            for c, steps in zip(layer.connections, steps_early[layer.name], strict=True)
        )
        layers += [replace(layer, connections=connections), *_chain(network, layer.name, relayed.get(layer.name, 0))]
    return replace(network, layers=tuple(layers)) if relayed else network


def relays_of(choices: Iterable[Balance]) -> dict[str, str]:
    """Source of each layer of relays that `choices` name: the layer, or `INPUT`, whose spikes it repeats."""
    return {
        _name(choice.source, k + 1): choice.source for choice in choices if choice.by == "relays" for k in range(choice.steps)
    }


def skips(network: LayerGraph[Any]) -> dict[str, int]:
    """Largest number of steps by which spikes of a source come early, by source; only sources with early spikes."""
    steps: dict[str, int] = dict.fromkeys((INPUT, *(layer.name for layer in network)), 0)
    for layer, of_connections in zip(network, early_steps(network).values(), strict=True):
        for connection, n in zip(layer.connections, of_connections, strict=True):
            steps[connection.source] = max(steps[connection.source], n)
    return {source: n for source, n in steps.items() if n}


# --------------------------------------------------------------------------------------------- cost of delays and relays


class _Costs:
    """Estimated usage, in cores, of the relays and of the layers that receive early spikes, before anything is cut."""

    def __init__(
        self, network: LayerGraph[Any], profile: HardwareProfile, bits: int, steps: Mapping[str, int], counted: CountCache
    ) -> None:  # fmt: skip
        self.network, self.profile, self.bits, self.steps = network, profile, bits, steps
        settings = ("slices", "biases", "synapse_formats", "neuron_profiles", "threshold_profiles")  # depend on the cut
        self.resources = [resource for resource in limited_resources(profile) if resource not in settings]
        self.capacity = np.array([max(profile.capacity(resource), 1) for resource in self.resources], dtype=np.float64)
        self.early = early_steps(network)
        self.receiving = [layer for layer in network if any(self.early[layer.name])]
        self._layers: dict[tuple[str, tuple[int, ...]], Vector] = {}
        self._counted = counted
        self.relays = {source: self._relays(source) for source in steps}

    def of(self, relayed: frozenset[str]) -> float:
        """Estimated cores of all of them; infinite where a delay is longer than the chip's synapses allow."""
        taken = self.taken(relayed)
        return np.inf if taken is None else self.cores(taken)

    def cores(self, taken: Vector) -> float:
        """Share of a core, of the resource that is used most."""
        return float((taken / self.capacity).max(initial=0.0))

    def taken(self, relayed: frozenset[str], free: str = "") -> Vector | None:
        """Usage of each resource if spikes of `relayed` sources wait in relays, and those of `free` come in time at no cost."""
        taken = np.zeros(len(self.resources))
        for layer in self.receiving:
            waits = tuple(
                c.delay_steps + (0 if c.source in relayed or c.source == free else n)
                for n, c in zip(self.early[layer.name], layer.connections, strict=True)
            )
            # One delay that the chip does not have makes the whole state impossible.
            if max(waits) > self.profile.number("max_delay_steps", UNLIMITED):
                return None
            taken += self._layer(layer, waits)
        return taken + sum((self.relays[source] for source in relayed), np.zeros(len(self.resources)))

    def improved(self, relayed: frozenset[str]) -> frozenset[str]:
        """Change one source after another as long as the estimate falls."""
        better = True
        while better:
            better = False
            for source in self.steps:
                other = relayed ^ {source}
                if self.of(other) < self.of(relayed):
                    relayed, better = other, True
        return relayed

    def balance_of(self, source: str, relayed: frozenset[str]) -> Balance:
        """Return the decision for a source if `relayed` sources have relays, with the costs of both ways."""
        # What delays or relays of this source alone add to spikes that come in time at no cost.
        at_once, delayed, passed = (
            self.taken(others, free=free)
            for others, free in ((relayed - {source}, source), (relayed - {source}, ""), (relayed | {source}, ""))
        )
        return Balance(
            source=source,
            targets=tuple(
                layer.name for layer in self.receiving
                if any(n and c.source == source for n, c in zip(self.early[layer.name], layer.connections, strict=True))
            ),
            steps=self.steps[source],
            by="relays" if source in relayed else "synapses",
            synapses_cost=None if delayed is None or at_once is None else self.cores(delayed) - self.cores(at_once),
            relays_cost=None if passed is None or at_once is None else self.cores(passed) - self.cores(at_once),
        )  # fmt: skip

    def _relays(self, source: str) -> Vector:
        """Usage of a source's relays, with an output axon more for each neuron of the source and of all relays but the last."""
        relay, n_relays = _relay(self.network, source, source, 1), self.steps[source]
        sent = (n_relays - (source == INPUT)) * relay.n_neurons  # the network's input takes no output axons
        nothing = Usage(neurons=0, synapses=0, synapse_memory_bits=0, input_axons=0, encoding="")
        return self._layer(relay, (0,)) * n_relays + self._vector(nothing, sent)

    def _layer(self, layer: AnyLayer, waits: tuple[int, ...]) -> Vector:
        """Usage of a whole layer, from a block that a core holds: the layer, halved along the cheapest side until it fits."""
        key = layer.name, waits
        if key not in self._layers:
            width = weight_bits(bits_of(layer, self.bits), self.profile)
            count = LayerCount(layer, width, self.profile, cache=self._counted, wait_steps=waits)
            addressed = 1 << max(self.profile["index_bits"].choices) if "index_bits" in self.profile.limits else UNLIMITED
            sides = grid_of(layer)
            # A block with more neurons than the widest target index addresses cannot even be counted.
            while math.prod(sides) > min(self.profile.capacity("neurons"), addressed):
                sides = min(self._halved(sides), key=max)
            # Counted: usage a neuron depends on the shape.
            while (self._piece(count, sides) > self.capacity).any() and math.prod(sides) > 1:
                sides = min(self._halved(sides), key=lambda each: self.cores(self._piece(count, each) / math.prod(each)))
            self._layers[key] = self._piece(count, sides) * (layer.n_neurons / math.prod(sides))
        return self._layers[key]

    @staticmethod
    def _halved(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The block with each of its sides halved in turn."""
        return [(*sides[:axis], -(-side // 2), *sides[axis + 1 :]) for axis, side in enumerate(sides) if side > 1]

    def _piece(self, count: LayerCount, sides: tuple[int, ...]) -> Vector:
        return self._vector(count.usage(Region((0,) * len(sides), sides)), 0)

    def _vector(self, usage: Usage, output_axons: int) -> Vector:
        return np.array([usage.of(resource, output_axons, self.profile) for resource in self.resources], dtype=np.float64)


# ---------------------------------------------------------------------------------------------- relays as layers


def _chain(network: LayerGraph[Any], source: str, n_relays: int) -> Iterator[AnyLayer]:
    for k in range(1, n_relays + 1):
        yield _relay(network, source, source if k == 1 else _name(source, k - 1), k)


def _name(source: str, k: int) -> str:
    return f"{source}.relay{k}"


def _relay(network: LayerGraph[Any], source: str, source_name: str, k: int) -> AnyLayer:
    """A population that fires what `source_name` fires, in the shape of `source`."""
    shape = network.input_shape if source == INPUT else network[source].shape
    name, synapse = _name(source, k), _one_to_one(shape)
    # most spikes of neurons that fire several a step, which a relay fires as often; None for others
    several: Integers | None = None if source == INPUT else getattr(network[source].neuron, "max_spikes", None)
    if isinstance(network, Network):
        one, zero = np.ones(()), np.zeros(())
        # Decays of 1: a relay remembers nothing, so one spike in is one spike out.
        memoryless = {"current_decay": one, "voltage_decay": one, "rest": zero}
        neuron: Neuron = LIF(threshold=one / 2, **memoryless)
        if several is not None:
            neuron = SubtractiveLIF(threshold=one, max_spikes=several, **memoryless)
        connection: Connection[Synapse] = Connection(source=source_name, synapse=synapse, is_fixed=True)
        return Layer(name=name, shape=shape, neuron=neuron, connections=(connection,), bias=zero)
    wiring: dict[str, Any] = {f.name: getattr(synapse, f.name) for f in fields(synapse)}
    wiring |= {"weight": np.full(synapse.weight.shape, SPIKE), "weight_bits": SPIKE.bit_length()}
    integers = quantized_kind(synapse)(**wiring)
    assert isinstance(network, QuantizedNetwork)
    forgets_all = arithmetic_named(network.target).decay_registers(np.ones(()))  # the target's register for a decay of 1
    registers: QuantizedNeuron = QuantizedLIF(vth=np.array(SPIKE - 1), du=forgets_all, dv=forgets_all)
    if several is not None:
        registers = QuantizedSubtractiveLIF(vth=np.array(SPIKE), du=forgets_all, dv=forgets_all, max_spikes=several)
    return QuantizedLayer(
        name=name, shape=shape, neuron=registers,
        connections=(Connection(source=source_name, synapse=integers),), bias=np.zeros(()), scale=np.array(float(SPIKE)),
    )  # fmt: skip


def _one_to_one(shape: tuple[int, ...]) -> Conv | Sparse:
    """A synapse from each neuron to its counterpart: a window of one pixel and channel for images, whose lists are shared."""
    n = int(np.prod(shape))
    if len(shape) == 3:
        return Conv(weight=np.ones((shape[0], 1, 1, 1)), input_shape=shape, groups=shape[0])
    return Sparse(weight=np.ones(n), n_in=n, starts=np.arange(n + 1), sources=np.arange(n, dtype=np.int32))

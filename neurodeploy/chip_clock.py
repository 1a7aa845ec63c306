"""When layers answer on the chip, where every synapse takes a step, and how long spikes have to wait there for others.

On the network's own clock a layer answers the input of the same step. On the chip it does so as many steps later as there are
synapses on the longest path to it. A connection that skips layers is that much too early: its spikes wait in the synapse.
A neuron that brings a bias hears nobody: it begins when the input does, and nothing has to wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from neurodeploy.graph import INPUT, Population


def depths(layers: Iterable[Population[Any, Any]]) -> dict[str, int]:
    """Synapses on the longest path from the input to each layer; 0 for the input itself, and for what begins when it does."""
    layers, depth = tuple(layers), {INPUT: 0}
    beside = sum(any(c.source == INPUT for c in layer.connections) for layer in layers) > 1
    for layer in layers:
        longest = 1 + max((depth[c.source] for c in layer.connections if c.source != layer.name), default=0)
        depth[layer.name] = 0 if beside and _hears_nobody(layer) else longest
    return depth


def constant(layers: Iterable[Population[Any, Any]]) -> frozenset[str]:
    """The layers that hear nobody and begin when the input does: neurons that bring biases."""
    return frozenset(name for name, depth in depths(layers).items() if depth == 0 and name != INPUT)


def _hears_nobody(layer: Population[Any, Any]) -> bool:
    """Whether a layer stands where the input is heard, and has no synapse from it."""
    return all(c.source == INPUT for c in layer.connections) and not any(c.synapse.weight.any() for c in layer.connections)


def early(layers: Iterable[Population[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """Steps by which the spikes of each connection of each layer come before those of the longest path to it."""
    layers = tuple(layers)
    depth = depths(layers)
    return {
        layer.name: tuple(
            0 if c.source == layer.name else max(depth[layer.name] - depth[c.source] - 1, 0) for c in layer.connections
        )
        for layer in layers
    }


def waits(layers: Iterable[Population[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """Steps that spikes wait in each connection of each layer, beyond the one that every synapse takes: delayed, or early."""
    layers = tuple(layers)
    delays = {layer.name: [c.delay_steps for c in layer.connections] for layer in layers}
    return {name: tuple(map(sum, zip(steps, delays[name], strict=True))) for name, steps in early(layers).items()}

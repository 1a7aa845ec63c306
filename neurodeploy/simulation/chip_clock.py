"""When layers answer on the chip, where every synapse takes a step, and how long spikes have to wait there for others.

On the network's own clock a layer answers the input of the same step. On the chip it does so as many steps later as there are
synapses on the longest path to it. A connection that skips layers is that much too early: its spikes wait in the synapse.
"""

from __future__ import annotations

from neurodeploy.errors import SimulationError
from neurodeploy.graph import INPUT
from neurodeploy.quantized import QuantizedNetwork

WAIT_MAX = 63
"""Six bits (proc/dense/models.py: PyDelayDenseModelBitAcc)."""


def depths(network: QuantizedNetwork) -> dict[str, int]:
    """Synapses on the longest path from the input to each layer; 0 for the input itself."""
    depth = {INPUT: 0}
    for layer in network:
        depth[layer.name] = 1 + max((depth[c.source] for c in layer.connections if c.source != layer.name), default=0)
    return depth


def waits(network: QuantizedNetwork) -> dict[str, tuple[int, ...]]:
    """Steps that spikes wait in each connection of each layer beyond the one that every synapse takes.

    Raises
    ------
    SimulationError
        Longer than a synapse can hold them.
    """
    depth = depths(network)
    waiting = {}
    for layer in network:
        early = [0 if c.source == layer.name else depth[layer.name] - depth[c.source] - 1 for c in layer.connections]
        waiting[layer.name] = tuple(n + c.delay_steps for n, c in zip(early, layer.connections, strict=True))
        for steps, n, connection in zip(waiting[layer.name], early, layer.connections, strict=True):
            if steps > WAIT_MAX:
                raise SimulationError(
                    f"layer {layer.name!r}",
                    f"steps for which spikes from {connection.source!r} wait in a synapse, {n} of them for longer paths",
                    need=steps, limit=WAIT_MAX, source="lava-nc 0.10 proc/dense/models.py",
                    remedy="Shorten the delay, or take the emulator, which gives the same spikes.",
                )  # fmt: skip
    return waiting

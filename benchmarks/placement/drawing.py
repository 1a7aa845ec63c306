"""How a network is drawn when only its architecture counts: random integers from a seed, layer after layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSynapse,
)

Connectivity: TypeAlias = "float | Mapping[str, float]"
"""Share of the weights that exist, 0..1: one for all layers, or one by a layer's name."""

Sources: TypeAlias = "tuple[str, ...]"
"""Layers whose spikes are added up; whoever hears the sum has one connection from each, of equal weights."""

FORGETS = 4096
"""The decay after which nothing is left."""


def even_weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int = 8, connectivity: float = 1.0) -> NDArray[np.int16]:
    """Weights of both signs, none of them zero but those left out, as the chip stores them in so many bits.

    The lowest of 9 bits is the sign, so 8 bits hold the even numbers in -256..254, 7 bits every second of them, and so on.
    """
    half = 1 << (bits - 1)
    steps = rng.integers(-half, half - 1, size=shape, dtype=np.int16)
    steps += steps >= 0
    weight = steps * np.int16(256 // half)
    missing = weight.size - round(weight.size * connectivity)
    if missing:
        lots = rng.random(weight.size, dtype=np.float32)
        weight.reshape(-1)[np.argpartition(lots, missing - 1)[:missing]] = 0
    if weight.size and weight.max() <= 0:  # then the chip stores no sign, and its lowest is one less
        np.maximum(weight, 256 // half - 256, out=weight)
    return weight


def folded(weight: NDArray[Any], pool: int) -> NDArray[Any]:
    """The kernel that sees the image before a pool x pool average as `weight` sees it afterwards, times pool * pool.

    A convolution of averages (kernel k, stride s, padding p) is one of what was averaged (k * pool, s * pool, p * pool), with
    each weight once for each pixel of its average. The threshold takes the factor: integers stay exact. `pool` divides the sides.
    """
    return np.repeat(np.repeat(weight, pool, axis=2), pool, axis=3)


class Drawing:
    """Layers drawn so far; each method adds one and returns what to hear it by.

    Parameters
    ----------
    input_shape : tuple of int
    seed : int
    connectivity : float or mapping
    weight_bits : int
        Sign included, 2..8.
    """

    def __init__(
        self, input_shape: tuple[int, ...], *, seed: int, connectivity: Connectivity = 1.0, weight_bits: int = 8
    ) -> None:
        self.layers: list[QuantizedLayer] = []
        self.shapes: dict[str, tuple[int, ...]] = {INPUT: input_shape}
        self._rng = np.random.default_rng(seed)
        self._connectivity = connectivity
        self._bits = weight_bits

    def network(self) -> QuantizedNetwork:
        return QuantizedNetwork(input_shape=self.shapes[INPUT], layers=tuple(self.layers))

    def conv(
        self, name: str, heard: Sources, channels: int, *, kernel: int = 3, stride: int = 1, padding: int = 1, pool: int = 1,
        shortcut: Sources = (), fires: bool = True,
    ) -> Sources:  # fmt: skip
        """A convolution of the sum of `heard`, averaged over pool x pool pixels first.

        `shortcut` is added to what it gives: through a 1 x 1 convolution where channels or sides differ, else pixel onto pixel.
        """
        synapse = self._conv(name, heard, channels, kernel=kernel, stride=stride, padding=padding, pool=pool)
        connections = self._connections(heard, synapse)
        if shortcut:
            c, rows = self.shapes[shortcut[0]][:2]
            if (c, rows) == synapse.output_shape[:2]:
                ones = np.full((c, 1, 1, 1), 64)
                across = QuantizedConv(weight=ones, input_shape=self._image(shortcut), groups=c, weight_bits=self._bits)
            else:
                step = rows // synapse.output_shape[1]
                across = self._conv(name, shortcut, channels, kernel=1, stride=step, padding=0)
            connections += self._connections(shortcut, across)
        return self._add(name, synapse.output_shape, connections, self._neuron(synapse, fires))

    def dense(self, name: str, heard: Sources, neurons: int, *, fires: bool = True) -> Sources:
        """All to all, from the sum of `heard`."""
        n_in = int(np.prod(self.shapes[heard[0]]))
        weight = even_weights(self._rng, (neurons, n_in), self._bits, self._share(name))
        synapse = QuantizedDense(weight=weight, weight_bits=self._bits)
        return self._add(name, (neurons,), self._connections(heard, synapse), self._neuron(synapse, fires))

    def max_pool(self, name: str, heard: Sources, size: int, *, stride: int, padding: int = 0) -> Sources:
        """The maximum of spikes, which is their OR: neurons without memory that fire when any of their window does."""
        image = self._image(heard)
        ones = np.ones((image[0], 1, size, size), dtype=np.int16)
        synapse = QuantizedConv(
            weight=ones, input_shape=image, stride=(stride, stride), padding=(padding, padding), groups=image[0], weight_bits=1
        )
        neuron = QuantizedLIF(vth=np.array(0), du=np.array(FORGETS), dv=np.array(FORGETS))
        return self._add(name, synapse.output_shape, self._connections(heard, synapse), neuron)

    def _conv(
        self, name: str, heard: Sources, channels: int, *, kernel: int, stride: int, padding: int, pool: int = 1
    ) -> QuantizedConv:
        image = self._image(heard)
        weight = even_weights(self._rng, (channels, image[0], kernel, kernel), self._bits, self._share(name))
        return QuantizedConv(
            weight=folded(weight, pool), input_shape=image, stride=(stride * pool, stride * pool),
            padding=(padding * pool, padding * pool), weight_bits=self._bits,
        )  # fmt: skip

    def _image(self, heard: Sources) -> tuple[int, int, int]:
        channels, rows, columns = self.shapes[heard[0]]
        return channels, rows, columns

    def _share(self, name: str) -> float:
        return self._connectivity[name] if isinstance(self._connectivity, Mapping) else self._connectivity

    def _neuron(self, synapse: QuantizedConv | QuantizedDense, fires: bool) -> QuantizedNeuron:
        """An LIF with a threshold of one standard deviation of what it hears when a tenth of its sources fire, or an LI."""
        du, dv = np.array(FORGETS), np.array(FORGETS // 2)
        if not fires:
            return QuantizedLI(du=du, dv=dv)
        heard = np.count_nonzero(synapse.weight) / synapse.weight.shape[0]
        return QuantizedLIF(vth=np.array(round(148 * np.sqrt(0.1 * heard))), du=du, dv=dv)

    @staticmethod
    def _connections(heard: Sources, synapse: QuantizedSynapse) -> tuple[Connection[QuantizedSynapse], ...]:
        return tuple(Connection(source=source, synapse=synapse) for source in heard)

    def _add(
        self, name: str, shape: tuple[int, ...], connections: tuple[Connection[QuantizedSynapse], ...], neuron: QuantizedNeuron
    ) -> Sources:
        layer = QuantizedLayer(
            name=name, shape=shape, neuron=neuron, connections=connections, bias=np.array(0), scale=np.array(0.0)
        )
        self.layers.append(layer)
        self.shapes[name] = shape
        return (name,)

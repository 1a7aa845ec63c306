"""What the spikes of many steps add up to behind a synapse: weights times spikes, whatever the wiring.

What the network means: the recurrence of `neurodeploy.ir.network` in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.network import LIF, Layer, Network
from neurodeploy.simulation.execution import Run, Stage
from neurodeploy.simulation.records import Recorded, SpikeRecord, recorded_layers

# -------------------- simulation.products

Product: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"
"""From spikes (n, n_in) to what arrives at the neurons, (n, n_out)."""

Number: TypeAlias = "type[np.float32] | type[np.float64]"

PATCHES_AT_ONCE = 1 << 20
"""So many numbers of the image are laid out for a convolution at a time."""


def product_of(synapse: DenseWiring | SparseWiring | ConvWiring, number: Number) -> Product:
    """How spikes pass a synapse, in a type of number.

    Each is a matrix product, which adds up in some order or other: the sums of whole numbers are exact as long as none of
    them leaves what `number` tells apart. Convolutions take no shorter way (Winograd, Fourier), which would round.
    """
    if isinstance(synapse, ConvWiring):
        return _convolution(synapse, number)
    if isinstance(synapse, SparseWiring):
        return _sparse(synapse, number)
    transposed: NDArray[Any] = np.ascontiguousarray(synapse.weight.T, dtype=number)
    return lambda spikes: np.matmul(spikes.astype(number), transposed)


def _sparse(synapse: SparseWiring, number: Number) -> Product:
    matrix = csr_matrix((synapse.weight.astype(number), synapse.sources, synapse.starts), shape=(synapse.n_out, synapse.n_in))

    def product(spikes: NDArray[Any]) -> NDArray[Any]:
        arriving: NDArray[Any] = matrix.dot(spikes.T.astype(number, order="C"))
        return np.ascontiguousarray(arriving.T)

    return product


def _convolution(synapse: ConvWiring, number: Number) -> Product:
    """A matrix product with the patches of the image that the window lies on ("im2col")."""
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    kernels = synapse.weight.reshape(groups, f // groups, c * height * width).astype(number)
    _, rows, columns = synapse.output_shape
    at_once = max(1, PATCHES_AT_ONCE // (groups * c * height * width * rows * columns))
    (p, q), (y, x), (i, j) = synapse.padding, synapse.stride, synapse.dilation
    window = (i * (height - 1) + 1, j * (width - 1) + 1)

    def some(spikes: NDArray[Any]) -> NDArray[Any]:
        images = np.pad(spikes.reshape(-1, *synapse.input_shape), ((0, 0), (0, 0), (p, p), (q, q)))
        rows_of_windows = sliding_window_view(images, window[0], 2)
        places = sliding_window_view(rows_of_windows, window[1], 3)[:, :, ::y, ::x, ::i, ::j].transpose(0, 1, 4, 5, 2, 3)
        patches = places.astype(number, order="C").reshape(-1, groups, c * height * width, rows * columns)
        arriving: NDArray[Any] = np.matmul(kernels, patches)
        return arriving.reshape(len(spikes), synapse.n_out)

    def product(spikes: NDArray[Any]) -> NDArray[Any]:
        arriving = np.empty((len(spikes), synapse.n_out), dtype=number)
        for start in range(0, len(spikes), at_once):
            arriving[start : start + at_once] = some(spikes[start : start + at_once])
        return arriving

    return product


# -------------------- simulation.reference


class _FloatNeurons:
    """The state of a layer in floats; membranes are told as the model has them, with `rest` added."""

    def __init__(self, layer: Layer, batch: int) -> None:
        self.neuron, self.bias = layer.neuron, layer.bias
        self._u, self._v = np.zeros((batch, layer.n_neurons)), np.zeros((batch, layer.n_neurons))

    def answer(self, arriving: NDArray[Any], fired: NDArray[np.uint8], v: NDArray[Any] | None) -> None:
        neuron, n = self.neuron, arriving.shape[-1]
        for t, sums in enumerate(arriving):
            self._u = (1 - neuron.current_decay) * self._u + sums
            self._v = (1 - neuron.voltage_decay) * self._v + self._u + self.bias
            if isinstance(neuron, LIF):
                fires = self._v > neuron.threshold
                self._v[fires] = 0.0
                fired[t, :, :n] = fires
            if v is not None:
                v[t] = self._v + neuron.rest
        arriving[...] = 0


class _FloatSynapses:
    """A connection's synapses in floats."""

    def __init__(self, product: Product, n_in: int) -> None:
        self.product, self.n_in = product, n_in

    def add(self, spikes: NDArray[Any], arriving: NDArray[Any]) -> None:
        arriving += self.product(spikes[:, : self.n_in])


def run_reference(network: Network, spikes: NDArray[Any], *, record: Recorded = "output") -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.targets.simulate.simulate`, which checks what it is given.

    Membranes are recorded as the model has them, with `rest` added.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), 0 or 1, or graded: whole numbers
    """
    stages = []
    for layer in network:
        synapses = [_FloatSynapses(product_of(c.synapse, np.float64), c.synapse.n_in) for c in layer.connections]
        stages.append(Stage(layer, _FloatNeurons(layer, len(spikes)), tuple(synapses), np.float64))
    recorded = recorded_layers(network, record)
    run = Run(network, stages, len(spikes), recorded=recorded, membrane=np.float64, given=spikes.dtype.type)
    fired, v = run.advance(spikes)
    return SpikeRecord(end="reference", spikes=fired, v=v)

"""Reference simulation in double precision: the recurrence of `neurodeploy.ir.network`, and synapses as matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring, Wiring
from neurodeploy.ir.network import LI, LIF, Layer, Network, SubtractiveLIF
from neurodeploy.simulation.layer_schedule import NetworkRun, ReadyLayer
from neurodeploy.simulation.records import Recorded, SpikeRecord, recorded_layers

# ---------------------------------------------------------------------------------------------- synapses

Product: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"
"""From spikes (n, n_in) to the weighted sums (n, n_out)."""

Number: TypeAlias = "type[np.float32] | type[np.float64]"

PATCH_VALUES = 1 << 20
"""Values of image patches that a convolution unfolds at a time: eight megabytes in double precision."""


def product_of(synapse: Wiring, number: Number) -> Product:
    """Return a function that multiplies spikes by the weights of a synapse, in floats of type `number`.

    All kinds are matrix products, whose order of additions is free: sums of whole numbers are exact as long as every partial sum
    fits the mantissa of `number`. Convolutions use no Winograd or Fourier transform, which would round.
    """
    match synapse:
        case DenseWiring():
            transposed: NDArray[Any] = np.ascontiguousarray(synapse.weight.T, dtype=number)
            return lambda spikes: np.matmul(spikes.astype(number), transposed)
        case SparseWiring():
            matrix = synapse.csr().astype(number)
            # SciPy multiplies from the left only, so the rows of spikes go in, and the sums come out, transposed.
            return lambda spikes: np.ascontiguousarray(matrix.dot(spikes.T.astype(number, order="C")).T)
        case ConvWiring():
            return _convolution(synapse, number)
        case _:
            raise unsupported_kind(synapse)


def _convolution(synapse: ConvWiring, number: Number) -> Product:
    """Unfold the image into patches, one a window, and multiply them by the weights ("im2col")."""
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    kernels = synapse.weight.reshape(groups, f // groups, c * height * width).astype(number)
    _, rows, columns = synapse.output_shape
    images_per_block = max(1, PATCH_VALUES // (groups * c * height * width * rows * columns))
    (p, q), (y, x), (i, j) = synapse.padding, synapse.stride, synapse.dilation
    # Rows and columns that a dilated window covers.
    window = (i * (height - 1) + 1, j * (width - 1) + 1)

    def block(spikes: NDArray[Any]) -> NDArray[Any]:
        images = np.pad(spikes.reshape(-1, *synapse.input_shape), ((0, 0), (0, 0), (p, p), (q, q)))
        # Views: nothing is copied before `astype`. Strides then leave out windows, dilations pixels of a window.
        row_windows = sliding_window_view(images, window[0], 2)
        windows = sliding_window_view(row_windows, window[1], 3)[:, :, ::y, ::x, ::i, ::j].transpose(0, 1, 4, 5, 2, 3)
        patches = windows.astype(number, order="C").reshape(-1, groups, c * height * width, rows * columns)
        sums: NDArray[Any] = np.matmul(kernels, patches)
        return sums.reshape(len(spikes), synapse.n_out)

    def product(spikes: NDArray[Any]) -> NDArray[Any]:
        sums = np.empty((len(spikes), synapse.n_out), dtype=number)
        for start in range(0, len(spikes), images_per_block):
            sums[start : start + images_per_block] = block(spikes[start : start + images_per_block])
        return sums

    return product


class FloatSynapses:
    """Synapses of a connection as a `SynapseKernel` in double precision."""

    def __init__(self, product: Product, n_in: int) -> None:
        self.product, self.n_in = product, n_in

    def add(self, spikes: NDArray[Any], inputs: NDArray[Any]) -> None:
        inputs += self.product(spikes[:, : self.n_in])  # rows of spikes are padded to whole words


# ---------------------------------------------------------------------------------------------- neurons


class FloatNeurons:
    """State of a layer in floats, arrays (batch, n): current u, and membrane v relative to the model's resting potential."""

    def __init__(self, layer: Layer, batch: int, *, keeps_largest: bool = False) -> None:
        self.neuron, self.bias = layer.neuron, layer.bias
        self.keeps_largest, self.largest = keeps_largest, 0.0
        self._u, self._v = np.zeros((batch, layer.n_neurons)), np.zeros((batch, layer.n_neurons))

    def step(self, inputs: NDArray[Any], fired: NDArray[np.uint8], v: NDArray[Any] | None) -> None:
        neuron, n = self.neuron, inputs.shape[-1]
        for t, weighted in enumerate(inputs):
            # u before v: the membrane takes the current of the same step, as on the chip.
            self._u = (1 - neuron.current_decay) * self._u + weighted
            self._v = (1 - neuron.voltage_decay) * self._v + self._u + self.bias
            if self.keeps_largest:  # before the reset: the register holds this too
                self.largest = max(self.largest, float(np.abs(self._u).max()), float(np.abs(self._v).max()))
            match neuron:
                case LIF():
                    fires = self._v > neuron.threshold
                    self._v[fires] = 0.0  # recorded after the reset, as Lava records it
                    fired[t, :, :n] = fires
                case SubtractiveLIF(threshold=threshold, max_spikes=max_spikes):
                    n_spikes = np.clip(np.floor(self._v / threshold), 0, max_spikes)
                    self._v -= n_spikes * threshold
                    fired[t, :, :n] = n_spikes
                case LI():
                    pass  # it is read, and never fires
                case _:
                    raise unsupported_kind(neuron)
            if v is not None:
                v[t] = self._v + neuron.rest
        inputs[...] = 0  # the accumulator goes back to the `ScratchPool`, which lends zeros


def run_reference(network: Network, spikes: NDArray[Any], *, record: Recorded = "output") -> SpikeRecord:
    """Run each sample from rest; `neurodeploy.targets.simulate.simulate` is the entry that checks its arguments.

    Membranes are recorded as the model has them, with `rest` added.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), 0 or 1, or graded: whole numbers
    """
    neurons = [FloatNeurons(layer, len(spikes)) for layer in network]
    fired, v = _run(network, neurons, spikes, record)
    return SpikeRecord(end="reference", spikes=fired, v=v)


def largest_states(network: Network, spikes: NDArray[Any]) -> dict[str, float]:
    """Run samples as `run_reference` does; return the largest size of u or v of each layer, before resets, without `rest`."""
    neurons = [FloatNeurons(layer, len(spikes), keeps_largest=True) for layer in network]
    _run(network, neurons, spikes, "output")
    return {layer.name: one.largest for layer, one in zip(network, neurons, strict=True)}


def _run(network: Network, neurons: list[FloatNeurons], spikes: NDArray[Any], record: Recorded) -> tuple[Any, Any]:
    layers = []
    for layer, state in zip(network, neurons, strict=True):
        synapses = [FloatSynapses(product_of(c.synapse, np.float64), c.synapse.n_in) for c in layer.connections]
        layers.append(ReadyLayer(layer, state, tuple(synapses), np.float64))
    recorded, number = recorded_layers(network, record), spikes.dtype.type
    run = NetworkRun(network, layers, len(spikes), recorded=recorded, membrane=np.float64, input_number=number)
    return run.advance(spikes)

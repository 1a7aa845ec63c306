"""What the network means: the recurrence of `neurodeploy.network` in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.network import LIF, Layer, Network
from neurodeploy.records import Recorded, SpikeRecord, recorded_layers
from neurodeploy.simulation.clock import Run, Stage
from neurodeploy.simulation.products import Product, product_of


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
    """Run each sample from rest; see `neurodeploy.simulation.simulate`, which checks what it is given.

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

"""What the network means: the recurrence of `neurodeploy.network` in double precision."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurodeploy.network import LIF, Layer, Network
from neurodeploy.records import SpikeRecord
from neurodeploy.simulation.clock import Stage, run_stages


class _FloatNeurons:
    """The state of a layer in floats; `v` is the membrane as the model has it, with `rest` added."""

    def __init__(self, layer: Layer, batch: int) -> None:
        self.neuron, self.bias = layer.neuron, layer.bias
        self._u, self._v = np.zeros((batch, layer.n_neurons)), np.zeros((batch, layer.n_neurons))
        self.v: NDArray[Any] = self._v

    def step(self, arriving: NDArray[Any]) -> NDArray[np.bool_]:
        """The spikes (batch, n) of the step."""
        neuron = self.neuron
        self._u = (1 - neuron.current_decay) * self._u + arriving
        self._v = (1 - neuron.voltage_decay) * self._v + self._u + self.bias
        fired = np.zeros(self._v.shape, dtype=bool)
        if isinstance(neuron, LIF):
            fired = self._v > neuron.threshold
            self._v[fired] = 0.0
        self.v = self._v + neuron.rest
        return fired


def run_reference(network: Network, spikes: NDArray[np.uint8], *, record: Literal["output", "all"] = "output") -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.simulation.simulate`, which checks what it is given.

    Membranes are recorded as the model has them, with `rest` added.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), uint8, 0 or 1
    """
    stages = [Stage(layer, _FloatNeurons(layer, len(spikes)), np.float64) for layer in network]
    fired, v = run_stages(network, stages, spikes, record=record, membrane=np.float64)
    return SpikeRecord(end="reference", spikes=fired, v=v)

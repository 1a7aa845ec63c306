"""What the network means: the recurrence of `neurodeploy.network` in double precision."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neurodeploy.network import LIF, Network
from neurodeploy.records import SpikeRecord, samples_first


def run_reference(network: Network, spikes: NDArray[np.uint8], *, record: Literal["output", "all"] = "output") -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.simulation.simulate`, which checks what it is given.

    Membranes are recorded as the model has them, with `rest` added.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), uint8, 0 or 1
    """
    batch, n_steps = spikes.shape[0], spikes.shape[-1]
    passing = np.moveaxis(spikes.reshape(batch, -1, n_steps), -1, 0).astype(np.float64)
    fired_by, membrane_of = {}, {}
    for layer in network:
        neuron = layer.neuron
        arriving = passing @ layer.weight.T  # all steps in one product: (n_steps, batch, n_neurons)
        u, v = np.zeros((batch, layer.n_neurons)), np.zeros((batch, layer.n_neurons))
        passing, membrane = np.zeros(arriving.shape), np.zeros(arriving.shape)
        for t in range(n_steps):
            u = (1 - neuron.current_decay) * u + arriving[t]
            v = (1 - neuron.voltage_decay) * v + u + layer.bias
            if isinstance(neuron, LIF):
                passing[t] = v > neuron.threshold
                v = np.where(passing[t] > 0, 0.0, v)
            membrane[t] = v + neuron.rest
        if record == "all" or layer is network.output:
            fired_by[layer.name] = samples_first(passing.astype(np.uint8), layer.shape)
            membrane_of[layer.name] = samples_first(membrane, layer.shape)
    return SpikeRecord(end="reference", spikes=fired_by, v=membrane_of)

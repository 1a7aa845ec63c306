"""What the chip would do: every layer in its own integers, bit for bit as Lava's simulator."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import SimulationError
from neurodeploy.fixedpoint import MANTISSA_SHIFT, STATE_MAX, decayed, saturated, wrapped
from neurodeploy.quantized import QuantizedLayer, QuantizedLIF, QuantizedNetwork
from neurodeploy.records import SpikeRecord, samples_first

Integers = NDArray[np.int64]


class _Population:
    """The state of a layer, for a batch of samples at once, and the step that moves it on."""

    def __init__(self, layer: QuantizedLayer, batch: int) -> None:
        neuron, magnitudes = layer.neuron, np.abs(layer.weight).sum(axis=1)
        if magnitudes.max(initial=0) << MANTISSA_SHIFT >= 1 << 31:
            raise SimulationError(
                f"layer {layer.name!r}", "its weights can add up to more than Lava's 32-bit accumulator holds",
                remedy="Give its neurons fewer synapses.",
            )  # fmt: skip
        exact = np.float32 if magnitudes.max(initial=0) < 1 << 24 else np.float64  # every partial sum is a whole number below
        self.weight: NDArray[Any] = layer.weight.T.astype(exact)
        self.du, self.dv, self.bias = neuron.du, neuron.dv, layer.bias << MANTISSA_SHIFT
        self.threshold = neuron.vth << MANTISSA_SHIFT if isinstance(neuron, QuantizedLIF) else None
        self.u = np.zeros((batch, layer.n_neurons), dtype=np.int64)
        self.v = np.zeros_like(self.u)
        self.overflows = 0

    def step(self, spikes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Spikes (batch, n_in) of this step to spikes (batch, n_neurons) of the same."""
        arriving = (spikes.astype(self.weight.dtype) @ self.weight).astype(np.int64)
        current = decayed(self.u, self.du) + (arriving << MANTISSA_SHIFT)
        self.u = wrapped(current)
        voltage = decayed(self.v, self.dv) + self.u + self.bias
        self.v = saturated(voltage)
        self.overflows += int(np.count_nonzero(self.u != current) + np.count_nonzero(np.abs(voltage) >= STATE_MAX))
        if self.threshold is None:
            return np.zeros(self.v.shape, dtype=bool)
        fired = self.v > self.threshold
        self.v[fired] = 0
        return fired


def run_emulator(
    network: QuantizedNetwork, spikes: NDArray[np.uint8], *, record: Literal["output", "all"] = "output"
) -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.simulation.simulate`, which checks what it is given.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), uint8, 0 or 1
    """
    batch, n_steps = spikes.shape[0], spikes.shape[-1]
    inputs = np.moveaxis(spikes.reshape(batch, -1, n_steps).astype(bool), -1, 0)
    populations = [_Population(layer, batch) for layer in network]
    first = 0 if record == "all" else len(populations) - 1
    recorded = network.layers[first:]
    fired = [np.zeros((n_steps, batch, layer.n_neurons), dtype=np.uint8) for layer in recorded]
    membranes = [np.zeros((n_steps, batch, layer.n_neurons), dtype=np.int32) for layer in recorded]
    for t, passing in enumerate(inputs):
        for k, population in enumerate(populations, start=-first):
            passing = population.step(passing)
            if k >= 0:
                fired[k][t], membranes[k][t] = passing, population.v
    return SpikeRecord(
        end="emulator",
        spikes={layer.name: samples_first(a, layer.shape) for layer, a in zip(recorded, fired, strict=True)},
        v={layer.name: samples_first(a, layer.shape) for layer, a in zip(recorded, membranes, strict=True)},
        overflows={layer.name: p.overflows for layer, p in zip(network, populations, strict=True)},
    )

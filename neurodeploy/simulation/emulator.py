"""What the chip would do: every layer in its own integers, bit for bit as Lava's simulator."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import SimulationError
from neurodeploy.fixedpoint import MANTISSA_SHIFT, STATE_MAX, decayed, saturated, wrapped
from neurodeploy.quantized import QuantizedConv, QuantizedLayer, QuantizedLIF, QuantizedNetwork
from neurodeploy.records import SpikeRecord
from neurodeploy.simulation.clock import Stage, run_stages
from neurodeploy.simulation.products import Number

ACCUMULATOR_MAX = ((1 << 31) - 1 - STATE_MAX) >> MANTISSA_SHIFT
"""What may arrive at a neuron: shifted left and added to a current of 24 bits, it stays within Lava's 32 (proc/lif/models.py)."""
CONVOLUTION_MAX = (1 << 23) - 1
"""What may arrive through a convolution: Lava holds it in 24 bits (proc/conv/models.py: PyConvModelFixed)."""


class _IntegerNeurons:
    """The state of a layer in the chip's integers, held in doubles: one multiplication is a decay then."""

    def __init__(self, layer: QuantizedLayer, batch: int) -> None:
        neuron = layer.neuron
        self.du, self.dv, self.bias = neuron.du, neuron.dv, layer.bias << MANTISSA_SHIFT
        self.threshold = neuron.vth << MANTISSA_SHIFT if isinstance(neuron, QuantizedLIF) else None
        self.u: NDArray[Any] = np.zeros((batch, layer.n_neurons))
        self.v: NDArray[Any] = np.zeros_like(self.u)
        self.overflows = 0

    def step(self, arriving: NDArray[Any]) -> NDArray[np.bool_]:
        """The spikes (batch, n) of the step; the state is moved on in place, for most of the time goes into memory."""
        decayed(self.u, self.du, out=self.u)
        self.u += arriving * (1 << MANTISSA_SHIFT)
        if self.u.max() > STATE_MAX or self.u.min() <= -STATE_MAX:
            self._settle(self.u, wrapped(self.u))
        decayed(self.v, self.dv, out=self.v)
        self.v += self.u
        self.v += self.bias
        if max(self.v.max(), -self.v.min()) >= STATE_MAX:
            self._settle(self.v, saturated(self.v))
        if self.threshold is None:
            return np.zeros(self.v.shape, dtype=bool)
        fired: NDArray[np.bool_] = self.v > self.threshold
        np.copyto(self.v, 0.0, where=fired)
        return fired

    def _settle(self, state: NDArray[Any], within: NDArray[Any]) -> None:
        """Bring a state back into its 24 bits, and count where it had left them."""
        self.overflows += int(np.count_nonzero(state != within))
        state[...] = within


def _exact(layer: QuantizedLayer) -> Number:
    """The smallest type in which no sum of the layer's weights is rounded: every partial sum is a whole number below."""
    where = f"layer {layer.name!r}"
    totals = [connection.synapse.total(np.abs(connection.synapse.weight.astype(np.int64))) for connection in layer.connections]
    for connection, total in zip(layer.connections, totals, strict=True):
        if isinstance(connection.synapse, QuantizedConv) and total.max() > CONVOLUTION_MAX:
            raise SimulationError(
                where, "its convolution can add up to more than the 24 bits that Lava holds it in",
                remedy="Give its window fewer weights.",
            )  # fmt: skip
    largest = int(np.sum(totals, axis=0).max(initial=0))
    if largest > ACCUMULATOR_MAX:
        raise SimulationError(
            where,
            "its weights can add up to more than Lava's 32-bit accumulator holds",
            remedy="Give its neurons fewer synapses.",
        )
    return np.float32 if largest < 1 << 24 else np.float64


def run_emulator(
    network: QuantizedNetwork, spikes: NDArray[np.uint8], *, record: Literal["output", "all"] = "output"
) -> SpikeRecord:
    """Run each sample from rest; see `neurodeploy.simulation.simulate`, which checks what it is given.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), uint8, 0 or 1

    Raises
    ------
    SimulationError
        A layer's weights can add up to more than Lava's registers hold, which go round then.
    """
    neurons = {layer.name: _IntegerNeurons(layer, len(spikes)) for layer in network}
    stages = [Stage(layer, neurons[layer.name], _exact(layer)) for layer in network]
    fired, v = run_stages(network, stages, spikes, record=record, membrane=np.int32)
    return SpikeRecord(
        end="emulator", spikes=fired, v=v, overflows={name: population.overflows for name, population in neurons.items()}
    )

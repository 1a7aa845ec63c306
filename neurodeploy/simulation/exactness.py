"""In which type of number a layer's sums are exact: shown from its weights, before any spike comes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import SimulationError
from neurodeploy.fixedpoint import MANTISSA_SHIFT, STATE_MAX
from neurodeploy.graph import INPUT
from neurodeploy.quantized import QuantizedConv, QuantizedLayer
from neurodeploy.simulation.products import Number

ACCUMULATOR_MAX = ((1 << 31) - 1 - STATE_MAX) >> MANTISSA_SHIFT
"""What may arrive at a neuron: shifted left and added to a current of 24 bits, it stays within Lava's 32 (proc/lif/models.py)."""
CONVOLUTION_MAX = (1 << 23) - 1
"""What may arrive through a convolution: Lava holds it in 24 bits (proc/conv/models.py: PyConvModelFixed)."""


def exact_number(layer: QuantizedLayer, input_max: int = 1) -> Number:
    """The smallest type in which no sum of the layer's weights is rounded: every partial sum is a whole number below.

    Whole numbers of 32 bits hold them all.

    Parameters
    ----------
    input_max : int
        The largest magnitude in the network's input.

    Raises
    ------
    SimulationError
        The weights can add up to more than Lava's registers hold, which go round then.
    """
    where, largest = f"layer {layer.name!r}", np.zeros(layer.n_neurons, dtype=np.int64)
    for connection in layer.connections:
        synapse = connection.synapse
        total: NDArray[np.int64] = synapse.total(np.abs(synapse.weight.astype(np.int64)))
        total = total * (input_max if connection.source == INPUT else 1)
        if isinstance(synapse, QuantizedConv) and total.max() > CONVOLUTION_MAX:
            raise SimulationError(
                where, "its convolution can add up to more than the 24 bits that Lava holds it in",
                remedy="Give its window fewer weights." if input_max == 1 else "Scale its input down.",
            )  # fmt: skip
        largest += total
    if largest.max() > ACCUMULATOR_MAX:
        raise SimulationError(
            where,
            "its weights can add up to more than Lava's 32-bit accumulator holds",
            remedy="Give its neurons fewer synapses." if input_max == 1 else "Scale its input down.",
        )
    return np.float32 if largest.max() < 1 << 24 else np.float64

"""How accurate the network is on each rung of the ladder from the trained floats to Lava."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurodeploy.fixedpoint import MANTISSA_SHIFT
from neurodeploy.network import LI, Network, QuantizedLI, QuantizedNetwork
from neurodeploy.records import SpikeRecord

Readout = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of held-out samples classified rightly, 0..1, on each rung; None where a rung was not run.

    Attributes
    ----------
    dense, compressed : float or None
        The torch model before and after compression.
    quantized : float or None
        Weights, thresholds and decays rounded to the chip's, the arithmetic still in floats.
    emulated : float or None
        The chip's integers throughout.
    lava : float or None
        Lava's simulator, on the first `lava_samples` of the test data.
    """

    dense: float | None = None
    compressed: float | None = None
    quantized: float | None = None
    emulated: float | None = None
    lava: float | None = None
    test_samples: int | None = None
    lava_samples: int | None = None


def outputs(record: SpikeRecord, network: Network | QuantizedNetwork, rest: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """What the last layer says, in the model's units: membranes of a readout, spikes of firing neurons.

    Returns
    -------
    array (n_steps, batch, n_out)
    """
    layer = network.output
    n_steps = record.n_steps
    if isinstance(layer.neuron, (LI, QuantizedLI)):
        v = record.v[layer.name].reshape(record.n_samples, -1, n_steps).astype(np.float64)
        if isinstance(network, QuantizedNetwork):
            v = v / np.reshape((network.output.scale * (1 << MANTISSA_SHIFT)), (-1, 1)) + np.reshape(rest, (-1, 1))
    else:
        v = record.spikes[layer.name].reshape(record.n_samples, -1, n_steps).astype(np.float64)
    return np.ascontiguousarray(np.moveaxis(v, -1, 0))


def accuracy(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Share of rows of `scores` (batch, n_classes) that are largest at the label."""
    return float(np.mean(scores.argmax(axis=-1) == labels))

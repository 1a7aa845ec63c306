"""Networks small enough to be worked on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Dense, Layer, Network
from neurodeploy.ir.quantized import QuantizedDense, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork


def in_floats(
    weight: ArrayLike,
    *,
    threshold: Any = None,
    bias: Any = 0.0,
    current_decay: float = 0.5,
    voltage_decay: float = 0.25,
    rest: float = 0.0,
) -> Network:
    """One layer called "only"; a readout where there is no threshold."""
    matrix = np.array(weight, dtype=np.float64)
    decays = {"current_decay": np.array(current_decay), "voltage_decay": np.array(voltage_decay), "rest": np.array(rest)}
    layer = Layer(
        name="only",
        shape=(len(matrix),),
        neuron=LI(**decays) if threshold is None else LIF(threshold=np.array(threshold), **decays),
        connections=(Connection(source=INPUT, synapse=Dense(weight=matrix)),),
        bias=np.array(bias),
    )
    return Network(input_shape=(matrix.shape[1],), layers=(layer,), timestep_s=0.001)


def layer_of(
    weight: ArrayLike,
    *,
    name: str = "only",
    source: str = INPUT,
    vth: Any = None,
    du: Any = 4096,
    dv: Any = 4096,
    bias: Any = 0,
    bits: int = 8,
    scale: Any = 1.0,
) -> QuantizedLayer:
    """A layer in integers; a readout where there is no threshold, and without decays one that forgets at once."""
    matrix = np.array(weight)
    decays = {"du": np.array(du), "dv": np.array(dv)}
    return QuantizedLayer(
        name=name,
        shape=(len(matrix),),
        neuron=QuantizedLI(**decays) if vth is None else QuantizedLIF(vth=np.array(vth), **decays),
        connections=(Connection(source=source, synapse=QuantizedDense(weight=matrix, weight_bits=bits)),),
        bias=np.array(bias),
        scale=np.array(scale),
    )


def in_integers(*layers: QuantizedLayer) -> QuantizedNetwork:
    """The layers in a row."""
    return QuantizedNetwork(input_shape=(layers[0].weight.shape[1],), layers=layers)

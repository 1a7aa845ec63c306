"""Networks in Xylo's integers, drawn at random, and the spikes that drive them: saturating, silent, in bursts of 31."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedDense,
    QuantizedLayer,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
)

needs_xylosim = pytest.mark.skipif(find_spec("xylosim") is None, reason="xylosim, SynSense's simulator, is not installed")

KINDS = ("recurrent", "chain", "saturating", "silent", "bursts", "mixed")
"""What a drawn network is made to do."""


def layer_of_xylo(
    name: str, weight: Any, neuron: QuantizedNeuron, source: str = INPUT, *, recurrent: Any = None, bias: Any = 0
) -> QuantizedLayer:  # fmt: skip
    weights = [(source, np.asarray(weight))] + ([] if recurrent is None else [(name, np.asarray(recurrent))])
    return QuantizedLayer(
        name=name, shape=(len(weights[0][1]),), neuron=neuron, bias=np.asarray(bias), scale=np.array(1.0),
        connections=tuple(Connection(source=of, synapse=QuantizedDense(weight=w, weight_bits=8)) for of, w in weights),
    )  # fmt: skip


def neurons_of_xylo(vth: Any, du: Any = 2, dv: Any = 3, most: int = 31) -> QuantizedSubtractiveLIF:
    return QuantizedSubtractiveLIF(vth=np.asarray(vth), du=np.asarray(du), dv=np.asarray(dv), max_spikes=np.array(most))


def at_its_own_negative() -> tuple[QuantizedNetwork, NDArray[np.int32]]:
    """A membrane that forgets at once, at -32768: the leak is its own negative in 16 bits."""
    neuron = neurons_of_xylo(500, 15, 0)
    hidden = layer_of_xylo("hidden", np.array([[-128, 127]]) << 7, neuron, bias=np.array([-400]))
    network = QuantizedNetwork(
        input_shape=(2,), layers=(hidden, layer_of_xylo("readout", [[1]], neurons_of_xylo(9, most=1), "hidden")), target="xylo"
    )
    return network, np.array([[[3, 0, 0, 0, 0, 0], [0, 0, 3, 3, 0, 0]]], np.int32)


def compared() -> list[tuple[QuantizedNetwork, NDArray[np.int32]]]:
    """Networks that the default tests compare with XyloSim."""
    return [*map(drawn, range(24)), at_its_own_negative()]


def drawn(seed: int) -> tuple[QuantizedNetwork, NDArray[np.int32]]:
    """A network of one to three hidden layers and a readout, and input (2, n, n_steps) of whole numbers."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    sizes = [int(rng.integers(1, 17)), *rng.integers(1, 14, rng.integers(1, 4)).tolist(), int(rng.integers(1, 9))]
    shifts = rng.integers(0, 8, 3) if kind in ("saturating", "mixed") else rng.integers(0, 2, 3)
    threshold = {"silent": 32767, "bursts": 60}.get(kind, int(rng.choice([300, 3000, 32767])))
    lowest, highest = {"bursts": (0, 128), "silent": (-128, 1)}.get(kind, (-128, 128))
    layers: list[QuantizedLayer] = []
    source = INPUT
    for k, (n_in, n) in enumerate(pairwise(sizes)):
        is_last = k == len(sizes) - 2
        memory = 2 if is_last else min(k, 1)
        weight = (rng.integers(lowest, highest, (n, n_in)) * (rng.random((n, n_in)) < 0.7)) << shifts[memory]
        loop = (rng.integers(-128, 128, (n, n)) * (rng.random((n, n)) < 0.4)) << shifts[1]
        vth = rng.integers(max(1, threshold // 3), threshold + 1, n)
        # 0 of a membrane's decay: it forgets at once, and -32768 then is its own negative
        neuron = neurons_of_xylo(vth, rng.integers(1, 16, n), rng.integers(0, 9, n), 1 if is_last else 31)
        bias = rng.integers(-400, 400, n) if rng.random() < 0.4 and kind != "silent" else 0
        layers.append(layer_of_xylo(
            f"layer{k}", weight, neuron, source, recurrent=None if is_last or kind == "chain" else loop, bias=bias
        ))  # fmt: skip
        source = f"layer{k}"
    if kind == "mixed":
        layers[0] = listed(layers[0])
    network = QuantizedNetwork(input_shape=(sizes[0],), layers=tuple(layers), target="xylo")
    most = 1 if kind == "silent" else 15
    return network, rng.integers(0, most + 1, (2, sizes[0], int(rng.integers(10, 40)))).astype(np.int32)


def listed(layer: QuantizedLayer) -> QuantizedLayer:
    """The layer with its first connection as a list of synapses."""
    first, *others = layer.connections
    matrix = first.synapse.csr()
    synapse = QuantizedSparse(
        n_in=matrix.shape[1], starts=matrix.indptr, sources=matrix.indices, weight=matrix.data, weight_bits=8
    )  # fmt: skip
    return QuantizedLayer(
        name=layer.name, shape=layer.shape, neuron=layer.neuron, bias=layer.bias, scale=layer.scale,
        connections=(Connection(source=first.source, synapse=synapse), *others),
    )  # fmt: skip

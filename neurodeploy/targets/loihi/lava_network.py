"""Networks built from Lava's processes; only the worker that runs them imports this.

netx builds chains from a file. Other networks are built here from the same synapses and neurons: a flat population for every
layer, and a synapse process with the integers as they are for every connection. Lava's convolution has images as W, H, C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.graph import INPUT, pipeline_depths, wait_steps
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.targets.loihi.arithmetic import MANTISSA_SHIFT, NEVER_FIRES, is_mixed


@dataclass(frozen=True)
class LavaPopulation:
    """Processes of a layer: neurons, the port of their spikes, and the synapses with the pipeline depth of their sources."""

    neuron: Any
    out: Any
    depth: int
    synapses: list[tuple[int, Any]]

    def rest(self, depth: int) -> None:
        """Reset neurons from this pipeline depth on, and drop the spikes that synapses hold from such neurons."""
        if self.depth >= depth:
            _clear(self.neuron.u, self.neuron.v)
        for source_depth, synapse in self.synapses:
            if source_depth >= depth:
                _clear(synapse.a_buf if hasattr(synapse, "a_buf") else synapse.a_buff)  # a convolution's, or another's


def _clear(*variables: Any) -> None:
    for variable in variables:
        variable.set(np.zeros(variable.shape))


def chain_of(network: Any) -> list[LavaPopulation]:
    """Return the layers that netx built."""
    populations = []
    # The input has depth 0.
    for depth, layer in enumerate(network.layers, start=1):
        synapses = [(depth - 1, layer.synapse)]
        if hasattr(layer, "synapse_rec"):
            synapses.append((depth, layer.synapse_rec))
        populations.append(LavaPopulation(layer.neuron, layer.out, depth, synapses))
    return populations


def input_of(encoder: Encoder, biases: NDArray[np.int64], resets: dict[str, int]) -> LavaPopulation:
    """Build the input population, with the biases of the first step."""
    neuron = _lif(encoder.neuron, biases.shape, biases, resets)
    return LavaPopulation(neuron, neuron.s_out, 0, [])


def graph_of(
    network: QuantizedNetwork, port: Any, reset_interval: int | None = None, reset_offset: int = 0, *, bits: int = 0
) -> list[LavaPopulation]:
    """Build the processes of every layer; the input comes from `port` as (n_in,), in messages of `bits`."""
    depth, waiting = pipeline_depths(network), wait_steps(network)
    ports: dict[str, Any] = {INPUT: port}
    populations = []
    for layer in network:
        first = 1 + depth[layer.name] + reset_offset  # Lava counts its steps from 1
        neuron = _neurons(layer, {"reset_interval": reset_interval, "reset_offset": first} if reset_interval else {})
        # Before its connections, which may come from the layer itself.
        ports[layer.name] = neuron.s_out
        synapses = []
        for connection, steps in zip(layer.connections, waiting[layer.name], strict=True):
            of_source = bits if connection.source == INPUT else 0
            synapse = _connected(connection.synapse, steps, of_source, ports[connection.source], neuron.a_in)
            synapses.append((depth[connection.source], synapse))
        populations.append(LavaPopulation(neuron, neuron.s_out, depth[layer.name], synapses))
    return populations


def _neurons(layer: QuantizedLayer, resets: dict[str, int]) -> Any:
    return _lif(layer.neuron, (layer.n_neurons,), layer.bias, resets)


def _lif(neuron: QuantizedNeuron, shape: tuple[int, ...], bias: NDArray[np.int64], resets: dict[str, int]) -> Any:
    from lava.proc.lif.process import LIF, LIFReset

    match neuron:
        case QuantizedLIF():
            vth = neuron.vth
        case QuantizedLI():
            vth = np.array(NEVER_FIRES)
        case _:
            raise unsupported_kind(neuron)
    # Lava adds 1 to du (ds_offset, a register of Loihi 1) and nothing to dv.
    return (LIFReset if resets else LIF)(
        shape=shape, vth=_lava_value(vth), du=_lava_value(neuron.du - 1), dv=_lava_value(neuron.dv), bias_mant=_lava_value(bias),
        bias_exp=MANTISSA_SHIFT, **resets,
    )  # fmt: skip


def _lava_value(numbers: NDArray[np.int64]) -> Any:
    return numbers if numbers.shape else int(numbers)


def _connected(synapse: QuantizedSynapse, steps: int, bits: int, source: Any, target: Any) -> Any:
    match synapse:
        case QuantizedConv() if steps == 0:
            return _convolution(synapse, bits, source, target)
        case QuantizedDense():
            process = _dense(synapse, steps, bits)
        case QuantizedSparse() | QuantizedConv():
            process = _sparse(synapse, steps, bits)
        case _:
            raise unsupported_kind(synapse)
    source.connect(process.s_in)
    process.a_out.connect(target)
    return process


def _dense(synapse: QuantizedDense, steps: int, bits: int) -> Any:
    from lava.proc.dense.process import DelayDense, Dense

    weights = synapse.weight.astype(np.int32)
    if steps == 0:
        return Dense(weights=weights, num_message_bits=bits)
    return DelayDense(weights=weights, delays=np.full(weights.shape, steps), num_message_bits=bits)


def _sparse(synapse: QuantizedSparse | QuantizedConv, steps: int, bits: int) -> Any:
    """List the synapses of a connection; those of a convolution, too, where it has a delay: Lava's convolution has none.

    The padding can leave weights of one sign only. The sign mode is that of the whole kernel, whose integers these are.
    """
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode

    weights = csr_matrix(synapse.matrix().astype(np.int32))
    options: dict[str, Any] = {"num_message_bits": bits}
    if is_mixed(synapse.weight):
        options["sign_mode"] = SignMode.MIXED
    if steps == 0:
        return Sparse(weights=weights, **options)
    # DelaySparse takes a matrix of delays, entry by entry with the weights.
    delays = weights.astype(bool).astype(int) * steps
    return DelaySparse(weights=weights, delays=delays, max_delay=steps, **options)


def _convolution(synapse: QuantizedConv, bits: int, source: Any, target: Any) -> Any:
    """Connect a convolution; Lava's flips the window, and has images as W, H, C (netx/hdf5.py: create_conv)."""
    from lava.proc.conv.process import Conv

    process = Conv(
        weight=synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).astype(np.int32),
        input_shape=synapse.input_shape[::-1],
        **{key: getattr(synapse, key)[::-1] for key in ("stride", "padding", "dilation")},
        groups=synapse.groups,
        num_message_bits=bits,
    )
    source.reshape(synapse.input_shape).transpose([2, 1, 0]).connect(process.s_in)
    process.a_out.transpose([2, 1, 0]).flatten().connect(target)
    return process

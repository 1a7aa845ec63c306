"""What the layers of a file hear: dense, recurrent and convolved, as netx has them, and the connections of a population."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from neurodeploy.errors import NetxError
from neurodeploy.fixedpoint import Integers, as_lava_reads_together, width_of
from neurodeploy.graph import Connection
from neurodeploy.netx.chains import DELAY_MAX, check_lava_reads
from neurodeploy.netx.nodes import Node, as_netx_error
from neurodeploy.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse

Connections: TypeAlias = "tuple[Connection[QuantizedSynapse], ...]"

# ---------------------------------------------------------------------------------------------- chains


def read_dense(node: Node, kind: str, source: str, name: str, n_neurons: int) -> Connections:
    """What a ``dense`` layer hears, or a ``dense_rec`` layer, which hears itself too."""
    weight = _matrix(node, "weight", n_neurons)
    for key, size in zip(("outFeatures", "inFeatures"), weight.shape, strict=True):
        if key in node and node.integer(key) != size:
            raise NetxError(node.where, f"has {key} {node.integer(key)}, but weights of shape {weight.shape}")
    delays = _delays(node, weight.shape)
    if kind == "dense":
        with as_netx_error(node.where):
            connections = _delayed(node, source, weight, delays)
        check_lava_reads(node.where, weight)
        return connections
    if delays.any():
        raise NetxError(node.where, "has delays beside recurrence, with which Lava builds other weights")
    back = _matrix(node, "weight_rec", n_neurons)
    with as_netx_error(node.where):
        first: QuantizedSynapse = _dense(node, "weight_bits", weight)
        again: QuantizedSynapse = _dense(node, "weight_rec_bits", back)
    _check_read_together(node, weight, back)
    return Connection(source=source, synapse=first), Connection(source=name, synapse=again)


def _delayed(node: Node, source: str, weight: Integers, delays: Integers) -> Connections:
    """One connection for a matrix of one delay; for one of many, a list of its synapses for each delay."""
    if (delays == delays.flat[0]).all():
        synapse: QuantizedSynapse = _lists(node, weight) if "sources" in node else _dense(node, "weight_bits", weight)
        return (Connection(source=source, synapse=synapse, delay_steps=int(delays.flat[0])),)
    connections: list[Connection[QuantizedSynapse]] = []
    for steps in np.unique(delays[weight != 0]):
        rows, sources = np.nonzero((weight != 0) & (delays == steps))
        starts = np.searchsorted(rows, np.arange(len(weight) + 1))
        some = weight[rows, sources]
        synapse = QuantizedSparse(
            n_in=weight.shape[1], starts=starts, sources=sources.astype(np.int32), weight=some, weight_bits=max(1, width_of(some))
        )
        connections.append(Connection(source=source, synapse=synapse, delay_steps=int(steps)))
    return tuple(connections)


def _check_read_together(node: Node, weight: Integers, back: Integers) -> None:
    if not weight.any() and not back.any():
        check_lava_reads(node.where, weight)
    for key, read, meant in zip(("weight", "weight_rec"), as_lava_reads_together(weight, back), (weight, back), strict=True):
        if not np.array_equal(read, meant):
            raise NetxError(
                node.where, f"its {key} would run in Lava with other numbers than it holds",
                source="netx/utils.py: optimize_weight_bits", remedy="Change a weight of the layer by a step.",
            )  # fmt: skip


def _delays(node: Node, shape: tuple[int, ...]) -> Integers:
    """(n_out, n_in): the delay of each synapse, stored as one for all, one a neuron, one an input or one a synapse."""
    delays = node.integers("delay") if "delay" in node else np.zeros((), dtype=np.int64)
    if delays.size == 0 or delays.min() < 0 or delays.max() > DELAY_MAX:
        raise NetxError(node.where, f"has delays outside 0..{DELAY_MAX} steps", source="netx/hdf5.py: create_dense")
    if delays.ndim == 1 and delays.size == shape[0]:  # first of all, if as many neurons as inputs (hdf5.py: create_dense)
        delays = delays.reshape(-1, 1)
    if delays.ndim > 2 or any(side not in (1, n) for side, n in zip(delays.shape[::-1], shape[::-1], strict=False)):
        raise NetxError(node.where, f"has delays of shape {delays.shape} beside weights of shape {shape}")
    return np.broadcast_to(delays, shape)


def _matrix(node: Node, key: str, n_neurons: int) -> Integers:
    weight = node.integers(key)
    if weight.ndim == 1 and weight.size % n_neurons == 0:
        weight = weight.reshape(n_neurons, -1)
    if weight.ndim != 2 or weight.shape[0] != n_neurons or weight.size == 0:
        raise NetxError(node.where, f"has {n_neurons} neurons, but weights of shape {weight.shape}")
    if key == "weight_rec" and weight.shape[1] != n_neurons:
        raise NetxError(node.where, f"has {n_neurons} neurons, but recurrent weights of shape {weight.shape}")
    return weight


def _width(node: Node, key: str, weight: Integers) -> int:
    return node.integer(key) if key in node else max(1, width_of(weight))


def _dense(node: Node, bits: str, weight: Integers) -> QuantizedDense:
    return QuantizedDense(weight=weight, weight_bits=_width(node, bits, weight))


def _lists(node: Node, matrix: Integers) -> QuantizedSparse:
    """The synapses of a matrix that are listed beside it; what is not listed has to be zero."""
    starts, sources = node.integers("starts"), node.integers("sources").astype(np.int32)
    width = _width(node, "weight_bits", matrix)
    wiring = QuantizedSparse(
        n_in=matrix.shape[1], starts=starts, sources=sources, weight=np.zeros(sources.shape), weight_bits=width
    )
    rows = np.repeat(np.arange(wiring.n_out), np.diff(wiring.starts))
    if wiring.n_out != len(matrix) or np.count_nonzero(matrix[rows, wiring.sources]) != np.count_nonzero(matrix):
        raise NetxError(node.where, "lists other synapses in starts and sources than its weights have")
    return QuantizedSparse(
        n_in=matrix.shape[1], starts=starts, sources=sources, weight=matrix[rows, wiring.sources], weight_bits=width
    )


def read_conv(node: Node, source: str, input_shape: tuple[int, ...]) -> Connections:
    """What a ``conv`` layer hears."""
    weight = node.integers("weight")
    if weight.ndim == 5 and weight.shape[-1] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4 or weight.size == 0:
        raise NetxError(node.where, f"has weights of shape {weight.shape}, not (out, in / groups, rows, columns)")
    if len(input_shape) != 3:
        raise NetxError(node.where, f"is a convolution of {input_shape or 'an input of unknown shape'}, not of (C, H, W)")
    window = _window(node)
    stated = {
        "outChannels": weight.shape[:1],
        "inChannels": (weight.shape[1] * window["groups"],),
        "kernelSize": weight.shape[2:],
    }
    for key, sides in stated.items():
        if key in node and not (node.integers(key).size in (1, len(sides)) and (node.integers(key).ravel() == sides).all()):
            raise NetxError(node.where, f"has {key} {node.integers(key).tolist()}, but weights of shape {weight.shape}")
    if "delay" in node and node.integers("delay").any():
        raise NetxError(node.where, "has delays, which Lava leaves out of convolutions without a word")
    with as_netx_error(node.where):
        synapse = QuantizedConv(
            weight=weight, weight_bits=_width(node, "weight_bits", weight),
            input_shape=(input_shape[0], input_shape[1], input_shape[2]), **window,
        )  # fmt: skip
        return (Connection(source=source, synapse=synapse),)


def _window(node: Node) -> dict[str, Any]:
    return {key: node.pair(key) for key in ("stride", "padding", "dilation")} | {"groups": node.integer("groups")}


# ---------------------------------------------------------------------------------------------- other networks


def read_connections(layer: Node, n_neurons: int) -> Connections:
    """What a ``population`` hears."""
    group = layer.sub("connection")
    nodes = [group.sub(str(index)) for index in range(len(group.group))]
    connections = []
    for node in nodes:
        with as_netx_error(node.where):
            synapse = _read_synapse(node, n_neurons)
            connections.append(Connection(source=node.text("source"), synapse=synapse, delay_steps=node.integer("delay_steps")))
    return tuple(connections)


def _read_synapse(node: Node, n_neurons: int) -> QuantizedSynapse:
    kind, weight, bits = node.text("type"), node.integers("weight"), node.integer("weight_bits")
    if kind == "dense":
        return QuantizedDense(weight=_matrix(node, "weight", n_neurons), weight_bits=bits)
    if kind == "sparse":
        starts, sources = node.integers("starts"), node.integers("sources").astype(np.int32)
        return QuantizedSparse(n_in=node.integer("inFeatures"), starts=starts, sources=sources, weight=weight, weight_bits=bits)
    if kind == "conv":
        shape = node.sides("shapeIn")
        if len(shape) != 3:
            raise NetxError(node.where, f"shapeIn {shape} is not (C, H, W)")
        return QuantizedConv(weight=weight, weight_bits=bits, input_shape=(shape[0], shape[1], shape[2]), **_window(node))
    raise NetxError(node.where, f"its type {kind!r} is not dense, sparse or conv")

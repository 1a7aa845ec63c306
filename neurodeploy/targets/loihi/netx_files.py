"""How a file becomes a network: slayer's and our own, as Lava would run them.

How a network becomes a file: chains as plain netx, others with layers of a type of their own.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetxError, unsupported_kind
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.connectivity import is_convolution, is_dense
from neurodeploy.ir.files import absence, hdf5_damage, replacing
from neurodeploy.ir.graph import INPUT, Connection
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
from neurodeploy.targets.loihi.arithmetic import DECAY_UNITY, NEVER_FIRES, check_layer, check_neuron
from neurodeploy.targets.loihi.netx_format import (
    Node,
    PathLike,
    as_netx_error,
    check_lava_reads,
    plain_kinds,
    read_connections,
    read_conv,
    read_dense,
    reason,
)

# -------------------- netx.reading

_TRANSFORM = {"weight": 64, "bias": 0}  # of raw input, where an input layer does not say (hdf5.py: create_input)
_INTEGRATOR = QuantizedLI(du=np.array(0), dv=np.array(DECAY_UNITY))  # of a layer without neurons (hdf5.py: create_dense)
_WHY_NOT = {
    "input": "stands elsewhere than first",
    "dense_comp": "is complex-valued, and Lava itself cannot build it",
    **dict.fromkeys(("pool", "convT", "unpool", "average", "concat"), "is one that Lava itself does not implement"),
}


def read_netx(path: PathLike, *, trusted: bool = False) -> QuantizedNetwork:
    """Read a network as Lava runs it, from a file of neurodeploy or of lava-dl's slayer.

    A layer that never fires (``vThMant`` of 2**17 or no ``neuron`` at all) is read as a `QuantizedLI`. Files that do not say
    it get the names ``layer1``, ``layer2``, ..., the narrowest ``weight_bits`` and a ``scale`` of 0.

    Parameters
    ----------
    trusted : bool
        Whether the file is known to be whole, so that a trial reading in a process of its own may be left out.

    Raises
    ------
    NetxError
        The file is not a network of integers that we, and Lava, can run; it says where and why.
    """
    source = Path(path)
    if why := absence(source):
        raise NetxError(str(source), why)
    try:
        if not h5py.is_hdf5(source):
            raise NetxError(str(source), "is not an HDF5 file")
        if not trusted and (why := hdf5_damage(source)):
            raise NetxError(str(source), f"cannot be read: it {why}")
        with h5py.File(source, "r") as file:
            return _read(Node(str(source), file))
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises on bytes that have been damaged
        raise NetxError(str(source), f"cannot be read: {reason(error)}") from error


def _read(file: Node) -> QuantizedNetwork:
    chain = file.sub("layer")
    nodes = [chain.sub(str(index)) for index in range(len(chain.group))]
    shape: tuple[int, ...] = ()
    encoder = None
    if nodes and nodes[0].text("type") == "input":
        shape, encoder = _read_input(nodes.pop(0))
    layers: list[QuantizedLayer] = []
    flat: Node | None = None  # a flatten that waits for its layer
    for node in nodes:
        kind = node.text("type")
        if kind == "flatten":
            if flat is not None:
                _refuse_flatten(node)
            flat = node
            continue
        layers.append(_read_layer(node, kind, layers, shape, flat))
        flat = None
    if flat is not None and layers:
        _refuse_flatten(flat)
    if not layers:
        raise NetxError(chain.where, "holds no layer of neurons")
    with as_netx_error(file.where):
        return QuantizedNetwork(
            input_shape=shape or (layers[0].connections[0].synapse.n_in,), layers=tuple(layers), encoder=encoder
        )


def _read_input(node: Node) -> tuple[tuple[int, ...], Encoder | None]:
    lavas = node.sides("shape")
    shape = node.sides("input_shape") if "input_shape" in node else lavas
    if np.prod(shape) != np.prod(lavas):
        raise NetxError(node.where, f"has shape {lavas} for Lava, but input_shape {shape}")
    if "neuron" not in node:
        return shape, None
    neuron = _read_neuron(node.sub("neuron"), (1,))
    transform = [node.integer(key) if key in node else default for key, default in _TRANSFORM.items()]
    match neuron:
        case QuantizedLIF():
            return shape, Encoder(neuron=neuron, weight=transform[0], bias=transform[1])
        case QuantizedLI():
            raise NetxError(node.where, "has neurons that never fire: nothing would pass it")
        case _:
            raise unsupported_kind(neuron)


def _refuse_flatten(node: Node) -> None:
    raise NetxError(node.where, "its type 'flatten' stands elsewhere than before a dense layer, where Lava cannot connect it")


def _read_layer(
    node: Node, kind: str, before: list[QuantizedLayer], input_shape: tuple[int, ...], flat: Node | None
) -> QuantizedLayer:
    if kind not in ("dense", "dense_rec", "conv", "population"):
        raise NetxError(node.where, f"its type {kind!r} {_WHY_NOT.get(kind, 'is unknown: Lava would skip it without a word')}")
    heard = before[-1].connections[0].synapse if before else None
    if flat is not None and (kind not in ("dense", "dense_rec") or (heard is not None and not is_convolution(heard))):
        _refuse_flatten(flat)
    name = node.text("name") if "name" in node else f"layer{len(before) + 1}"
    node = Node(f"{node.where} {name!r}", node.group)
    shape, source = node.sides("shape"), before[-1].name if before else INPUT
    if kind == "population":
        connections = read_connections(node, int(np.prod(shape)))
    elif kind == "conv":
        connections = read_conv(node, source, before[-1].shape if before else input_shape)
    else:
        if heard is not None and is_convolution(heard) and flat is None:
            raise NetxError(node.where, "follows a convolution with no 'flatten' between them: Lava cannot connect them")
        connections = read_dense(node, kind, source, name, int(np.prod(shape)))
    is_image = kind == "conv"
    with as_netx_error(node.where):
        layer = QuantizedLayer(
            name=name,
            shape=shape,
            neuron=_read_neuron(node.sub("neuron"), shape, is_image) if "neuron" in node else _INTEGRATOR,
            connections=connections,
            bias=node.per_neuron("bias", shape, is_image) if "bias" in node else np.array(0),
            scale=node.floats("scale") if "scale" in node else np.array(0.0),
        )
        check_layer(layer)
        return layer


# ---------------------------------------------------------------------------------------------- neurons


def _read_neuron(node: Node, shape: tuple[int, ...], is_image: bool = False) -> QuantizedNeuron:
    kind = node.text("type")
    if kind not in ("CUBA", "LOIHI"):
        raise NetxError(node.where, f"its type {kind!r} is not supported", remedy="Only CUBA and LOIHI are.")
    if "messageBits" in node and node.integers("messageBits").any():
        raise NetxError(node.where, "sends graded spikes (messageBits): not supported yet")
    vth, du, dv = (node.per_neuron(key, shape, is_image) for key in ("vThMant", "iDecay", "vDecay"))
    with as_netx_error(node.where):
        neuron = QuantizedLI(du=du, dv=dv) if (vth >= NEVER_FIRES).all() else QuantizedLIF(vth=vth, du=du, dv=dv)
        check_neuron(neuron)
        return neuron


# -------------------- netx.writing


def write_netx(network: QuantizedNetwork, path: PathLike) -> Path:
    """Write a network for Lava to `path`, whole or not at all; `read_netx` gives an equal network back.

    Raises
    ------
    NetxError
        Lava would run a layer of a chain with other weights, or not at all; or the file cannot be written.
    """
    for layer in network:
        with as_netx_error(f"layer {layer.name!r}"):
            check_layer(layer)
    kinds = plain_kinds(network)
    for layer in network if kinds else ():
        synapse = layer.connections[0].synapse
        if is_dense(synapse) and len(layer.connections) == 1:
            check_lava_reads(f"layer {layer.name!r}", synapse.weight)
    try:
        with replacing(path) as scratch, h5py.File(scratch, "w") as file:
            _write(network, kinds, file)
    except OSError as error:
        raise NetxError(str(path), f"cannot be written: {reason(error)}") from error
    return Path(path)


def _write(network: QuantizedNetwork, kinds: tuple[str, ...] | None, file: h5py.File) -> None:
    groups = (file.create_group(f"layer/{index}") for index in itertools.count())
    _write_input(network, next(groups))
    if kinds is None:
        for layer in network:
            _write_population(layer, next(groups))
        return
    is_image = len(network.input_shape) > 1
    for layer, kind in zip(network, kinds, strict=True):
        if is_image and kind != "conv":  # W, H, C in Lava; this turns it back to C, H, W in a row
            _write_flatten(layer, next(groups))
        is_image = kind == "conv"
        if kind == "conv":
            _write_conv(layer, next(groups))
        else:
            _write_dense(layer, kind, next(groups))


def _write_input(network: QuantizedNetwork, group: h5py.Group) -> None:
    shape, encoder = network.input_shape, network.encoder
    group["type"] = [b"input"]
    group["shape"] = shape if len(shape) == 1 else (int(np.prod(shape[:-2])), *shape[-2:])  # Lava flattens C, H, W and no other
    group.attrs["input_shape"] = shape
    if encoder is None:
        return
    if any(array.shape for array in (encoder.neuron.vth, encoder.neuron.du, encoder.neuron.dv)):
        raise NetxError("layer 'input'", "has neurons of different parameters, and Lava's input population has one kind")
    group["weight"], group["bias"] = [encoder.weight], [encoder.bias]
    _write_neuron(encoder.neuron, group)


# ---------------------------------------------------------------------------------------------- chains


def _write_flatten(layer: QuantizedLayer, group: h5py.Group) -> None:
    group["type"] = [b"flatten"]
    group["shape"] = (layer.connections[0].synapse.n_in,)


def _write_dense(layer: QuantizedLayer, kind: str, group: h5py.Group) -> None:
    first, *back = layer.connections
    group["type"] = [kind.encode()]
    group["outFeatures"], group["inFeatures"] = first.synapse.n_out, first.synapse.n_in
    _write_weight(group, "weight", first.synapse.matrix())
    match first.synapse:
        case QuantizedDense():
            pass
        case QuantizedSparse():  # Lava reads the matrix; the lists say which of its zeros are synapses
            _write_lists(first.synapse, group)
        case QuantizedConv():
            raise NetxError(f"layer {layer.name!r}", "is a convolution, which is not written as a matrix")
        case _:
            raise unsupported_kind(first.synapse)
    if first.delay_steps:
        group["delay"] = first.delay_steps
    for connection in back:
        _write_weight(group, "weight_rec", connection.synapse.matrix())
        group.attrs["weight_rec_bits"] = connection.synapse.weight_bits
    group.attrs["weight_bits"] = first.synapse.weight_bits
    _write_neurons(layer, group)


def _write_conv(layer: QuantizedLayer, group: h5py.Group) -> None:
    synapse = layer.connections[0].synapse
    assert isinstance(synapse, QuantizedConv)
    group["type"] = [b"conv"]
    group["inChannels"], group["outChannels"] = synapse.input_shape[0], synapse.output_shape[0]
    group["kernelSize"] = synapse.weight.shape[2:]
    _write_window(synapse, group)
    _write_weight(group, "weight", synapse.weight)
    group.attrs["weight_bits"] = synapse.weight_bits
    _write_neurons(layer, group, image=layer.shape)


# ---------------------------------------------------------------------------------------------- other networks


def _write_population(layer: QuantizedLayer, group: h5py.Group) -> None:
    group["type"] = [b"population"]
    for index, connection in enumerate(layer.connections):
        _write_connection(connection, group.create_group(f"connection/{index}"))
    _write_neurons(layer, group)


def _write_connection(connection: Connection[QuantizedSynapse], group: h5py.Group) -> None:
    synapse = connection.synapse
    group.attrs["source"], group.attrs["delay_steps"] = connection.source, connection.delay_steps
    group.attrs["weight_bits"] = synapse.weight_bits
    _write_weight(group, "weight", synapse.weight)
    match synapse:
        case QuantizedDense():
            group["type"] = [b"dense"]
        case QuantizedSparse():
            group["type"], group["inFeatures"] = [b"sparse"], synapse.n_in
            _write_lists(synapse, group)
        case QuantizedConv():
            group["type"], group["shapeIn"] = [b"conv"], synapse.input_shape
            _write_window(synapse, group)
        case _:
            raise unsupported_kind(synapse)


# ---------------------------------------------------------------------------------------------- what they have in common


def _write_weight(group: h5py.Group, key: str, weight: NDArray[Any]) -> None:
    packed = {"compression": "gzip"} if weight.size else {}
    group.create_dataset(key, data=weight.astype(np.int16), **packed)


def _write_lists(synapse: QuantizedSparse, group: h5py.Group) -> None:
    group["starts"], group["sources"] = synapse.starts, synapse.sources


def _write_window(synapse: QuantizedConv, group: h5py.Group) -> None:
    for key in ("stride", "padding", "dilation", "groups"):
        group[key] = getattr(synapse, key)


def _write_neurons(layer: QuantizedLayer, group: h5py.Group, image: tuple[int, ...] | None = None) -> None:
    """Neurons, biases and what only we read; with `image`, of C, H, W, numbers a neuron stand as W, H, C, as Lava has them."""
    group["shape"] = layer.shape
    if layer.bias.any() or layer.bias.shape:
        one_a_channel = image is not None and not layer.bias.shape
        group["bias"] = np.full(layer.shape[0], layer.bias) if one_a_channel else _turned(layer.bias, image)
    group["scale"] = layer.scale
    group.attrs["name"] = layer.name
    _write_neuron(layer.neuron, group, image)


def _write_neuron(neuron: QuantizedNeuron, layer: h5py.Group, image: tuple[int, ...] | None = None) -> None:
    group = layer.create_group("neuron")
    group["type"] = [b"CUBA"]
    group["iDecay"], group["vDecay"] = _turned(neuron.du, image), _turned(neuron.dv, image)
    match neuron:
        case QuantizedLIF():
            group["vThMant"] = _turned(neuron.vth, image)
        case QuantizedLI():
            group["vThMant"] = NEVER_FIRES
        case _:
            raise unsupported_kind(neuron)
    group["refDelay"], group["gradedSpike"] = 1, False  # slayer writes them, nothing reads them


def _turned(numbers: Integers, image: tuple[int, ...] | None) -> Integers:
    return numbers if image is None or not numbers.shape else numbers.reshape(image).transpose(2, 1, 0)

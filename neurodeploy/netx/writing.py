"""How a network becomes a file: chains as plain netx, others with layers of a type of their own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetxError
from neurodeploy.files import replacing
from neurodeploy.fixedpoint import NEVER_FIRES, Integers
from neurodeploy.graph import Connection
from neurodeploy.netx.chains import check_lava_reads, plain_kinds
from neurodeploy.netx.nodes import PathLike, reason
from neurodeploy.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)


def write_netx(network: QuantizedNetwork, path: PathLike) -> Path:
    """Write a network for Lava to `path`, whole or not at all; `read_netx` gives an equal network back.

    Raises
    ------
    NetxError
        Lava would run a layer of a chain with other weights, or not at all; or the file cannot be written.
    """
    kinds = plain_kinds(network)
    for layer in network if kinds else ():
        synapse = layer.connections[0].synapse
        if isinstance(synapse, QuantizedDense) and len(layer.connections) == 1:
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
    if isinstance(first.synapse, QuantizedSparse):
        _write_lists(first.synapse, group)
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
    kinds = {QuantizedDense: b"dense", QuantizedSparse: b"sparse", QuantizedConv: b"conv"}
    group["type"] = [kinds[type(synapse)]]
    group.attrs["source"], group.attrs["delay_steps"] = connection.source, connection.delay_steps
    group.attrs["weight_bits"] = synapse.weight_bits
    _write_weight(group, "weight", synapse.weight)
    if isinstance(synapse, QuantizedConv):
        group["shapeIn"] = synapse.input_shape
        _write_window(synapse, group)
    if isinstance(synapse, QuantizedSparse):
        group["inFeatures"] = synapse.n_in
        _write_lists(synapse, group)


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


def _write_neuron(neuron: QuantizedLIF | QuantizedLI, layer: h5py.Group, image: tuple[int, ...] | None = None) -> None:
    group = layer.create_group("neuron")
    group["type"] = [b"CUBA"]
    group["iDecay"], group["vDecay"] = _turned(neuron.du, image), _turned(neuron.dv, image)
    group["vThMant"] = _turned(neuron.vth, image) if isinstance(neuron, QuantizedLIF) else NEVER_FIRES
    group["refDelay"], group["gradedSpike"] = 1, False  # slayer writes them, nothing reads them


def _turned(numbers: Integers, image: tuple[int, ...] | None) -> Integers:
    return numbers if image is None or not numbers.shape else numbers.reshape(image).transpose(2, 1, 0)

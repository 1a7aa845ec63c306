"""How a `QuantizedNetwork` is written to, and read from, the network files that Lava runs.

netx is lava-dl's HDF5 format (``lava/lib/dl/netx/hdf5.py``, 0.6.0): ``layer/0``, ``layer/1``, ... in the order in which
spikes pass them. What Lava does not know lies beside what it does, under names that it never asks for: the attributes
``name`` and ``weight_bits`` and the dataset ``scale`` of a dense layer, the attribute ``input_shape`` of the input.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, NetxError
from neurodeploy.files import replacing
from neurodeploy.fixedpoint import DECAY_UNITY, NEVER_FIRES, Integers, as_lava_reads, width_of
from neurodeploy.graph import INPUT, Connection
from neurodeploy.quantized import Encoder, QuantizedDense, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork

PathLike: TypeAlias = "str | os.PathLike[str]"

_TRANSFORM = {"weight": 64, "bias": 0}  # of raw input, where an input layer does not say (hdf5.py: create_input)
_INTEGRATOR = QuantizedLI(du=np.array(0), dv=np.array(DECAY_UNITY))  # of a layer without neurons (hdf5.py: create_dense)
_WHY_NOT = {
    "flatten": "stands elsewhere than between the input and the first layer, where Lava cannot connect it",
    "input": "stands elsewhere than first",
    "dense_comp": "is complex-valued, and Lava itself cannot build it",
    **dict.fromkeys(("conv", "dense_rec"), "is not supported yet: only chains of dense layers are"),
    **dict.fromkeys(("pool", "convT", "unpool", "average", "concat"), "is one that Lava itself does not implement"),
}


def write_netx(network: QuantizedNetwork, path: PathLike) -> Path:
    """Write a network for Lava to `path`, whole or not at all; `read_netx` gives an equal network back.

    Raises
    ------
    NetxError
        Lava would run a layer with other weights, or not at all; or the file cannot be written.
    """
    for layer in network:
        _check_lava_reads(f"layer {layer.name!r}", layer.weight)
    try:
        with replacing(path) as scratch, h5py.File(scratch, "w") as file:
            _write(network, file)
    except OSError as error:
        raise NetxError(str(path), f"cannot be written: {_reason(error)}") from error
    return Path(path)


def _check_lava_reads(where: str, weight: Integers) -> None:
    if not weight.any():
        raise NetxError(
            where, "has no synapse left: all its weights are zero, and Lava cannot read such a layer",
            remedy="Prune less, so that one weight at least survives.",
        )  # fmt: skip
    read = as_lava_reads(weight)
    if not np.array_equal(read, weight):
        row, column = (int(i) for i in np.argwhere(read != weight)[0])
        raise NetxError(
            where, f"would run in Lava with {read[row, column]} for its weight[{row}, {column}] = {weight[row, column]}",
            source="netx/utils.py: optimize_weight_bits",
            remedy="Change a weight of the layer by a step, or scale the layer anew.",
        )  # fmt: skip


def _write(network: QuantizedNetwork, file: h5py.File) -> None:
    groups = (file.create_group(f"layer/{index}") for index in itertools.count())
    _write_input(network, next(groups))
    if len(network.input_shape) > 1:  # an input population is W, H, C in Lava; this turns it back to C, H, W in a row
        next(groups)["type"] = [b"flatten"]
    for layer in network:
        _write_dense(layer, next(groups))


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
    _write_neuron(encoder.neuron, group.create_group("neuron"))


def _write_dense(layer: QuantizedLayer, group: h5py.Group) -> None:
    group["type"] = [b"dense"]
    group["shape"] = layer.shape
    group["outFeatures"], group["inFeatures"] = layer.weight.shape
    group.create_dataset("weight", data=layer.weight.astype(np.int16), compression="gzip")
    if layer.bias.any() or layer.bias.shape:
        group["bias"] = layer.bias
    group["scale"] = layer.scale
    group.attrs["name"] = layer.name
    group.attrs["weight_bits"] = layer.weight_bits
    _write_neuron(layer.neuron, group.create_group("neuron"))


def _write_neuron(neuron: QuantizedLIF | QuantizedLI, group: h5py.Group) -> None:
    group["type"] = [b"CUBA"]
    group["iDecay"], group["vDecay"] = neuron.du, neuron.dv
    group["vThMant"] = neuron.vth if isinstance(neuron, QuantizedLIF) else NEVER_FIRES
    group["refDelay"], group["gradedSpike"] = 1, False  # slayer writes them, nothing reads them


def read_netx(path: PathLike) -> QuantizedNetwork:
    """Read a chain of dense layers as Lava would run it, from our own files or from those of lava-dl's slayer.

    A layer that never fires (``vThMant`` of 2**17 or no ``neuron`` at all) is read as a `QuantizedLI`. Files that do not say
    it get the names ``layer1``, ``layer2``, ..., the narrowest ``weight_bits`` and a ``scale`` of 0.

    Raises
    ------
    NetxError
        The file is not a network of integers that we, and Lava, can run; it says where and why.
    """
    source = Path(path)
    if not source.is_file():
        raise NetxError(str(source), "is not there" if not source.exists() else "is not a file")
    try:
        if not h5py.is_hdf5(source):
            raise NetxError(str(source), "is not an HDF5 file")
        with h5py.File(source, "r") as file:
            return _read(_Node(str(source), file))
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises on bytes that have been damaged
        raise NetxError(str(source), f"cannot be read: {_reason(error)}") from error


@dataclass(frozen=True)
class _Node:
    """A group of a file that knows where it lies, and says so when something in it is missing or of another kind."""

    where: str
    group: h5py.Group

    def __contains__(self, key: str) -> bool:
        return key in self.group or key in self.group.attrs

    def sub(self, key: str) -> _Node:
        if not isinstance(self.group.get(key), h5py.Group):
            raise NetxError(self.where, f"has no group {key!r}", remedy="Is it a network file of netx?")
        return _Node(f"{self.where}/{key}", self.group[key])

    def text(self, key: str) -> str:
        value = self._value(key)
        first = value.flat[0] if value.size == 1 else None
        if isinstance(first, str):
            return str(first)  # h5py gives NumPy's own kind, which it cannot write again
        if not isinstance(first, bytes) or not first.isascii():
            raise NetxError(self.where, f"{key} is not one ASCII string")
        return first.decode("ascii")

    def floats(self, key: str) -> NDArray[np.float64]:
        value = self._value(key)
        if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
            raise NetxError(self.where, f"{key} is not finite numbers")
        return value.astype(np.float64)

    def integers(self, key: str) -> Integers:
        value = self.floats(key)
        if (value % 1).any() or (np.abs(value) >= 1 << 53).any():
            raise NetxError(self.where, f"{key} is not whole numbers", remedy="Export the network quantized to integers.")
        return value.astype(np.int64)

    def integer(self, key: str) -> int:
        value = self.integers(key)
        if value.size != 1:
            raise NetxError(self.where, f"{key} has shape {value.shape}, not ()")
        return int(value.flat[0])

    def per_neuron(self, key: str, n_neurons: int) -> Integers:
        """One number for all, as () however it was stored, or one a neuron."""
        value = self.integers(key)
        return value.reshape(()) if value.size == 1 and value.shape != (n_neurons,) else value

    def sides(self, key: str) -> tuple[int, ...]:
        value = self.integers(key)
        if value.size == 0 or value.min() < 1:
            raise NetxError(self.where, f"{key} {value.tolist()} is not a shape")
        return tuple(int(side) for side in value.ravel())

    def _value(self, key: str) -> NDArray[Any]:
        item = self.group.get(key, self.group.attrs.get(key))
        if item is None or isinstance(item, h5py.Group):
            raise NetxError(self.where, f"has no {key!r}")
        return np.asarray(item[()] if isinstance(item, h5py.Dataset) else item)


def _read(file: _Node) -> QuantizedNetwork:
    chain = file.sub("layer")
    nodes = [chain.sub(str(index)) for index in range(len(chain.group))]
    shape: tuple[int, ...] = ()
    encoder = None
    if nodes and nodes[0].text("type") == "input":
        shape, encoder = _read_input(nodes.pop(0))
        if nodes and nodes[0].text("type") == "flatten":
            nodes.pop(0)
    if not nodes:
        raise NetxError(chain.where, "holds no layer of neurons")
    layers: list[QuantizedLayer] = []
    for node in nodes:
        layers.append(_read_dense(node, layers))
    with _as_netx_error(file.where):
        return QuantizedNetwork(input_shape=shape or layers[0].weight.shape[1:], layers=tuple(layers), encoder=encoder)


def _read_input(node: _Node) -> tuple[tuple[int, ...], Encoder | None]:
    lavas = node.sides("shape")
    shape = node.sides("input_shape") if "input_shape" in node else lavas
    if np.prod(shape) != np.prod(lavas):
        raise NetxError(node.where, f"has shape {lavas} for Lava, but input_shape {shape}")
    if "neuron" not in node:
        return shape, None
    neuron = _read_neuron(node.sub("neuron"), 1)
    if isinstance(neuron, QuantizedLI):
        raise NetxError(node.where, "has neurons that never fire: nothing would pass it")
    transform = [node.integer(key) if key in node else default for key, default in _TRANSFORM.items()]
    return shape, Encoder(neuron=neuron, weight=transform[0], bias=transform[1])


def _read_dense(node: _Node, before: list[QuantizedLayer]) -> QuantizedLayer:
    kind = node.text("type")
    if kind != "dense":
        raise NetxError(node.where, f"its type {kind!r} {_WHY_NOT.get(kind, 'is unknown: Lava would skip it without a word')}")
    if "delay" in node and node.integers("delay").any():
        raise NetxError(node.where, "has synaptic delays: not supported yet", remedy="Train and export it without delays.")
    name = node.text("name") if "name" in node else f"layer{len(before) + 1}"
    node = _Node(f"{node.where} {name!r}", node.group)
    shape = node.sides("shape")
    n_neurons = int(np.prod(shape))
    weight = _read_weight(node, n_neurons)
    with _as_netx_error(node.where):
        width = node.integer("weight_bits") if "weight_bits" in node else max(1, width_of(weight))
        synapse = QuantizedDense(weight=weight, weight_bits=width)
        _check_lava_reads(node.where, weight)
        return QuantizedLayer(
            name=name,
            shape=shape,
            neuron=_read_neuron(node.sub("neuron"), n_neurons) if "neuron" in node else _INTEGRATOR,
            connections=(Connection(source=before[-1].name if before else INPUT, synapse=synapse),),
            bias=node.per_neuron("bias", n_neurons) if "bias" in node else np.array(0),
            scale=node.floats("scale") if "scale" in node else np.array(0.0),
        )


def _read_weight(node: _Node, n_neurons: int) -> Integers:
    weight = node.integers("weight")
    if weight.ndim == 1 and weight.size % n_neurons == 0:
        weight = weight.reshape(n_neurons, -1)
    if weight.ndim != 2 or weight.shape[0] != n_neurons or weight.size == 0:
        raise NetxError(node.where, f"has {n_neurons} neurons, but weights of shape {weight.shape}")
    for key, size in zip(("outFeatures", "inFeatures"), weight.shape, strict=True):
        if key in node and node.integer(key) != size:
            raise NetxError(node.where, f"has {key} {node.integer(key)}, but weights of shape {weight.shape}")
    return weight


def _read_neuron(node: _Node, n_neurons: int) -> QuantizedLIF | QuantizedLI:
    kind = node.text("type")
    if kind not in ("CUBA", "LOIHI"):
        raise NetxError(node.where, f"its type {kind!r} is not supported", remedy="Only CUBA and LOIHI are.")
    if "messageBits" in node and node.integers("messageBits").any():
        raise NetxError(node.where, "sends graded spikes (messageBits): not supported yet")
    vth, du, dv = (node.per_neuron(key, n_neurons) for key in ("vThMant", "iDecay", "vDecay"))
    with _as_netx_error(node.where):
        return QuantizedLI(du=du, dv=dv) if (vth >= NEVER_FIRES).all() else QuantizedLIF(vth=vth, du=du, dv=dv)


@contextmanager
def _as_netx_error(where: str) -> Iterator[None]:
    """What a noun refuses was written in the file."""
    try:
        yield
    except NetworkError as error:
        raise NetxError(where, f"{error.where} {error.what}", remedy=error.remedy) from error


def _reason(error: Exception) -> str:
    """The operating system's few words where it has any, instead of HDF5's many."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).strip("'\"")

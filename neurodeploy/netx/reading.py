"""How a file becomes a network: slayer's and our own, as Lava would run them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from neurodeploy.errors import NetxError
from neurodeploy.files import absence
from neurodeploy.fixedpoint import DECAY_UNITY, NEVER_FIRES
from neurodeploy.graph import INPUT
from neurodeploy.heaps import endless_heap
from neurodeploy.netx.connections import read_connections, read_conv, read_dense
from neurodeploy.netx.nodes import Node, PathLike, as_netx_error, reason
from neurodeploy.quantized import Encoder, QuantizedConv, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork

_TRANSFORM = {"weight": 64, "bias": 0}  # of raw input, where an input layer does not say (hdf5.py: create_input)
_INTEGRATOR = QuantizedLI(du=np.array(0), dv=np.array(DECAY_UNITY))  # of a layer without neurons (hdf5.py: create_dense)
_WHY_NOT = {
    "input": "stands elsewhere than first",
    "dense_comp": "is complex-valued, and Lava itself cannot build it",
    **dict.fromkeys(("pool", "convT", "unpool", "average", "concat"), "is one that Lava itself does not implement"),
}


def read_netx(path: PathLike) -> QuantizedNetwork:
    """Read a network as Lava would run it, from our own files or from those of lava-dl's slayer.

    A layer that never fires (``vThMant`` of 2**17 or no ``neuron`` at all) is read as a `QuantizedLI`. Files that do not say
    it get the names ``layer1``, ``layer2``, ..., the narrowest ``weight_bits`` and a ``scale`` of 0.

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
        if (at := endless_heap(source)) is not None:
            raise NetxError(str(source), f"cannot be read: its texts are damaged at byte {at}")
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
    if isinstance(neuron, QuantizedLI):
        raise NetxError(node.where, "has neurons that never fire: nothing would pass it")
    transform = [node.integer(key) if key in node else default for key, default in _TRANSFORM.items()]
    return shape, Encoder(neuron=neuron, weight=transform[0], bias=transform[1])


def _refuse_flatten(node: Node) -> None:
    raise NetxError(node.where, "its type 'flatten' stands elsewhere than before a dense layer, where Lava cannot connect it")


def _read_layer(
    node: Node, kind: str, before: list[QuantizedLayer], input_shape: tuple[int, ...], flat: Node | None
) -> QuantizedLayer:
    if kind not in ("dense", "dense_rec", "conv", "population"):
        raise NetxError(node.where, f"its type {kind!r} {_WHY_NOT.get(kind, 'is unknown: Lava would skip it without a word')}")
    heard = before[-1].connections[0].synapse if before else None
    if flat is not None and (kind not in ("dense", "dense_rec") or (before and not isinstance(heard, QuantizedConv))):
        _refuse_flatten(flat)
    name = node.text("name") if "name" in node else f"layer{len(before) + 1}"
    node = Node(f"{node.where} {name!r}", node.group)
    shape, source = node.sides("shape"), before[-1].name if before else INPUT
    if kind == "population":
        connections = read_connections(node, int(np.prod(shape)))
    elif kind == "conv":
        connections = read_conv(node, source, before[-1].shape if before else input_shape)
    else:
        if isinstance(heard, QuantizedConv) and flat is None:
            raise NetxError(node.where, "follows a convolution with no 'flatten' between them: Lava cannot connect them")
        connections = read_dense(node, kind, source, name, int(np.prod(shape)))
    is_image = kind == "conv"
    with as_netx_error(node.where):
        return QuantizedLayer(
            name=name,
            shape=shape,
            neuron=_read_neuron(node.sub("neuron"), shape, is_image) if "neuron" in node else _INTEGRATOR,
            connections=connections,
            bias=node.per_neuron("bias", shape, is_image) if "bias" in node else np.array(0),
            scale=node.floats("scale") if "scale" in node else np.array(0.0),
        )


# ---------------------------------------------------------------------------------------------- neurons


def _read_neuron(node: Node, shape: tuple[int, ...], is_image: bool = False) -> QuantizedLIF | QuantizedLI:
    kind = node.text("type")
    if kind not in ("CUBA", "LOIHI"):
        raise NetxError(node.where, f"its type {kind!r} is not supported", remedy="Only CUBA and LOIHI are.")
    if "messageBits" in node and node.integers("messageBits").any():
        raise NetxError(node.where, "sends graded spikes (messageBits): not supported yet")
    vth, du, dv = (node.per_neuron(key, shape, is_image) for key in ("vThMant", "iDecay", "vDecay"))
    with as_netx_error(node.where):
        return QuantizedLI(du=du, dv=dv) if (vth >= NEVER_FIRES).all() else QuantizedLIF(vth=vth, du=du, dv=dv)

"""Networks into NIR files: each layer a node of neurons, each connection the nodes that its spikes pass on their way."""

from __future__ import annotations

import os
from typing import Any

import nir
import numpy as np

from neurodeploy.errors import ExtractError, RequestError, unsupported_kind
from neurodeploy.frontends.nir.file import SPARSE
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.files import replacing
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Neuron, Sparse, Synapse
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.passes.quantize import dequantize

Shape = tuple[int, ...]
_NO_IMAGE = "NIR has no node that makes an image of a row"


def write_nir(network: Network | QuantizedNetwork, path: str | os.PathLike[str], *, dt: float | None = None) -> None:
    """Write a network as a NIR file, for steps of forward Euler.

    Neurons without a synaptic current become LIF, LI, IF or I, others CubaLIF or CubaLI; synapses Linear, Affine or Conv2d, a
    Flatten in front of a matrix on an image, a Delay in front of delayed ones. The metadata of nodes keep what NIR has no
    words for, so that ``read_nir(path) == network`` (see `neurodeploy.frontends.nir.file`). `nir.read` of nir 1.0.8
    takes kernels for square and ungrouped when it checks types; a file with others it reads with ``type_check=False``.

    Parameters
    ----------
    network : Network or QuantizedNetwork
        Of integers are written the floats that they stand for (`dequantize`).
    path : str or path
        Is written whole, or not at all.
    dt : float, optional
        Length of a step in the unit of the file's time constants; the network's `timestep_s` if left out. snnTorch takes all
        files for such with steps of 1e-4.

    Raises
    ------
    ExtractError
        What NIR cannot say, by layer: a current that never decays or that a bias passes by, a connection from an LI, an
        image that comes from a matrix, biases that differ within a channel.
    RequestError
        A step that is no length.
    QuantizeError
        Integers of which nobody knows what they stand for.
    """
    if dt is not None and not 0 < dt < np.inf:
        raise RequestError("dt", f"{dt} is no length of a step")
    floats = dequantize(network) if isinstance(network, QuantizedNetwork) else network
    graph = _Writing(floats, floats.timestep_s if dt is None else dt).graph()
    with replacing(path) as scratch:
        nir.write(scratch, graph)


class _Writing:
    """The nodes and edges of a network, put down layer by layer."""

    def __init__(self, network: Network, dt: float) -> None:
        self.network, self.dt = network, dt
        self.shapes = {INPUT: network.input_shape} | {layer.name: _shape_said(layer) for layer in network}
        self.nodes: dict[str, Any] = {INPUT: nir.Input(input_type=np.array(network.input_shape))}
        self.edges: list[tuple[str, str]] = []
        self.names = {layer.name for layer in network} | {INPUT}

    def graph(self) -> Any:
        """All of it as a graph of NIR."""
        for order, layer in enumerate(self.network):
            self._put_layer(layer, order)
        last = self.network.output.name
        output = self._new("output")
        self.nodes[output] = nir.Output(output_type=np.array(self.shapes[last]))
        self.edges.append((last, output))
        metadata = {
            "dt": self.dt, "timestep_s": self.network.timestep_s, "discretisation": "euler", "written_by": "neurodeploy",
        }  # fmt: skip
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=metadata, type_check=False)

    def _put_layer(self, layer: Layer, order: int) -> None:
        if layer.name == "." or "\0" in layer.name:
            raise ExtractError(f"layer {layer.name!r}", "cannot be the name of a node", source="HDF5", remedy="Rename it.")
        neurons = _neurons(layer, self.shapes[layer.name], self.dt)
        neurons.metadata = _kept(layer) | {"order": order}
        self.nodes[layer.name] = neurons
        carrier = _carrier(layer)
        for index, connection in enumerate(layer.connections):
            self._put_connection(layer, connection, layer.bias if index == carrier else np.zeros(()))

    def _put_connection(self, layer: Layer, connection: Connection[Synapse], bias: Floats) -> None:
        """The nodes from a source to a layer: Delay, Flatten, weights, Flatten."""
        source, synapse, shape = connection.source, connection.synapse, self.shapes[connection.source]
        if source != INPUT:
            match self.network[source].neuron:
                case LIF():
                    pass
                case LI():
                    raise ExtractError(
                        f"layer {layer.name!r}", f"hears {source!r}, which never fires",
                        source="in NIR an LI passes its membrane on", remedy="Take the connection out: nothing ever passes it.",
                    )  # fmt: skip
                case _:
                    raise unsupported_kind(self.network[source].neuron)
        stem, way = f"{layer.name}.from.{source}", [source]
        if connection.delay_steps:
            delay = np.full(shape, connection.delay_steps * self.dt)
            way.append(self._put(f"{stem}.delay", nir.Delay(delay=delay)))
        match synapse:
            case Conv():
                if shape != synapse.input_shape:
                    raise ExtractError(
                        f"layer {layer.name!r}", f"convolves {source!r}, which has synapses without a window", source=_NO_IMAGE,
                        remedy="Put only convolutions into it, or list the synapses behind it one by one.",
                    )  # fmt: skip
                way.append(self._put(stem, _convolution(synapse, bias)))
                shape = synapse.output_shape
            case Dense() | Sparse():
                if len(shape) > 1:
                    way.append(self._put(f"{stem}.row", _flatten(shape)))
                way.append(self._put(stem, _matrix(synapse, bias)))
                shape = (synapse.n_out,)
            case _:
                raise unsupported_kind(synapse)
        if shape != self.shapes[layer.name]:
            way.append(self._put(f"{stem}.out", _flatten(shape)))
        self.edges += zip(way, [*way[1:], layer.name], strict=True)

    def _put(self, stem: str, node: Any) -> str:
        name = self._new(stem)
        self.nodes[name] = node
        return name

    def _new(self, stem: str) -> str:
        name, k = stem, 2
        while name in self.names:
            name, k = f"{stem}.{k}", k + 1
        self.names.add(name)
        return name


def _shape_said(layer: Layer) -> Shape:
    """The shape that NIR's neurons have: an image where all that arrives is one, else a row."""
    return layer.shape if all(is_convolution(c.synapse) for c in layer.connections) else (layer.n_neurons,)


def _carrier(layer: Layer) -> int | None:
    """Which connection's node has the layer's bias: a matrix, or a convolution whose channels have one each."""
    if not layer.bias.any():
        return None
    for index, connection in enumerate(layer.connections):
        if not is_convolution(connection.synapse):
            return index
    channels = np.broadcast_to(layer.bias, layer.n_neurons).reshape(layer.shape[0], -1)
    if (channels == channels[:, :1]).all():
        return 0
    raise ExtractError(
        f"layer {layer.name!r}", "has biases that differ within a channel", source="NIR's Conv2d has one a channel",
        remedy="Give a channel's neurons one bias.",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- nodes


def _matrix(synapse: Dense | Sparse, bias: Floats) -> Any:
    metadata = {"synapse": SPARSE} if isinstance(synapse, Sparse) else {}  # reading turns the matrix into lists again
    weight = np.array(synapse.matrix())
    if not bias.any():
        return nir.Linear(weight=weight, metadata=metadata)
    return nir.Affine(weight=weight, bias=np.array(np.broadcast_to(bias, len(weight))), metadata=metadata)


def _convolution(conv: Conv, bias: Floats) -> Any:
    channels = conv.output_shape[0]
    per_channel = np.array(np.broadcast_to(bias, conv.n_out).reshape(channels, -1)[:, 0])
    return nir.Conv2d(
        input_shape=conv.input_shape[1:], weight=np.array(conv.weight), stride=conv.stride, padding=conv.padding,
        dilation=conv.dilation, groups=conv.groups, bias=per_channel,
    )  # fmt: skip


def _flatten(shape: Shape) -> Any:
    return nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)


def _neurons(layer: Layer, shape: Shape, dt: float) -> Any:
    """The node whose equation, in steps of forward Euler, is the layer's recurrence."""
    neuron, where = layer.neuron, f"layer {layer.name!r}"
    full = {"rest": neuron.rest, "fades": neuron.current_decay, "leaks": neuron.voltage_decay}
    p = {key: np.array(np.broadcast_to(value, layer.n_neurons)) for key, value in full.items()}
    said: dict[str, Floats] = {}
    match neuron:
        case LIF():
            said = {"v_threshold": np.broadcast_to(neuron.threshold, layer.n_neurons) + p["rest"], "v_reset": p["rest"]}
            if not np.allclose(said["v_threshold"] - p["rest"], neuron.threshold, rtol=1e-9, atol=0):
                raise ExtractError(where, "has a threshold that is lost beside its rest", remedy="Count from a rest nearer to 0.")
        case LI():
            pass  # NIR's integrators have neither
        case _:
            raise unsupported_kind(neuron)
    if (p["fades"] == 1).all():
        kind, more = _at_once(where, neuron, p, dt)
    else:
        kind, more = _with_current(layer, p, dt)
    said |= more
    if not all(np.isfinite(value).all() for value in said.values()):
        raise ExtractError(where, "forgets so slowly that its time constant is no number", remedy="Let it forget nothing.")
    return getattr(nir, kind)(**{key: np.array(value).reshape(shape) for key, value in said.items()})


def _at_once(where: str, neuron: Neuron, p: dict[str, Floats], dt: float) -> tuple[str, dict[str, Floats]]:
    """Neurons whose current lasts one step."""
    match neuron:
        case LIF():
            leaky, plain = "LIF", "IF"
        case LI():
            leaky, plain = "LI", "I"
        case _:
            raise unsupported_kind(neuron)
    if (p["leaks"] > 0).all():
        said = _inverted({"tau": p["leaks"]}, dt) | _inverted({"r": p["leaks"]}, 1) | {"v_leak": p["rest"]}
        return leaky, said
    if (p["leaks"] > 0).any():
        raise ExtractError(where, "has neurons that leak and neurons that do not", source="in NIR they are LIF and IF")
    if plain == "I" and p["rest"].any():
        raise ExtractError(where, "reads an integrator whose rest is not 0", source="NIR's I starts from 0")
    return plain, {"r": np.full(p["leaks"].shape, 1 / dt)}


def _with_current(layer: Layer, p: dict[str, Floats], dt: float) -> tuple[str, dict[str, Floats]]:
    where = f"layer {layer.name!r}"
    for key, what in (("fades", "a synaptic current that never decays"), ("leaks", "a synaptic current but no leak")):
        if not (p[key] > 0).all():
            raise ExtractError(where, f"has {what}", source="NIR's CubaLIF has time constants for both")
    if layer.bias.any():
        raise ExtractError(
            where, "adds a bias to v beside a synaptic current", source="in NIR all that arrives enters the current",
            remedy="Let a neuron that always fires drive it.",
        )  # fmt: skip
    times = _inverted({"tau_syn": p["fades"], "tau_mem": p["leaks"]}, dt) | _inverted({"w_in": p["fades"], "r": p["leaks"]}, 1)
    match layer.neuron:
        case LIF():
            return "CubaLIF", times | {"v_leak": p["rest"]}
        case LI():
            return "CubaLI", times | {"v_leak": p["rest"]}
        case _:
            raise unsupported_kind(layer.neuron)


def _inverted(shares: dict[str, Floats], dt: float) -> dict[str, Floats]:
    with np.errstate(over="ignore"):
        return {key: dt / share for key, share in shares.items()}


def _kept(layer: Layer) -> dict[str, Any]:
    """The layer's own numbers, for the metadata."""
    neuron = layer.neuron
    match neuron:
        case LIF():
            names: tuple[str, ...] = ("threshold", "current_decay", "voltage_decay", "rest")
        case LI():
            names = ("current_decay", "voltage_decay", "rest")
        case _:
            raise unsupported_kind(neuron)
    arrays = {name: np.array(getattr(neuron, name)) for name in names} | {"bias": np.array(layer.bias)}
    return {key: value if value.ndim else float(value) for key, value in arrays.items()} | {"shape": np.array(layer.shape)}

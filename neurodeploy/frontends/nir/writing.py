"""Writing NIR: each layer becomes a node of neurons, each connection the nodes from its source; records as NIRData."""

from __future__ import annotations

import os
from typing import Any, Literal

import nir
import numpy as np

from neurodeploy.errors import DataError, ExtractError, RequestError, check_arguments, unsupported_kind
from neurodeploy.frontends.expressions import Shape
from neurodeploy.frontends.nir.nodes import RESET_KEY, SPARSE
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.files import in_memory, installed_version
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Sparse, SubtractiveLIF, Synapse, reset_of, threshold_of
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.passes.quantize import dequantize
from neurodeploy.simulation.records import SpikeRecord

LIBRARY_STEPS = {"norse": 1e-3, "snntorch": 1e-4, "spikingjelly": 1e-4}
"""Steps that libraries assume when they read a file."""


@check_arguments
def write_nir(
    network: Network | QuantizedNetwork,
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    library: Literal["norse", "snntorch", "spikingjelly"] | None = None,
) -> None:
    """Write a network as a NIR file, for steps of forward Euler.

    Neurons without a synaptic current become LIF, LI, IF or I, others CubaLIF or CubaLI. Synapses become Linear, Affine or
    Conv2d, with a Flatten in front of a matrix on an image and a Delay in front of delayed ones. Metadata keep what NIR has no
    field for, so that ``read_nir(path) == network``. A reset by subtraction is in the metadata alone: other libraries do not find
    it, and reset as they do by default (see `neurodeploy.frontends.nir.nodes`). When it checks types, `nir.read` of nir 1.0.8
    assumes square and ungrouped kernels; read a file with others with ``type_check=False``.

    Parameters
    ----------
    network : Network or QuantizedNetwork
        A QuantizedNetwork is written as the floats that its integers represent (`dequantize`).
    path : str or path
        The file is written completely, or not at all.
    dt : float, optional
        Length of a step in the unit of the file's time constants; default: the library's, or the network's `timestep_s`.
    library : str, optional
        Library that will read the file: ``"snntorch"`` and ``"spikingjelly"`` assume steps of 1e-4, ``"norse"`` of 1e-3. Norse
        also ignores the resistance of neurons without a synaptic current: they get 1, and their membrane is in its units.

    Raises
    ------
    ExtractError
        What NIR cannot express, by layer: a current that never decays, a readout's current that a bias bypasses, a connection
        from an LI, an image that comes from a matrix, biases that differ within a channel.
    RequestError
        A step that is no positive number.
    QuantizeError
        A layer of integers has no scale.
    """
    if dt is not None and not 0 < dt < np.inf:
        raise RequestError("dt", f"{dt} is not a positive length of a step")
    floats = dequantize(network) if isinstance(network, QuantizedNetwork) else network
    step = LIBRARY_STEPS.get(library or "", floats.timestep_s) if dt is None else float(dt)
    graph = _GraphWriter(floats, step, ignores_resistance=library == "norse").graph()
    with in_memory(path) as file:
        nir.write(file, graph)


@check_arguments
def write_nir_data(record: SpikeRecord, path: str | os.PathLike[str], *, dt: float = 1e-3) -> None:
    """Write a record as NIRData: ``spikes`` and ``voltages`` of each recorded layer, as `nir.read_data` reads them.

    Nodes have the names of the layers, which are those of the network's file. Data are of shape (samples, steps, neurons), an
    image as a row: spikes are booleans, or numbers where a neuron fires several in a step; voltages are those of the record.

    Parameters
    ----------
    dt : float
        Length of a step in seconds.

    Raises
    ------
    RequestError
        A step that is no positive number; nir before 1.0.8, which has no NIRData.
    DataError
        The file cannot be written.
    """
    if not 0 < dt < np.inf:
        raise RequestError("dt", f"{dt} is not a positive length of a step")
    if not hasattr(nir, "NIRGraphData"):
        remedy = "Install nir 1.0.8 or later, or write .npz."
        raise RequestError(str(path), f"nir {installed_version('nir')} has no NIRData to write", remedy=remedy)
    nodes = {}
    for layer, spikes in record.spikes.items():
        observables = {"spikes": spikes if spikes.dtype == np.int32 or spikes.max(initial=0) > 1 else spikes.astype(bool)}
        observables |= {"voltages": record.v[layer]} if layer in record.v else {}
        rows = {name: np.moveaxis(array.reshape(len(array), -1, record.n_steps), -1, 1) for name, array in observables.items()}
        nodes[layer] = nir.NIRNodeData({name: nir.TimeGriddedData(array, float(dt)) for name, array in rows.items()})
    try:
        with in_memory(path) as file:
            nir.write_data(file, nir.NIRGraphData(nodes))
    except OSError as error:
        raise DataError(str(path), f"cannot be written: {error.strerror}") from error


class _GraphWriter:
    """Collects the nodes and edges of a network, layer by layer."""

    def __init__(self, network: Network, dt: float, *, ignores_resistance: bool = False) -> None:
        self.network, self.dt, self.ignores_resistance = network, dt, ignores_resistance
        # NIR's neurons have the shape of an image if all that arrives is one, else of a row.
        self.shapes: dict[str, Shape] = {INPUT: network.input_shape} | {
            layer.name: layer.shape if all(is_convolution(c.synapse) for c in layer.connections) else (layer.n_neurons,)
            for layer in network
        }
        self.nodes: dict[str, Any] = {INPUT: nir.Input(input_type=np.array(network.input_shape))}
        self.edges: list[tuple[str, str]] = []
        self.names = {layer.name for layer in network} | {INPUT}

    def graph(self) -> Any:
        """Return the whole network as a graph of NIR."""
        for order, layer in enumerate(self.network):
            self._add_layer(layer, order)
        last = self.network.output.name
        output = self._free_name("output")
        self.nodes[output] = nir.Output(output_type=np.array(self.shapes[last]))
        self.edges.append((last, output))
        metadata = {
            "dt": self.dt,
            "timestep_s": self.network.timestep_s,
            "discretisation": "euler",
            "written_by": "neurodeploy",
        }
        # nir 1.0.8 checks convolutions as if kernels were square and ungrouped, and would refuse others.
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=metadata, type_check=False)

    def _add_layer(self, layer: Layer, order: int) -> None:
        if layer.name == "." or "\0" in layer.name:  # to HDF5 "." is the group itself, and NUL ends a name
            raise ExtractError(f"layer {layer.name!r}", "cannot be the name of a node", source="HDF5", remedy="Rename it.")
        writer = _NeuronWriter(layer, self.shapes[layer.name], self.dt, ignores_resistance=self.ignores_resistance)
        neurons = writer.node()
        neurons.metadata = _exact_numbers(layer) | {"order": order}
        self.nodes[layer.name] = neurons
        with_bias = None if writer.leaks_to_bias else _bias_connection(layer)
        for index, connection in enumerate(layer.connections):
            self._add_connection(layer, connection, layer.bias if index == with_bias else np.zeros(()))

    def _add_connection(self, layer: Layer, connection: Connection[Synapse], bias: Floats) -> None:
        """Add the nodes from a source to a layer: Delay, Flatten, weights, Flatten."""
        source, shape = connection.source, self.shapes[connection.source]
        if source != INPUT:
            firing = self.network[source].neuron
            match firing:
                case LIF() | SubtractiveLIF():
                    pass
                case LI():
                    raise ExtractError(
                        f"layer {layer.name!r}",
                        f"receives spikes from {source!r}, which never fires",
                        source="in NIR an LI sends its membrane",
                        remedy="Remove the connection: it never carries a spike.",
                    )
                case _:
                    raise unsupported_kind(firing)
        stem, path = f"{layer.name}.from.{source}", [source]
        if connection.delay_steps:
            delay = np.full(shape, connection.delay_steps * self.dt)  # NIR states delays in units of time
            path.append(self._add_node(f"{stem}.delay", nir.Delay(delay=delay)))
        match connection.synapse:
            case Conv() as conv:
                if shape != conv.input_shape:
                    raise ExtractError(
                        f"layer {layer.name!r}",
                        f"convolves {source!r}, which also receives spikes through a matrix or a synapse list",
                        source="NIR has no node that makes an image of a row",
                        remedy=f"Connect {source!r} through convolutions only, or list the synapses behind it one by one.",
                    )
                path.append(self._add_node(stem, _convolution(conv, bias)))
                shape = conv.output_shape
            case Dense() | Sparse() as matrix:
                if len(shape) > 1:
                    path.append(self._add_node(f"{stem}.row", _flatten(shape)))
                path.append(self._add_node(stem, _matrix(matrix, bias)))
                shape = (matrix.n_out,)
            case _:
                raise unsupported_kind(connection.synapse)
        if shape != self.shapes[layer.name]:  # a convolution into a layer that other synapses reach as a row
            path.append(self._add_node(f"{stem}.out", _flatten(shape)))
        self.edges += zip(path, [*path[1:], layer.name], strict=True)

    def _add_node(self, stem: str, node: Any) -> str:
        name = self._free_name(stem)
        self.nodes[name] = node
        return name

    def _free_name(self, stem: str) -> str:
        name, k = stem, 2
        while name in self.names:  # layers may have any name, also that of one of our nodes
            name, k = f"{stem}.{k}", k + 1
        self.names.add(name)
        return name


def _bias_connection(layer: Layer) -> int | None:
    """Return the index of the connection whose node takes the bias: a matrix, or a convolution if its channels have one each."""
    if not layer.bias.any():
        return None
    for index, connection in enumerate(layer.connections):
        if not is_convolution(connection.synapse):
            return index
    channels = np.broadcast_to(layer.bias, layer.n_neurons).reshape(layer.shape[0], -1)
    if (channels == channels[:, :1]).all():
        return 0
    raise ExtractError(
        f"layer {layer.name!r}",
        "has biases that differ within a channel",
        source="NIR's Conv2d has one per channel",
        remedy="Use one bias for all neurons of a channel.",
    )


def _matrix(synapse: Dense | Sparse, bias: Floats) -> Any:
    metadata = {"synapse": SPARSE} if isinstance(synapse, Sparse) else {}
    weight = np.array(synapse.matrix())  # NIR has no sparse node: metadata tell zeros from missing synapses
    if not bias.any():
        return nir.Linear(weight=weight, metadata=metadata)
    return nir.Affine(weight=weight, bias=np.array(np.broadcast_to(bias, len(weight))), metadata=metadata)


def _convolution(conv: Conv, bias: Floats) -> Any:
    channels = conv.output_shape[0]
    return nir.Conv2d(
        input_shape=conv.input_shape[1:],
        weight=np.array(conv.weight),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=np.array(np.broadcast_to(bias, conv.n_out).reshape(channels, -1)[:, 0]),  # one a channel, see `_bias_connection`
    )


def _flatten(shape: Shape) -> Any:
    # From dimension 0: NIR's shapes have no batch.
    return nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)


class _NeuronWriter:
    """The node whose equation, in steps of forward Euler, is the recurrence of a layer.

    Attributes
    ----------
    rest, current_decay, voltage_decay : array (n,)
    """

    def __init__(self, layer: Layer, shape: Shape, dt: float, *, ignores_resistance: bool = False) -> None:
        self.layer, self.shape, self.dt, self.where = layer, shape, dt, f"layer {layer.name!r}"
        self.ignores_resistance = ignores_resistance
        neuron = layer.neuron
        self.rest, self.current_decay, self.voltage_decay = (
            np.array(np.broadcast_to(value, layer.n_neurons))
            for value in (neuron.rest, neuron.current_decay, neuron.voltage_decay)
        )

    @property
    def leaks_to_bias(self) -> bool:
        """Whether the node takes the biases: a leak to v_reset + bias / d adds them to v, past a synaptic current."""
        can = threshold_of(self.layer.neuron) is not None and bool((self.voltage_decay > 0).all())
        return can and bool(self.layer.bias.any() and (self.current_decay != 1).any())

    def node(self) -> Any:
        """Return a LIF, IF or CubaLIF for an `LIF`, an LI, I or CubaLI for an `LI`."""
        with np.errstate(over="ignore"):  # an infinite time constant is refused below
            kind, parameters = self._memoryless_current() if (self.current_decay == 1).all() else self._synaptic_current()
        match self.layer.neuron:
            case LIF(threshold=threshold) | SubtractiveLIF(threshold=threshold):
                kind = {"leaky": "LIF", "integrator": "IF", "current": "CubaLIF"}[kind]
                v_threshold = np.broadcast_to(threshold, self.rest.shape) + self.rest  # ours counts from the rest
                if not np.allclose(v_threshold - self.rest, threshold, rtol=1e-9, atol=0):
                    raise ExtractError(
                        self.where,
                        "has a threshold so much smaller than its rest that their sum loses it",
                        source="NIR's v_threshold counts from 0",
                        remedy="Use a rest nearer to 0.",
                    )
                parameters |= {"v_threshold": v_threshold, "v_reset": self.rest}
            case LI():
                if kind == "integrator" and self.rest.any():
                    raise ExtractError(self.where, "reads an integrator whose rest is not 0", source="NIR's I starts from 0")
                kind = {"leaky": "LI", "integrator": "I", "current": "CubaLI"}[kind]
            case _:
                raise unsupported_kind(self.layer.neuron)
        if kind == "LIF" and self.ignores_resistance:  # all voltages divided by r
            parameters |= {name: parameters[name] / parameters["r"] for name in ("v_threshold", "v_reset", "v_leak", "r")}
        if not all(np.isfinite(value).all() for value in parameters.values()):
            raise ExtractError(self.where, "decays so slowly that its time constant is infinite", remedy="Set that decay to 0.")
        return getattr(nir, kind)(**{key: np.array(value).reshape(self.shape) for key, value in parameters.items()})

    def _memoryless_current(self) -> tuple[str, dict[str, Floats]]:
        """Return (leaky or integrator, parameters) of neurons whose current lasts one step."""
        leak = self.voltage_decay
        if (leak > 0).all():
            # Euler: d = dt / tau; r = 1 / d, so that d r x = x.
            return "leaky", {"tau": self.dt / leak, "r": 1 / leak, "v_leak": self.rest}
        if (leak > 0).any():
            raise ExtractError(self.where, "has neurons that leak and neurons that do not", source="in NIR they are LIF and IF")
        return "integrator", {"r": np.full(leak.shape, 1 / self.dt)}  # IF adds dt r x

    def _synaptic_current(self) -> tuple[str, dict[str, Floats]]:
        """Return ("current", parameters) of neurons with a synaptic current."""
        for decay, what in (
            (self.current_decay, "a synaptic current that never decays"),
            (self.voltage_decay, "a synaptic current but no leak"),
        ):
            if not (decay > 0).all():
                raise ExtractError(self.where, f"has {what}", source="NIR's CubaLIF has time constants for both")
        if self.layer.bias.any() and not self.leaks_to_bias:
            raise ExtractError(
                self.where,
                "adds a bias to v, past its synaptic current",
                source="in NIR all that arrives enters the current, and a CubaLI starts from where it leaks to",
                remedy="Let a neuron that always fires drive it.",
            )
        return "current", {
            "tau_syn": self.dt / self.current_decay,
            "tau_mem": self.dt / self.voltage_decay,
            "w_in": 1 / self.current_decay,  # d_syn w_in x = x; likewise r for the membrane
            "r": 1 / self.voltage_decay,
            "v_leak": self.rest + (self.layer.bias / self.voltage_decay if self.leaks_to_bias else 0.0),
        }


def _exact_numbers(layer: Layer) -> dict[str, Any]:
    """Return the layer's own numbers and shape, for the metadata."""
    neuron = layer.neuron
    match neuron:
        case LIF():
            names = ["threshold", "current_decay", "voltage_decay", "rest"]
        case SubtractiveLIF():
            names = ["threshold", "current_decay", "voltage_decay", "rest", "max_spikes"]
        case LI():
            names = ["current_decay", "voltage_decay", "rest"]
        case _:
            raise unsupported_kind(neuron)
    arrays = {name: np.array(getattr(neuron, name)) for name in names} | {"bias": np.array(layer.bias)}
    # A number where one counts for all neurons.
    numbers = {key: value if value.ndim else float(value) for key, value in arrays.items()}
    subtracts = {RESET_KEY: "subtract"} if reset_of(neuron) == "by subtraction" else {}
    return numbers | {"shape": np.array(layer.shape)} | subtracts

"""Layers, the connections into them, and the graph that they form, with float or integer weights.

On the network's own clock a layer answers the input of the same step. On the chip every synapse takes one step, so a layer
answers as many steps later as there are synapses on the longest path to it (`pipeline_depths`). A connection that skips
layers is early by the difference (`early_steps`); its spikes wait in the synapse (`wait_steps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, check_arguments, counted, unsupported_kind
from neurodeploy.ir.arrays import ByValue, html_table
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring, Wiring

if TYPE_CHECKING:
    import networkx as nx  # imported where it is used: it takes longer to load than the rest of this folder

INPUT = "input"
"""Name of the network's input as the source of a connection."""


def layer_name(module_path: str) -> str:
    """Name of the layer made from a torch module: its dotted path; ``"layer3"`` for a path that is only the number 3."""
    # torch.nn.Sequential numbers its modules: 0, 1, ...
    return f"layer{module_path}" if module_path.isdigit() else module_path


class HasFields(Protocol):
    """A neuron kind: a dataclass whose fields are its parameters, arrays () or (n_neurons,)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


N = TypeVar("N", bound="HasFields")
S = TypeVar("S", bound="Wiring")


@check_arguments
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connection(ByValue, Generic[S]):
    """Synapses from one population into the layer that holds this connection.

    Attributes
    ----------
    source : str
        Name of the layer that sends the spikes, or `INPUT`.
    synapse : Dense, Sparse, Conv or their quantised kind
    delay_steps : int
        Synaptic delay, at least 0, beyond the one step that every synapse takes on the chip.
    is_fixed : bool
        Whether the weights are not trained: those of a pooling, or of a skip without weights.
    """

    source: str
    synapse: S
    delay_steps: int = 0
    is_fixed: bool = False

    def __post_init__(self) -> None:
        if self.delay_steps < 0:
            raise NetworkError(f"connection from {self.source!r}", f"has a delay of {self.delay_steps} steps")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population(ByValue, Generic[N, S]):
    """A population of neurons and the connections into it: `Layer` with floats, `QuantizedLayer` with integers.

    Attributes
    ----------
    name : str
        Unique in its network; neither empty nor `INPUT`, and without a slash.
    shape : tuple of int
        Neurons along each axis, at least 1; (channels, rows, columns) after a convolution.
    neuron : dataclass
        The neuron kind with its parameters, each () or (n_neurons,).
    connections : tuple of Connection
        At least one.
    bias : array () or (n_neurons,)
    """

    name: str
    shape: tuple[int, ...]
    neuron: N
    connections: tuple[Connection[S], ...]
    bias: NDArray[Any]

    @property
    def n_neurons(self) -> int:
        return int(np.prod(self.shape))

    @property
    def weight(self) -> NDArray[Any]:
        """Weights (n_neurons, n_in) of a layer with a single, dense connection.

        Raises
        ------
        NetworkError
            The layer has other connections.
        """
        synapse = self.connections[0].synapse
        if len(self.connections) != 1 or not isinstance(synapse, DenseWiring):
            kinds = " and ".join(type(connection.synapse).__name__ for connection in self.connections)
            raise NetworkError(f"layer {self.name!r}", f"has the synapses {kinds}, not one matrix")
        return synapse.weight

    @property
    def n_synapses(self) -> int:
        """Connected pairs of neurons; a weight of a convolution counts at every position of its window."""
        return sum(connection.synapse.n_synapses for connection in self.connections)

    @property
    def n_weights(self) -> int:
        """Weights, zeros included; those of a convolution count once.

        Recurrent neurons without synapses onto themselves have no weights for them: the diagonal of their matrix does not count.
        """
        return sum(c.synapse.weight.size - self._n_empty_diagonal(c) for c in self.connections)

    def _n_empty_diagonal(self, connection: Connection[S]) -> int:
        """Length of the diagonal of a recurrent matrix, if all of it is zero; else 0."""
        synapse = connection.synapse
        if connection.source != self.name or not isinstance(synapse, DenseWiring):
            return 0
        return 0 if synapse.weight.diagonal().any() else len(synapse.weight)

    @property
    def n_pairs(self) -> int:
        """Pairs of neurons that would be connected if no weight were zero."""
        return sum(connection.synapse.n_pairs for connection in self.connections)

    @property
    def connectivity(self) -> float:
        """Share of the weights that are not zero, 0..1."""
        return sum(int(np.count_nonzero(c.synapse.weight)) for c in self.connections) / max(self.n_weights, 1)

    def _check(self) -> None:
        where = f"layer {self.name!r}"
        if not self.name or self.name == INPUT or "/" in self.name:
            raise NetworkError(where, f"needs a name without a slash, other than {INPUT!r}")
        if not self.shape or any(side < 1 for side in self.shape):
            raise NetworkError(where, f"has shape {self.shape}: every side must be at least 1")
        if not self.connections:
            raise NetworkError(where, "has no connection into it")
        # Every field of a neuron kind is a parameter, so a new kind is checked here without a change.
        per_neuron = {"bias": self.bias} | {f.name: getattr(self.neuron, f.name) for f in fields(self.neuron)}
        for name, array in per_neuron.items():
            if np.shape(array) not in ((), (self.n_neurons,)):
                raise NetworkError(where, f"{name} has shape {np.shape(array)}, not () or ({self.n_neurons},)")
        synapses: list[Wiring] = [connection.synapse for connection in self.connections]
        for synapse in synapses:
            if synapse.n_out != self.n_neurons:
                raise NetworkError(where, f"has {counted(self.n_neurons, 'neuron')} but weights for {synapse.n_out}")
            match synapse:
                case ConvWiring(output_shape=image):
                    if image != self.shape:
                        raise NetworkError(where, f"has shape {self.shape}, but its convolution gives {image}")
                case DenseWiring() | SparseWiring():
                    pass  # they see a row of neurons, whatever its shape
                case _:
                    raise unsupported_kind(synapse)


L = TypeVar("L", bound="Population[Any, Any]")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerGraph(ByValue, Generic[L]):
    """Layers in topological order: each receives spikes from the input, from layers before it, or from itself.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of the input spikes of one step, without batch and time.
    layers : tuple of layers
        At least one; the last is the output.
    """

    input_shape: tuple[int, ...]
    layers: tuple[L, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError("network", "has no layer")
        if not self.input_shape or any(side < 1 for side in self.input_shape):
            raise NetworkError("network", f"has input shape {self.input_shape}: every side must be at least 1")
        # Filled layer by layer, each before its connections are checked: sources are earlier layers or the layer itself.
        shapes = {INPUT: self.input_shape}
        for layer in self.layers:
            if layer.name in shapes:
                raise NetworkError(f"layer {layer.name!r}", "occurs twice in the network")
            shapes[layer.name] = layer.shape
            for connection in layer.connections:
                self._check_source(layer, connection, shapes)

    def _check_source(self, layer: L, connection: Connection[Any], shapes: dict[str, tuple[int, ...]]) -> None:
        where, source = f"layer {layer.name!r}", connection.source
        synapse: Wiring = connection.synapse
        if source not in shapes:
            raise NetworkError(
                where,
                f"receives spikes from {source!r}, which is no layer before it",
                remedy="List each layer after the layers that it receives spikes from.",
            )
        n_source = int(np.prod(shapes[source]))
        if synapse.n_in != n_source:
            raise NetworkError(where, f"expects {synapse.n_in} inputs, but {source!r} has {n_source}")
        match synapse:
            case ConvWiring(input_shape=image):
                # The right number of neurons is not enough: a convolution reads the axes as channels, rows and columns.
                if image != shapes[source]:
                    raise NetworkError(where, f"convolves {image}, but {source!r} has shape {shapes[source]}")
            case DenseWiring() | SparseWiring():
                pass
            case _:
                raise unsupported_kind(synapse)

    def __getitem__(self, name: str) -> L:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)

    def targets(self, source: str) -> Iterator[tuple[L, Connection[Any]]]:
        """Every layer that receives spikes from `source`, with the connection; a layer with two connections comes twice."""
        return ((layer, c) for layer in self.layers for c in layer.connections if c.source == source)

    @property
    def n_inputs(self) -> int:
        return int(np.prod(self.input_shape))

    @property
    def n_neurons(self) -> int:
        return sum(layer.n_neurons for layer in self.layers)

    @property
    def n_synapses(self) -> int:
        return sum(layer.n_synapses for layer in self.layers)

    @property
    def output(self) -> L:
        """The last layer, whose answer is read."""
        return self.layers[-1]

    @property
    def connectivity(self) -> float:
        """Share of all weights that are not zero, 0..1."""
        n_weights = sum(layer.n_weights for layer in self.layers)
        return sum(layer.connectivity * layer.n_weights for layer in self.layers) / max(n_weights, 1)

    def to_networkx(self) -> nx.MultiDiGraph:
        """The network as a networkx graph: one node for `INPUT` and for each layer, one edge for each connection.

        Returns
        -------
        networkx.MultiDiGraph
            Nodes have `shape`, `n_neurons`, `neuron` (name of the neuron kind; None for the input) and `has_bias`.
            Edges have `synapse` (name of the synapse kind), `n_synapses` and `delay_steps`.
        """
        import networkx as nx

        # Multi: a layer may have two connections from one source, as with two delays.
        graph = nx.MultiDiGraph()
        graph.add_node(INPUT, shape=self.input_shape, n_neurons=self.n_inputs, neuron=None, has_bias=False)
        for layer in self.layers:
            kind, has_bias = type(layer.neuron).__name__, bool(layer.bias.any())
            graph.add_node(layer.name, shape=layer.shape, n_neurons=layer.n_neurons, neuron=kind, has_bias=has_bias)
            connections: tuple[Connection[Any], ...] = layer.connections
            for c in connections:
                n_synapses = c.synapse.n_synapses
                graph.add_edge(
                    c.source, layer.name, synapse=type(c.synapse).__name__, n_synapses=n_synapses, delay_steps=c.delay_steps
                )
        return graph

    def _repr_html_(self) -> str:
        """An HTML table for notebooks, one row a layer."""
        whole = f"{counted(self.n_neurons, 'neuron')}, {counted(self.n_synapses, 'synapse')}"
        return html_table(
            f"{type(self).__name__}: input {self.input_shape}, {counted(len(self.layers), 'layer')}, {whole}",
            ["layer", "shape", "neurons", "neuron", "sources", "synapses", "weights not zero"],
            (
                (
                    layer.name, " x ".join(map(str, layer.shape)), layer.n_neurons, type(layer.neuron).__name__,
                    ", ".join(f"{c.source} ({type(c.synapse).__name__})" for c in layer.connections), layer.n_synapses,
                    float(layer.connectivity),
                )
                for layer in self.layers
            ),
        )  # fmt: skip

    def __iter__(self) -> Iterator[L]:
        return iter(self.layers)


def pipeline_depths(layers: Iterable[Population[Any, Any]]) -> dict[str, int]:
    """Steps after which each layer answers the input on the chip: synapses on the longest path from the input to it.

    0 for `INPUT` and for bias layers, which fire from the first step on. Recurrent connections of a layer onto itself do not
    count. `layers` are in topological order, as in a `LayerGraph`.
    """
    layers = tuple(layers)
    bias_names = bias_layers(layers)
    depths = {INPUT: 0}
    for layer in layers:
        # A layer with no source but itself is placed one step behind the input.
        sources = {c.source for c in layer.connections} - {layer.name} or {INPUT}
        depths[layer.name] = 0 if layer.name in bias_names else 1 + max(depths[source] for source in sources)
    return depths


def bias_layers(layers: Iterable[Population[Any, Any]]) -> frozenset[str]:
    """Names of the layers that only supply biases: their input weights are all zero, and another layer reads the input.

    Frontends add one where biases have to enter the synaptic current: a neuron that fires at every step, whose synapses carry
    the biases. It needs no input, so nothing waits for it. Where no other layer reads the input, such a layer is an ordinary
    one that has lost its synapses.
    """
    layers = tuple(layers)
    if sum(any(c.source == INPUT for c in layer.connections) for layer in layers) < 2:
        return frozenset()
    return frozenset(
        layer.name
        for layer in layers
        if all(c.source == INPUT for c in layer.connections) and not any(c.synapse.weight.any() for c in layer.connections)
    )


def bias_sources(layers: Iterable[Population[Any, Any]]) -> frozenset[str]:
    """Names of the bias layers, and of the relays that repeat their spikes: as large, and with no other source."""
    layers = tuple(layers)
    biases = bias_layers(layers)
    found = {layer.name: layer.n_neurons for layer in layers if layer.name in biases}
    for layer in layers:
        if len(layer.connections) == 1 and found.get(layer.connections[0].source) == layer.n_neurons:
            found[layer.name] = layer.n_neurons
    return frozenset(found)


def early_steps(layers: Iterable[Population[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """Steps by which the spikes of each connection of each layer arrive before those of the longest path to the layer."""
    layers = tuple(layers)
    depth = pipeline_depths(layers)
    return {
        layer.name: tuple(
            # A layer's own spikes are due in the next step, whatever its depth. A bias layer is as deep as its source, the
            # input: its difference would be -1.
            0 if c.source == layer.name else max(depth[layer.name] - depth[c.source] - 1, 0)
            for c in layer.connections
        )
        for layer in layers
    }


def wait_steps(layers: Iterable[Population[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """Steps that spikes wait in each connection of each layer, beyond the synapse's own: its delay and its `early_steps`."""
    layers = tuple(layers)
    early = early_steps(layers)
    return {
        layer.name: tuple(c.delay_steps + steps for c, steps in zip(layer.connections, early[layer.name], strict=True))
        for layer in layers
    }

"""How populations hang together: connections into layers, layers into a graph, whatever numbers they hold.

When layers answer on the chip, where every synapse takes a step, and how long spikes have to wait there for others.

On the network's own clock a layer answers the input of the same step. On the chip it does so as many steps later as there are
synapses on the longest path to it. A connection that skips layers is that much too early: its spikes wait in the synapse.
A neuron that brings a bias hears nobody: it begins when the input does, and nothing has to wait for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, unsupported_kind
from neurodeploy.ir.arrays import ByValue, html_table
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring, Wiring

# -------------------- graph

INPUT = "input"
"""The name by which connections call the network's input."""


def layer_name(module_path: str) -> str:
    """What the layer of a torch module is called: its dotted path, ``"layer3"`` for a path that is only the number 3."""
    return f"layer{module_path}" if module_path.isdigit() else module_path


class HasFields(Protocol):
    """Any kind of neuron: a dataclass of its parameters."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


N = TypeVar("N", bound="HasFields")
S = TypeVar("S", bound="Wiring")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connection(ByValue, Generic[S]):
    """Synapses from one population into the layer that holds this connection.

    Attributes
    ----------
    source : str
        Name of the layer that the spikes come from, or `INPUT`.
    synapse : Dense, Sparse, Conv or their quantised kind
    delay_steps : int
        Synaptic delay beyond the one step that every synapse takes on the chip.
    """

    source: str
    synapse: S
    delay_steps: int = 0

    def __post_init__(self) -> None:
        if self.delay_steps < 0:
            raise NetworkError(f"connection from {self.source!r}", f"has a delay of {self.delay_steps} steps")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population(ByValue, Generic[N, S]):
    """A population of neurons and the connections into it; `Layer` in floats, `QuantizedLayer` in integers."""

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
        """The matrix (n_neurons, n_in) of a layer with a single, dense connection."""
        synapse = self.connections[0].synapse
        if len(self.connections) != 1 or not isinstance(synapse, DenseWiring):
            kinds = " and ".join(type(connection.synapse).__name__ for connection in self.connections)
            raise NetworkError(f"layer {self.name!r}", f"has the synapses {kinds}, not one matrix")
        return synapse.weight

    @property
    def n_synapses(self) -> int:
        """Pairs of neurons that are connected; a convolution's weights count wherever its window stands."""
        return sum(connection.synapse.n_synapses for connection in self.connections)

    @property
    def n_weights(self) -> int:
        """Weights that the layer has, zeros included; a convolution's count once."""
        return sum(connection.synapse.weight.size for connection in self.connections)

    @property
    def n_pairs(self) -> int:
        """Pairs of neurons that the synapses could connect, if no weight were zero."""
        return sum(connection.synapse.n_pairs for connection in self.connections)

    @property
    def connectivity(self) -> float:
        """Share of the weights that are not zero, 0..1."""
        return sum(int(np.count_nonzero(c.synapse.weight)) for c in self.connections) / max(self.n_weights, 1)

    def _check(self) -> None:
        where = f"layer {self.name!r}"
        if not self.name or self.name == INPUT or "/" in self.name:
            raise NetworkError(where, "needs a name of its own, without a slash")
        if not self.shape or any(side < 1 for side in self.shape):
            raise NetworkError(where, f"has shape {self.shape}: every side must be at least 1")
        if not self.connections:
            raise NetworkError(where, "has no connection into it")
        per_neuron = {"bias": self.bias} | {f.name: getattr(self.neuron, f.name) for f in fields(self.neuron)}
        for name, array in per_neuron.items():
            if array.shape not in ((), (self.n_neurons,)):
                raise NetworkError(where, f"{name} has shape {array.shape}, not () or ({self.n_neurons},)")
        synapses: list[Wiring] = [connection.synapse for connection in self.connections]
        for synapse in synapses:
            if synapse.n_out != self.n_neurons:
                raise NetworkError(where, f"has {self.n_neurons} neurons but weights for {synapse.n_out}")
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
class Graph(ByValue, Generic[L]):
    """Layers in an order in which spikes pass them: each hears the input, layers before it, or itself."""

    input_shape: tuple[int, ...]
    layers: tuple[L, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError("network", "has no layer")
        if not self.input_shape or any(side < 1 for side in self.input_shape):
            raise NetworkError("network", f"has input shape {self.input_shape}: every side must be at least 1")
        shapes = {INPUT: self.input_shape}
        for layer in self.layers:
            if layer.name in shapes:
                raise NetworkError(f"layer {layer.name!r}", "stands twice in the network")
            shapes[layer.name] = layer.shape
            for connection in layer.connections:
                self._check_source(layer, connection, shapes)

    def _check_source(self, layer: L, connection: Connection[Any], shapes: dict[str, tuple[int, ...]]) -> None:
        where, source = f"layer {layer.name!r}", connection.source
        synapse: Wiring = connection.synapse
        if source not in shapes:
            raise NetworkError(
                where,
                f"takes spikes from {source!r}, which is no layer before it",
                remedy="List layers in the order of spikes.",
            )
        n_source = int(np.prod(shapes[source]))
        if synapse.n_in != n_source:
            raise NetworkError(where, f"expects {synapse.n_in} inputs, but {source!r} has {n_source}")
        match synapse:
            case ConvWiring(input_shape=image):
                if image != shapes[source]:
                    raise NetworkError(where, f"convolves {image}, but {source!r} has shape {shapes[source]}")
            case DenseWiring() | SparseWiring():
                pass
            case _:
                raise unsupported_kind(synapse)

    def require_chain(self, what: str, side_layers: Collection[str] = (), *, loops: bool = False) -> None:
        """Refuse, for what can do no more yet, all but layers with one connection from the layer before, dense or a convolution.

        `side_layers` names layers that stand beside the chain, and may be heard by any of it; with `loops` a dense layer may hear
        itself, too.

        Raises
        ------
        NetworkError
            The network is more than that; it names the layer and what `what` cannot do.
        """
        previous = INPUT
        for layer in (layer for layer in self.layers if layer.name not in side_layers):
            connections = [c for c in layer.connections if c.source not in side_layers] or layer.connections
            if loops and all(isinstance(c.synapse, DenseWiring) and not c.delay_steps for c in connections):
                connections = [c for c in connections if c.source != layer.name] or connections
            kinds = [f"{type(c.synapse).__name__} from {c.source!r}" for c in connections]
            first = connections[0]
            is_known = isinstance(first.synapse, (DenseWiring, ConvWiring)) and not first.delay_steps
            if len(kinds) > 1 or first.source != previous or not is_known:
                raise NetworkError(
                    f"layer {layer.name!r}",
                    f"has {' and '.join(kinds)}; {what} knows only chains of dense layers and convolutions, undelayed",
                )
            previous = layer.name

    def __getitem__(self, name: str) -> L:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)

    def targets(self, source: str) -> Iterator[tuple[L, Connection[Any]]]:
        """The layers that hear `source`, with the connection by which they do."""
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
        """The last layer."""
        return self.layers[-1]

    @property
    def connectivity(self) -> float:
        """Share of all weights that are not zero, 0..1."""
        n_weights = sum(layer.n_weights for layer in self.layers)
        return sum(layer.connectivity * layer.n_weights for layer in self.layers) / max(n_weights, 1)

    def _repr_html_(self) -> str:
        """A row a layer, for a notebook."""
        whole = f"{self.n_neurons:,} neurons, {self.n_synapses:,} synapses"
        return html_table(
            f"{type(self).__name__}: input {self.input_shape}, {len(self.layers):,} layers, {whole}",
            ["layer", "shape", "neurons", "neuron", "hears", "synapses", "weights not zero"],
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


# -------------------- chip_clock


def pipeline_depths(layers: Iterable[Population[Any, Any]]) -> dict[str, int]:
    """Synapses on the longest path from the input to each layer; 0 for the input itself, and for what begins when it does."""
    layers, depth = tuple(layers), {INPUT: 0}
    beside = sum(any(c.source == INPUT for c in layer.connections) for layer in layers) > 1
    for layer in layers:
        longest = 1 + max((depth[c.source] for c in layer.connections if c.source != layer.name), default=0)
        depth[layer.name] = 0 if beside and _hears_nobody(layer) else longest
    return depth


def bias_layers(layers: Iterable[Population[Any, Any]]) -> frozenset[str]:
    """The layers that hear nobody and begin when the input does: neurons that bring biases."""
    return frozenset(name for name, depth in pipeline_depths(layers).items() if depth == 0 and name != INPUT)


def _hears_nobody(layer: Population[Any, Any]) -> bool:
    """Whether a layer stands where the input is heard, and has no synapse from it."""
    return all(c.source == INPUT for c in layer.connections) and not any(c.synapse.weight.any() for c in layer.connections)


def early_steps(layers: Iterable[Population[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """Steps by which the spikes of each connection of each layer come before those of the longest path to it."""
    layers = tuple(layers)
    depth = pipeline_depths(layers)
    return {
        layer.name: tuple(
            0 if c.source == layer.name else max(depth[layer.name] - depth[c.source] - 1, 0) for c in layer.connections
        )
        for layer in layers
    }


def wait_steps(layers: Iterable[Population[Any, Any]]) -> dict[str, tuple[int, ...]]:
    """Steps that spikes wait in each connection of each layer, beyond the one that every synapse takes: delayed, or early."""
    layers = tuple(layers)
    delays = {layer.name: [c.delay_steps for c in layer.connections] for layer in layers}
    return {name: tuple(map(sum, zip(steps, delays[name], strict=True))) for name, steps in early_steps(layers).items()}

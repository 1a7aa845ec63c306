"""NIR files: nodes by name with their numbers, subgraphs flattened, the edges between them, and what linear nodes compute.

Read from the file's HDF5 groups and not through `nir.read`, which fails on a file without saying which node it could not build.

`write_nir` keeps in the metadata of its nodes what NIR has no field for. It is used as long as the nodes say the same:

========================  =====================================================================================
of the graph              ``dt`` and ``discretisation``; ``timestep_s`` of the network; ``written_by``
of neurons                ``order`` among the layers; ``shape`` of the population; ``bias``; and ``current_decay``,
                          ``voltage_decay``, ``threshold``, ``rest``, each to its last bit, which a time constant rounds off;
                          ``reset``, ``"subtract"``, and ``max_spikes`` of such as subtract
of a Linear or Affine     ``synapse``: ``sparse`` if its zeros are not synapses
========================  =====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import h5py
import nir.serialization
import numpy as np

from neurodeploy.errors import ExtractError, in_words
from neurodeploy.frontends import expressions
from neurodeploy.frontends.assembly import LayerSpec
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, Shape, rearrange
from neurodeploy.ir.arrays import Floats, hdf5_damage, is_plain
from neurodeploy.ir.connectivity import Pair, is_convolution
from neurodeploy.ir.files import absence
from neurodeploy.ir.network import Dense, Layer, Network, Sparse

_LARGEST_INTEGER = 2**31
"""Sides, strides and delays are below it."""
SUBGRAPH_END = "subgraph end"
"""Kind of the Input and Output nodes of a subgraph, which pass on what they receive; not a name that a file could hold."""

RESET_KEY = "reset"
"""Key in the metadata of neurons: ``"subtract"`` where they reset by subtraction, up to ``max_spikes`` a step."""
SPARSE = "sparse"
"""Value of ``synapse`` in the metadata of a matrix whose zeros are not synapses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NirNode:
    """A node of a NIR graph.

    Attributes
    ----------
    name : str
        Its path in the graph, with dots.
    kind : str
        Name of its NIR primitive.
    fields, metadata : mapping of str
    """

    name: str
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"node {self.name!r} ({self.kind})"

    def floats(self, key: str, default: float | None = None) -> Floats:
        """Return a field as float64, whatever type of number the file holds.

        Raises
        ------
        ExtractError
            The file does not have it, or it is not finite numbers.
        """
        value = self.fields.get(key, default)
        if value is None:
            raise ExtractError(self.where, f"has no {key}", remedy="Export it again with a newer library, or add it to the file.")
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":  # numpy's kinds: bool, integers, floats
            raise ExtractError(self.where, f"its {key} is {value!r}, not numbers")
        if array.size == 0:
            raise ExtractError(self.where, f"its {key} holds no number")
        if not np.isfinite(array).all():
            raise ExtractError(
                self.where,
                f"its {key} is not finite",
                remedy="A neuron that forgets nothing is an IF (snnTorch writes infinities for a beta of 1).",
            )
        return array.astype(np.float64)

    def per_neuron(self, key: str, shape: Shape, default: float | None = None) -> Floats:
        """Return a field for a population of this shape: () if it has one value, else (n,)."""
        value = self.floats(key, default)
        while value.ndim > len(shape) and value.shape[0] == 1:  # a batch of one in front, as some exporters write it
            value = value[0]
        n = int(np.prod(shape))
        if value.shape not in ((), (n,)):
            try:
                value = np.broadcast_to(value, shape).reshape(n)
            except ValueError:
                raise ExtractError(
                    self.where, f"its {key} has shape {value.shape}, but it receives something of shape {shape}"
                ) from None
        # Equal values become one: layers of one value are stored, and compared, as scalars.
        return value.reshape(-1)[0].reshape(()) if (value == value.reshape(-1)[:1]).all() else value

    def integers(self, key: str, n: int, default: int | None = None) -> tuple[int, ...]:
        """Return a field of `n` whole numbers; a single one counts for all."""
        value = self.floats(key, default).reshape(-1)
        if value.size not in (1, n) or (value != np.rint(value)).any() or (np.abs(value) >= _LARGEST_INTEGER).any():
            raise ExtractError(self.where, f"its {key} is {self.fields[key]!r}, not {n} whole numbers")
        return tuple(int(number) for number in np.broadcast_to(value, n))


@dataclass(frozen=True, slots=True, kw_only=True)
class NirGraph:
    """All nodes of a file, subgraphs flattened, and the edges between them, each once, in the order of the file."""

    path: str
    nodes: Mapping[str, NirNode]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any]

    def sources(self, name: str) -> list[str]:
        """Nodes with an edge to this one."""
        return [source for source, target in self.edges if target == name]

    def targets(self, name: str) -> list[str]:
        """Nodes with an edge from this one."""
        return [target for source, target in self.edges if source == name]

    def text(self, key: str) -> str | None:
        """Return an entry of the metadata if it is text."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> float | None:
        """Return an entry of the metadata if it is one number."""
        value = np.asarray(self.metadata.get(key, ""))
        return float(value) if value.ndim == 0 and value.dtype.kind in "iuf" else None


def read_graph(path: str | os.PathLike[str]) -> NirGraph:
    """Return the graph of a NIR file.

    Raises
    ------
    ExtractError
        No such file, or no NIR file; a node without a kind; a subgraph with several inputs or outputs; an edge to a node
        that does not exist.
    """
    where = os.fspath(path)
    if why := absence(path):
        raise ExtractError(where, why)

    def check_plain(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not is_plain(item.id):
            raise ExtractError(where, f"{name} is neither numbers nor text", remedy="Write it with nir.write.")

    try:
        if damage := hdf5_damage(path):  # damaged bytes can hang HDF5: a child process with a time limit reads it first
            raise OSError(f"it {damage}")
        with h5py.File(path, "r") as file:
            graph = file["node"]
            if not isinstance(graph, h5py.Group):
                raise KeyError("its node is no group")
            graph.visititems(check_plain)  # before any value is read: following damaged references can end the process
            content = nir.serialization.hdf2dict(graph)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # what h5py raises on damaged bytes
        raise ExtractError(where, f"is no NIR file: {error}", remedy="Write it with nir.write.") from error
    if str(content.get("type")) != "NIRGraph":  # damaged, it may be an array
        raise ExtractError(
            where, f"holds a node of type {content.get('type')}, not a NIRGraph", remedy="Put it in a graph with an Input."
        )
    nodes: dict[str, NirNode] = {}
    # An edge that is listed twice counts once; the order stays.
    edges = list(dict.fromkeys(_flattened_edges(where, "", content, nodes)))
    return NirGraph(path=where, nodes=nodes, edges=tuple(edges), metadata=_group(where, content, "metadata"))


def _group(where: str, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the entries of a group; none where it is left out."""
    found = content.get(key, {})
    if not isinstance(found, Mapping):
        raise ExtractError(where, f"has a value {in_words(found)} where its {key} belong", remedy="Write it with nir.write.")
    return found


def _flattened_edges(where: str, prefix: str, content: Mapping[str, Any], nodes: dict[str, NirNode]) -> Iterator[tuple[str, str]]:
    """Add a graph's nodes to `nodes`, those of its subgraphs under dotted paths; yield its edges."""
    entries, exits = {}, {}  # where an edge to a subgraph ends, and where one from it begins
    for name, inside in _group(where, content, "nodes").items():
        path, kind = f"{prefix}{name}", inside.get("type") if isinstance(inside, dict) else None
        if not isinstance(kind, str):
            raise ExtractError(f"node {path!r}", "has no type")
        entries[name] = exits[name] = path
        if kind == "NIRGraph":
            yield from _flattened_edges(where, f"{path}.", inside, nodes)
            entries[name], exits[name] = (f"{path}.{_only_node(path, inside, end)}" for end in ("Input", "Output"))
        else:
            values = {key: value for key, value in inside.items() if key not in ("type", "metadata")}
            is_subgraph_end = bool(prefix) and kind in ("Input", "Output")  # the graph's own Input and Output have no prefix
            nodes[path] = NirNode(
                name=path, kind=SUBGRAPH_END if is_subgraph_end else kind, fields=values,
                metadata=_group(f"node {path!r}", inside, "metadata"),
            )  # fmt: skip
    for pair in np.asarray(content.get("edges", [])).reshape(-1, 2):
        source, target = (
            each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in pair
        )  # h5py gives bytes
        for end in (source, target):
            if end not in entries:
                raise ExtractError(where, f"has an edge from {source!r} to {target!r}, but no node {prefix + end!r}")
        yield exits[source], entries[target]


def _only_node(path: str, content: Mapping[str, Any], kind: str) -> str:
    """Return the name of a subgraph's only Input or Output."""
    nodes = _group(f"node {path!r}", content, "nodes").items()
    found = [name for name, inside in nodes if isinstance(inside, dict) and inside.get("type") == kind]
    if len(found) != 1:
        raise ExtractError(
            f"node {path!r} (NIRGraph)",
            f"is a subgraph with {len(found)} {kind} nodes",
            source="edges do not state which of them they mean",
            remedy=f"Give it one {kind}, or put its nodes into the graph itself.",
        )
    return str(found[0])


# ----------------------------------------------------------------------------------------------------------- linear nodes


@dataclass(frozen=True, slots=True)
class LinearNodeReader:
    """Reads one linear node: what it gives for what it receives, `x`, at steps of `dt`.

    Every method raises `ExtractError` where the node does not fit what it receives, or where no synapses compute it.
    """

    node: NirNode
    x: LinearExpression
    dt: float

    @property
    def module(self) -> ModuleId:
        return self.node.name, self.node.where

    def linear(self) -> LinearExpression:
        """A dense synapse; an Affine with a bias."""
        weight = self._weight("n_out", "n_in")
        bias = self.node.floats("bias").reshape(-1) if self.node.kind == "Affine" else None  # a Linear has none
        if bias is not None and bias.size not in (1, len(weight)):
            raise ExtractError(self.node.where, f"its bias has {bias.size} numbers, its weight {len(weight)} rows")
        if self.x.bias.size != weight.shape[1]:
            raise ExtractError(
                self.node.where, f"expects {weight.shape[1]} inputs, but receives something of shape {self.x.shape}"
            )
        return expressions.linear(self.module, _reshaped(self.x, (-1,)), weight, bias)

    def conv2d(self) -> LinearExpression:
        """A convolution of any stride, padding, dilation and groups."""
        weight = self._weight("out", "in / groups", "rows", "columns")
        stride, dilation = self._pair("stride", 1), self._pair("dilation", 1)
        return self._convolved(self._without_batch(3), weight, stride, dilation, self._padding(2))

    def conv1d(self) -> LinearExpression:
        """A convolution of images of one row."""
        weight = self._weight("out", "in / groups", "n")[:, :, None]
        lines = self._without_batch(2)
        if len(lines.shape) != 2:
            raise ExtractError(self.node.where, f"needs lines (channels, n), but its input has shape {self.x.shape}")
        stride, dilation = ((1, *self.node.integers(key, 1, 1)) for key in ("stride", "dilation"))
        padding = self._padding(1)
        image = _reshaped(lines, (lines.shape[0], 1, lines.shape[1]))
        out = self._convolved(image, weight, (1, stride[1]), (1, dilation[1]), padding)
        return _reshaped(out, (out.shape[0], out.shape[2]))

    def pooled(self) -> LinearExpression:
        """Folds into the weights behind it, or is a convolution."""
        kernel = self._pair("kernel_size", None)
        # A sum is an average times the pixels of its window.
        share = 1.0 if self.node.kind == "SumPool2d" else 1.0 / (kernel[0] * kernel[1])
        stride, padding = self._pair("stride", None), self._pair("padding", 0)
        image = self._without_batch(3)
        return expressions.average_pool(self.module, image, kernel=kernel, stride=stride, padding=padding, share=share)

    def flattened(self) -> LinearExpression:
        """Rearranges elements: several dimensions become one."""
        shape = self.x.shape
        # The defaults are NIR's own: torch's, which count a batch that the graph's shapes do not have.
        first, last = (self.node.integers(key, 1, default)[0] for key, default in (("start_dim", 1), ("end_dim", -1)))
        first, last = (side + len(shape) if side < 0 else side for side in (first, last))
        if not 0 <= first < len(shape) or last >= len(shape):
            raise ExtractError(self.node.where, f"flattens dimensions {first}..{last} of something of shape {shape}")
        return _reshaped(self.x, (*shape[:first], int(np.prod(shape[first : last + 1])), *shape[last + 1 :]))

    def scaled(self) -> LinearExpression:
        """Scales the weights behind it."""
        return expressions.scale(self.module, self.x, self._per_element("scale"))

    def delayed(self) -> LinearExpression:
        """Whole steps, a connection for each length: one for all elements, or one for each."""
        steps = self._per_element("delay") / self.dt
        whole = np.rint(steps)
        # Relative: files hold single precision.
        if (np.abs(steps - whole) > 1e-6 * np.maximum(whole, 1)).any() or (whole < 0).any() or whole.max() > 2**31:
            worst = steps.reshape(-1)[np.argmax(np.abs(steps - whole))]
            raise ExtractError(
                self.node.where,
                f"delays by {worst:g} steps of {self.dt:g}",
                source="a chip delays by whole steps",
                remedy="Specify a dt that all delays are multiples of, or round them.",
            )
        if self.x.bias.any() and whole.any():  # a delayed constant would be missing in the first steps
            raise ExtractError(
                self.node.where,
                "delays a bias, which a network has from its first step on",
                remedy="Put the Delay before the node with the bias.",
            )
        delays = np.broadcast_to(whole, self.x.shape).astype(np.int64)
        terms = [
            replace(term, step=term.step - int(delay), indices=np.where(delays == delay, term.indices, 0))
            for term in self.x.terms
            for delay in np.unique(delays[term.indices > 0])  # one term, and so one connection, for each length
        ]
        return replace(self.x, terms=tuple(terms))

    def unchanged(self) -> LinearExpression:
        """Passes through."""
        return self.x

    def _convolved(
        self, image: LinearExpression, weight: Floats, stride: Pair, dilation: Pair, padding: Pair | Literal["same"]
    ) -> LinearExpression:
        groups = self.node.integers("groups", 1, 1)[0]
        if len(image.shape) == 3 and image.shape[0] != weight.shape[1] * groups:
            raise ExtractError(
                self.node.where,
                f"expects {weight.shape[1] * groups} channels, but receives something of shape {image.shape}",
            )
        bias = np.broadcast_to(self.node.floats("bias", 0.0).reshape(-1), len(weight))  # one number counts for all channels
        return expressions.convolution(
            self.module, image, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )

    def _weight(self, *dimensions: str) -> Floats:
        weight = self.node.floats("weight")
        if weight.ndim != len(dimensions):
            raise ExtractError(self.node.where, f"its weight has shape {weight.shape}, not ({', '.join(dimensions)})")
        return weight

    def _padding(self, n: int) -> Pair | Literal["same"]:
        """Return the zeros on each side of `n` dimensions; NIR has torch's words for them too."""
        match self.node.fields.get("padding", 0):
            case str("valid"):
                return 0, 0
            case str("same"):
                return "same"
            case str(word):  # files hold torch's words or numbers; anything else is a mistake
                raise ExtractError(self.node.where, f"its padding is {word!r}, not 'valid', 'same' or numbers")
            case _:
                sides = self.node.integers("padding", n, 0)
                return (0 if n == 1 else sides[0]), sides[-1]

    def _pair(self, key: str, default: int | None) -> Pair:
        rows, columns = self.node.integers(key, 2, default)
        return rows, columns

    def _per_element(self, key: str) -> Floats:
        values = self.node.per_neuron(key, self.x.shape)
        return values.reshape(self.x.shape) if values.shape else values

    def _without_batch(self, ndim: int) -> LinearExpression:
        """Return what arrives, without a batch of one in front."""
        shape = self.x.shape
        return _reshaped(self.x, shape[1:]) if len(shape) == ndim + 1 and shape[0] == 1 else self.x


def _reshaped(x: LinearExpression, shape: Shape) -> LinearExpression:
    return rearrange(x, lambda values: values.reshape(shape)) if x.shape != shape else x


LINEAR_READERS: dict[str, Callable[[LinearNodeReader], LinearExpression]] = {
    "Affine": LinearNodeReader.linear,
    "Linear": LinearNodeReader.linear,
    "Conv1d": LinearNodeReader.conv1d,
    "Conv2d": LinearNodeReader.conv2d,
    "SumPool2d": LinearNodeReader.pooled,
    "AvgPool2d": LinearNodeReader.pooled,
    "Flatten": LinearNodeReader.flattened,
    "Scale": LinearNodeReader.scaled,
    "Delay": LinearNodeReader.delayed,
    SUBGRAPH_END: LinearNodeReader.unchanged,
}
"""Reader of each kind of node."""

INPUT_DIMENSIONS = {"Affine": 1, "Linear": 1, "Conv1d": 2, "Conv2d": 3, "SumPool2d": 3, "AvgPool2d": 3}
"""Dimensions of what a node of this kind receives, without a batch."""


# ------------------------------------------------------------------------------------------------ metadata of `write_nir`


def apply_metadata(network: Network, specs: Sequence[LayerSpec], graph: NirGraph) -> Network:
    """Return the network with exact numbers, shapes and synapse lists from the metadata, where the nodes agree with them."""
    expressions = {spec.name: spec.expression for spec in specs}
    layers = []
    for layer in network:
        node = graph.nodes.get(layer.name)
        if node is not None and layer.name in expressions:  # not the neuron that carries biases
            names = [term.name for term in expressions[layer.name].terms]
            layer = _with_exact_numbers(_with_synapse_lists(layer, names, graph), node)
        layers.append(layer)
    return replace(network, layers=tuple(layers))


def _with_synapse_lists(layer: Layer, names: Sequence[str], graph: NirGraph) -> Layer:
    """Return the layer with those matrices as synapse lists whose nodes, `names`, are marked `SPARSE`."""
    connections = list(layer.connections)
    for index, name in enumerate(names):
        dense = connections[index].synapse
        if name in graph.nodes and str(graph.nodes[name].metadata.get("synapse")) == SPARSE and isinstance(dense, Dense):
            exists = dense.weight != 0  # rows in order, sources ascending in each: the order of `Sparse`
            starts = np.concatenate([[0], np.cumsum(exists.sum(axis=1))])
            sparse = Sparse(n_in=dense.n_in, starts=starts, sources=np.nonzero(exists)[1], weight=dense.weight[exists])
            connections[index] = replace(connections[index], synapse=sparse)
    return replace(layer, connections=tuple(connections))


def _with_exact_numbers(layer: Layer, node: NirNode) -> Layer:
    """Return the layer with the numbers and the shape of the metadata, where they are those of the node but for rounding."""

    def exact(value: Floats, key: str) -> Floats:
        kept = np.asarray(node.metadata.get(key, np.nan))
        fits = kept.dtype.kind in "if" and (kept.ndim == 0 or kept.shape == (layer.n_neurons,))
        # 1e-9 is far above what dt / (dt / d) loses, and far below any edit of the file by hand.
        return kept.astype(np.float64) if fits and np.allclose(kept, value, rtol=1e-9, atol=1e-12) else value

    neuron: Any = layer.neuron
    for parameter in fields(layer.neuron):
        neuron = replace(neuron, **{parameter.name: exact(getattr(neuron, parameter.name), parameter.name)})
    shape = tuple(int(side) for side in np.reshape(node.metadata.get("shape", ()), -1))
    # The file was edited, or a convolution fixes the shape.
    if int(np.prod(shape)) != layer.n_neurons or not shape or any(is_convolution(c.synapse) for c in layer.connections):
        shape = layer.shape
    return replace(layer, neuron=neuron, shape=shape, bias=exact(layer.bias, "bias"))

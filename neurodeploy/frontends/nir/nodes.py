"""NIR files: nodes by name with their numbers, subgraphs flattened, and the edges between them.

Read from the file's HDF5 groups and not through `nir.read`, which fails on a file without saying which node it could not build.

`write_nir` keeps in the metadata of its nodes what NIR has no field for. It is used as long as the nodes say the same:

========================  =====================================================================================
of the graph              ``dt`` and ``discretisation``; ``timestep_s`` of the network; ``written_by``
of neurons                ``order`` among the layers; ``shape`` of the population; ``bias``; and ``current_decay``,
                          ``voltage_decay``, ``threshold``, ``rest``, each to its last bit, which a time constant rounds off
of a Linear or Affine     ``synapse``: ``sparse`` if its zeros are not synapses
========================  =====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import h5py
import nir.serialization
import numpy as np

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.assembly import LayerSpec
from neurodeploy.frontends.expressions import Shape
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.files import absence, hdf5_damage, is_plain
from neurodeploy.ir.network import Dense, Layer, Network, Sparse

_LARGEST_INTEGER = 2**31
"""Sides, strides and delays are below it."""
SUBGRAPH_END = "subgraph end"
"""Kind of the Input and Output nodes of a subgraph, which pass on what they receive; not a name that a file could hold."""

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
        raise ExtractError(where, f"holds a {content.get('type')}, not a NIRGraph", remedy="Put it in a graph with an Input.")
    nodes: dict[str, NirNode] = {}
    # An edge that is listed twice counts once; the order stays.
    edges = list(dict.fromkeys(_flattened_edges(where, "", content, nodes)))
    return NirGraph(path=where, nodes=nodes, edges=tuple(edges), metadata=_group(where, content, "metadata"))


def _group(where: str, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the entries of a group; none where it is left out."""
    found = content.get(key, {})
    if not isinstance(found, Mapping):
        raise ExtractError(where, f"has a {type(found).__name__} where its {key} belong", remedy="Write it with nir.write.")
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

"""What stands in a NIR file: nodes by name with their numbers, subgraphs laid open, and edges between them.

Read from the file's groups and not through `nir.read`, which gives up on a file without saying which node it could not build.

What NIR has no words for and `write_nir` keeps in the metadata of its nodes: it holds as long as the nodes say the same.

========================  =====================================================================================
of the graph              ``dt`` and ``discretisation``; ``timestep_s`` of the network; ``written_by``
of neurons                ``order`` among the layers; ``shape`` of the population; ``bias``; and ``current_decay``,
                          ``voltage_decay``, ``threshold``, ``rest``, each to its last bit, which a time constant rounds off
of a Linear or Affine     ``synapse``: ``sparse`` where its zeros are no synapses
========================  =====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nir.serialization
import numpy as np

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.assembly import Heard
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.files import absence, endless_heap
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import Dense, Layer, Network, Sparse, Synapse
from neurodeploy.targets.loihi.netx_format import is_plain

# -------------------- frontends.nir.nodes

PASSES = "passes"
"""Kind of the Input and Output nodes of a subgraph, which hand on what they hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node: its path in the graph, the name of its primitive, and what the file says of it."""

    name: str
    kind: str
    said: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"node {self.name!r} ({self.kind})"

    def numbers(self, key: str, default: float | None = None) -> Floats:
        """A parameter as float64, whatever numbers the file holds.

        Raises
        ------
        ExtractError
            The file does not have it, or it is not finite numbers.
        """
        value = self.said.get(key, default)
        if value is None:
            raise ExtractError(self.where, f"has no {key}", remedy="Export it again with a newer library, or add it to the file.")
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ExtractError(self.where, f"its {key} is {value!r}, not numbers")
        if not np.isfinite(array).all():
            raise ExtractError(
                self.where, f"its {key} is not finite",
                remedy="A neuron that forgets nothing is an IF (snnTorch writes infinities for a beta of 1).",
            )  # fmt: skip
        return array.astype(np.float64)

    def each(self, key: str, shape: tuple[int, ...], default: float | None = None) -> Floats:
        """A parameter of a population of this shape: () where it has one value, else (n,)."""
        value, n = self.numbers(key, default), int(np.prod(shape))
        while value.ndim > len(shape) and value.shape[0] == 1:
            value = value[0]
        if value.shape not in ((), (n,)):
            fits = value.ndim <= len(shape) and all(a in (1, b) for a, b in zip(value.shape[::-1], shape[::-1], strict=False))
            if not fits:
                raise ExtractError(self.where, f"its {key} has shape {value.shape}, but it hears something of shape {shape}")
            value = np.broadcast_to(value, shape).reshape(n)
        return value.reshape(-1)[0].reshape(()) if (value == value.reshape(-1)[:1]).all() else value

    def whole(self, key: str, n: int, default: int | None = None) -> tuple[int, ...]:
        """A parameter of `n` whole numbers; one stands for all."""
        value = self.numbers(key, default).reshape(-1)
        if value.size not in (1, n) or (value != np.rint(value)).any():
            raise ExtractError(self.where, f"its {key} is {self.said[key]!r}, not {n} whole numbers")
        return tuple(int(number) for number in np.broadcast_to(value, n))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """All nodes of a file, subgraphs laid open, and the edges between them, each once, in the order of the file."""

    path: str
    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any]

    def into(self, name: str) -> list[str]:
        return [source for source, target in self.edges if target == name]

    def out_of(self, name: str) -> list[str]:
        return [target for source, target in self.edges if source == name]

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> float | None:
        value = np.asarray(self.metadata.get(key, ""))
        return float(value) if value.ndim == 0 and value.dtype.kind in "iuf" else None


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph of a NIR file.

    Raises
    ------
    ExtractError
        The file is not there or no NIR file; a node without a kind; a subgraph with several ways in or out; an edge
        to a node that is not there.
    """
    where = os.fspath(path)
    if why := absence(path):
        raise ExtractError(where, why)
    try:
        if (at := endless_heap(Path(path))) is not None:
            raise OSError(f"its texts are damaged at byte {at}")
        with h5py.File(path, "r") as file:
            graph = file["node"]
            if not isinstance(graph, h5py.Group):
                raise KeyError("its node is no group")
            graph.visititems(partial(_check_plain, where))
            said = nir.serialization.hdf2dict(graph)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # what h5py raises on bytes that have been damaged
        raise ExtractError(where, f"is no NIR file: {error}", remedy="Write it with nir.write.") from error
    if said.get("type") != "NIRGraph":
        raise ExtractError(where, f"holds a {said.get('type')}, not a NIRGraph", remedy="Put it in a graph with an Input.")
    nodes: dict[str, Node] = {}
    edges = list(dict.fromkeys(_opened(where, "", said, nodes)))
    return Graph(path=where, nodes=nodes, edges=tuple(edges), metadata=said.get("metadata", {}))


def _check_plain(where: str, name: str, item: h5py.Group | h5py.Dataset) -> None:
    if isinstance(item, h5py.Dataset) and not is_plain(item.id):
        raise ExtractError(where, f"{name} is neither numbers nor text", remedy="Write it with nir.write.")


def _opened(where: str, prefix: str, said: Mapping[str, Any], nodes: dict[str, Node]) -> Iterator[tuple[str, str]]:
    """Put a graph's nodes among `nodes`, those of its subgraphs too; its edges."""
    ways_in, ways_out = {}, {}
    for name, inside in said.get("nodes", {}).items():
        path, kind = f"{prefix}{name}", inside.get("type") if isinstance(inside, dict) else None
        if not isinstance(kind, str):
            raise ExtractError(f"node {path!r}", "does not say of which type it is")
        ways_in[name] = ways_out[name] = path
        if kind == "NIRGraph":
            yield from _opened(where, f"{path}.", inside, nodes)
            ways_in[name], ways_out[name] = (f"{path}.{_way(path, inside, way)}" for way in ("Input", "Output"))
        else:
            fields = {key: value for key, value in inside.items() if key not in ("type", "metadata")}
            is_way = bool(prefix) and kind in ("Input", "Output")
            nodes[path] = Node(
                name=path, kind=PASSES if is_way else kind, said=fields, metadata=inside.get("metadata", {})
            )  # fmt: skip
    for pair in np.asarray(said.get("edges", [])).reshape(-1, 2):
        source, target = (each.decode() if isinstance(each, bytes) else str(each) for each in pair)
        for end in (source, target):
            if end not in ways_in:
                raise ExtractError(where, f"has an edge from {source!r} to {target!r}, but no node {prefix + end!r}")
        yield ways_out[source], ways_in[target]


def _way(path: str, said: Mapping[str, Any], kind: str) -> str:
    """The name of a subgraph's only Input or Output."""
    found = [name for name, inside in said.get("nodes", {}).items() if isinstance(inside, dict) and inside.get("type") == kind]
    if len(found) != 1:
        raise ExtractError(
            f"node {path!r} (NIRGraph)", f"is a subgraph with {len(found)} {kind} nodes", source="edges do not say which of them",
            remedy="Give it one, or put its nodes into the graph itself.",
        )  # fmt: skip
    return str(found[0])


# -------------------- frontends.nir.remembered

SPARSE = "sparse"


def remembered(network: Network, heard: Sequence[Heard], graph: Graph) -> Network:
    """The network with what the metadata of a file adds to it."""
    forms = {population.name: population.form for population in heard}
    layers = []
    for layer in network:
        node = graph.nodes.get(layer.name)
        if node is None or layer.name not in forms:  # the neuron that carries biases
            layers.append(layer)
            continue
        names = [term.name for term in forms[layer.name].terms]
        layers.append(_settled(_listed(layer, names, graph), node))
    return replace(network, layers=tuple(layers))


def _listed(layer: Layer, names: Sequence[str], graph: Graph) -> Layer:
    """The layer with the matrices whose zeros are no synapses as lists."""
    connections = list(layer.connections)
    for index, name in enumerate(names):
        synapse = connections[index].synapse
        if name in graph.nodes and graph.nodes[name].metadata.get("synapse") == SPARSE and isinstance(synapse, Dense):
            connections[index] = replace(connections[index], synapse=_sparse(synapse))
    return replace(layer, connections=tuple(connections))


def _sparse(dense: Dense) -> Sparse:
    exist = dense.weight != 0
    starts = np.concatenate([[0], np.cumsum(exist.sum(axis=1))])
    return Sparse(n_in=dense.n_in, starts=starts, sources=np.nonzero(exist)[1], weight=dense.weight[exist])


def _settled(layer: Layer, node: Node) -> Layer:
    """The layer with the numbers that the metadata have in full, where they are those of the node."""
    neuron: Any = layer.neuron
    for constant in fields(layer.neuron):
        name = constant.name
        neuron = replace(neuron, **{name: _full(getattr(neuron, name), node, name, layer.n_neurons)})
    shape = tuple(int(side) for side in np.reshape(node.metadata.get("shape", ()), -1))
    connections: tuple[Connection[Synapse], ...] = layer.connections
    if not shape or int(np.prod(shape)) != layer.n_neurons or any(hasattr(c.synapse, "output_shape") for c in connections):
        shape = layer.shape
    return replace(layer, neuron=neuron, shape=shape, bias=_full(layer.bias, node, "bias", layer.n_neurons))


def _full(value: Floats, node: Node, key: str, n: int) -> Floats:
    kept = np.asarray(node.metadata.get(key, np.nan))
    fits = kept.dtype.kind in "if" and (kept.ndim == 0 or kept.shape == (n,))
    return kept.astype(np.float64) if fits and np.allclose(kept, value, rtol=1e-9, atol=1e-12) else value

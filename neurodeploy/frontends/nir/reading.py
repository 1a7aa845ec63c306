"""Reading NIR: a graph of nodes becomes a `Network` of the chip's recurrence, exactly, or is refused by name.

Linear nodes map linear expressions to linear expressions; what arrives at a node of neurons becomes the connections of a layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import networkx as nx
import numpy as np

from neurodeploy.errors import ExtractError, check_arguments, unsupported_kind
from neurodeploy.frontends import expressions
from neurodeploy.frontends.assembly import LayerSpec, NodeSupport, assemble, topological_order
from neurodeploy.frontends.expressions import LinearExpression, Shape, spikes
from neurodeploy.frontends.nir.discretization import NEURON_READERS, TimeStep, choose_time_step, read_neurons
from neurodeploy.frontends.nir.nodes import (
    INPUT_DIMENSIONS,
    LINEAR_READERS,
    SUBGRAPH_END,
    LinearNodeReader,
    NirGraph,
    NirNode,
    apply_metadata,
    read_graph,
)
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LI, LIF, Network, SubtractiveLIF, reset_of

REWRITTEN_KINDS = ("SumPool2d", "AvgPool2d", "Scale", "Delay")
"""Kinds of nodes that become something else, as their readers say."""


@check_arguments
def read_nir(
    path: str | os.PathLike[str], *, dt: float | None = None, discretisation: str | None = None, reset: str | None = None,
    max_spikes: int | None = None,
) -> Network:  # fmt: skip
    """Read a network from a NIR file.

    NIR states neurons in continuous time and without the step that they were trained with, so specify either `dt` or
    `discretisation`, unless `write_nir` wrote the file. A neuron fires where v > v_threshold and is then reset to v_reset, as NIR
    states it, unless `reset` says otherwise: files do not say whether a library subtracts the threshold instead (snnTorch and
    sinabs do by default), and `Network.notes` has a sentence about it. Membranes start from v_reset.

    Parameters
    ----------
    path : str or path
    dt : float, optional
        Length of a step, in the unit of the file's time constants. It becomes the network's `timestep_s`.
    discretisation : str, optional
        How equations become steps: ``"euler"`` (the default), ``"exponential"``, or the library that wrote the file, with its
        own step and rule: ``"snntorch"``, ``"spikingjelly"``, ``"sinabs"``, ``"norse"``, ``"rockpool"``; see
        `neurodeploy.frontends.nir.discretization`.
    reset : str, optional
        What a spike does to the membrane: ``"zero"`` (to v_reset) or ``"subtract"``, as the library does it.
    max_spikes : int, optional
        Most spikes a step of neurons that subtract: 1 for sinabs' SingleSpike. Default: the library's own, which in sinabs and
        Rockpool is none; a network has 255 at most.

    Returns
    -------
    Network
        One layer per node of neurons, named by its path in the graph (``graph.node`` in a subgraph), each at rest at first;
        the one that the Output receives is last. Linear nodes fold into connections: a bias in front of neurons with a
        synaptic current becomes synapses from a neuron that always fires.

    Raises
    ------
    ExtractError
        No NIR file, or a node that cannot run on a chip, by name and kind: nothing is dropped or approximated.
    RequestError
        An unknown discretisation or reset, a step that is no positive number, or a number of spikes that is none.
    """
    try:
        graph = read_graph(path)
        step = choose_time_step(graph, discretisation, dt, reset, max_spikes)
        reader = _GraphReader(graph, step)
        specs = reader.layer_specs()
        network = apply_metadata(assemble(reader.input_shape, specs, step.timestep_s), specs, graph)
        return replace(network, notes=tuple(_untold(graph, step, specs)))
    # Files are written by anyone: what no check foresaw is the file's error too. MemoryError: a padding may ask for any size.
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ExtractError(os.fspath(path), f"is no NIR graph that can be read ({reason})") from error


def _untold(graph: NirGraph, step: TimeStep, specs: Sequence[LayerSpec]) -> Iterator[str]:
    """Yield what a file does not tell of its neurons."""
    if step.rule.subtracts_alone:
        yield "Rockpool's files leave out biases and recurrent weights of neurons: if the model has any, its spikes differ."
    elif step.reset is None and graph.text("written_by") != "neurodeploy" and any(reset_of(s.neurons.neuron) for s in specs):
        yield (
            "The file does not tell how its neurons reset: read as to v_reset, which NIR states. Libraries write the same where "
            "they subtract the threshold (by default snnTorch, sinabs): then read it with reset 'subtract' (--reset subtract)."
        )


class _GraphReader:
    """Reads a graph node by node.

    Attributes
    ----------
    input_shape : tuple of int
    expressions : dict of node name to LinearExpression
        What each node gives, as far as it is known.
    sources : dict of node name to (dict of node name to int)
        For each population, and the Output, the populations whose spikes reach it through linear nodes alone, and the
        smallest delay in steps.
    """

    def __init__(self, graph: NirGraph, step: TimeStep) -> None:
        self.graph, self.step = graph, step
        self._check_kinds()
        self.populations = [node for node in graph.nodes.values() if node.kind in NEURON_READERS]
        if not self.populations:
            raise ExtractError(graph.path, "holds no neurons", remedy="Export it with its neurons.")
        entry = self._only("Input")
        self.input_shape = self._stated_input_shape(entry)
        self.expressions = {entry.name: spikes(INPUT, self.input_shape)}
        self.sources = self._sources()  # before any expression is built: loops would never end

    def layer_specs(self) -> list[LayerSpec]:
        """Return the populations behind their sources, each with what it receives."""
        specs: list[LayerSpec] = []
        readouts: set[str] = set()
        for node in self._in_order():
            shape = self._population_shape(node)
            neurons = read_neurons(node, shape, self.step)
            self.expressions[node.name] = spikes(node.name, shape)  # first: it may receive its own
            arriving = self._arriving(node, self.graph.sources(node.name))
            # Its own spikes arrive one step after they were fired.
            terms = tuple(replace(term, step=term.step - (term.source == node.name)) for term in arriving.terms)
            specs.append(LayerSpec(name=node.name, where=node.where, expression=replace(arriving, terms=terms), neurons=neurons))
            match neurons.neuron:
                case LIF() | SubtractiveLIF():
                    pass
                case LI():
                    readouts.add(node.name)
                case _:
                    raise unsupported_kind(neurons.neuron)
            for term in terms:
                if term.source in readouts:
                    raise ExtractError(
                        node.where,
                        f"takes the membrane of {term.source!r}, which never fires",
                        source="the chip sends spikes",
                        remedy="LI, CubaLI and I have to be last; use neurons that fire before others.",
                    )
        self._check_output(specs)
        return specs

    def _check_kinds(self) -> None:
        supported = ("Input", "Output", "NIRGraph", *(kind for kind in LINEAR_READERS if kind != SUBGRAPH_END), *NEURON_READERS)
        for node in self.graph.nodes.values():
            if node.kind not in (*supported, SUBGRAPH_END):
                self._refuse(ExtractError(node.where, "is not supported", remedy=f"Supported are {', '.join(supported)}."), node)

    def _refuse(self, error: ExtractError, node: NirNode) -> None:
        del node
        raise error

    # ------------------------------------------------------------------------------------------------ input and output

    def _only(self, kind: str) -> NirNode:
        found = [node for node in self.graph.nodes.values() if node.kind == kind]
        if len(found) != 1:
            names = f" ({', '.join(node.name for node in found)})" if found else ""
            raise ExtractError(
                self.graph.path,
                f"has {len(found)} {kind} nodes{names}, not one",
                source=f"a network has one {kind.lower()}",
                remedy=f"Give the graph a single {kind}.",
            )
        return found[0]

    def _stated_input_shape(self, entry: NirNode) -> Shape:
        """Return the shape that the Input states, without a batch of one if its targets expect one dimension less."""
        if entry.fields.get("shape") is None:
            raise ExtractError(entry.where, "has no shape", remedy="Export the graph with a sample of its input.")
        shape = entry.integers("shape", np.size(entry.fields["shape"]))
        if min(shape) < 1:
            raise ExtractError(entry.where, f"its shape is {shape}, with a side below 1")
        n_sides = {INPUT_DIMENSIONS.get(self.graph.nodes[name].kind) for name in self.graph.targets(entry.name)}
        return shape[1:] if shape[:1] == (1,) and n_sides == {len(shape) - 1} else shape

    def _check_output(self, specs: Sequence[LayerSpec]) -> None:
        """Refuse an Output of anything but the spikes, or the membranes, of the last population, and dead ends."""
        output = self._only("Output")
        x = self._arriving(output, self.graph.sources(output.name))
        sources = [term.source for term in x.terms]
        if not x.is_spikes or len(sources) != 1 or not x.terms[0].is_in_order:
            culprit = next((term.where for term in x.terms if term.where), "") or "more than one population"
            raise ExtractError(
                output.where,
                f"gives the output of {culprit}, not of one population of neurons",
                remedy="End the graph with one population of neurons (an LI to read membranes).",
            )
        if sources != [specs[-1].name]:  # the last layer of a Network is its output
            raise ExtractError(
                output.where,
                f"gives the output of {sources[0]!r}, but {specs[-1].name!r} receives that and comes after it",
                source="a network's last layer is its output",
                remedy="Remove the nodes whose output is not used, or connect the last one to the Output.",
            )
        for node in self.graph.nodes.values():
            if node.kind in LINEAR_READERS and not self.graph.targets(node.name):
                raise ExtractError(node.where, "ends without neurons", remedy="Put neurons behind it, or remove it.")

    # ---------------------------------------------------------------------------------------------------------- order

    def _sources(self) -> dict[str, dict[str, int]]:
        """Find the sources of every population and of the Output, and refuse loops of linear nodes."""
        ends = [node for node in self.graph.nodes.values() if node.kind in NEURON_READERS or node.kind == "Output"]
        populations = {node.name for node in self.populations}
        wiring = nx.DiGraph()  # against the edges, from a target to its sources
        wiring.add_nodes_from(node.name for node in ends)
        for source, target in self.graph.edges:
            node = self.graph.nodes[source]
            # Dijkstra takes none below 0; `delayed` refuses these.
            delay = max(0.0, float(node.floats("delay").min()) / self.step.dt) if node.kind == "Delay" else 0.0
            # A population is two nodes, what arrives and what it fires, so that no path leads through it.
            wiring.add_edge(target, ("fired", source) if source in populations else source, delay=delay)
        linear = wiring.subgraph(self.graph.nodes.keys() - populations)
        if not nx.is_directed_acyclic_graph(linear):
            loop = {name for edge in nx.find_cycle(linear) for name in edge}
            node = next(node for name, node in self.graph.nodes.items() if name in loop)
            raise ExtractError(node.where, "is in a loop without neurons", remedy="Put neurons into the loop.")
        found = {}
        for end in ends:
            # Shortest: the smallest delay of all paths.
            delays = nx.single_source_dijkstra_path_length(wiring, end.name, weight="delay")
            # Tuples are the ("fired", name) nodes: populations.
            found[end.name] = {key[1]: round(delay) for key, delay in delays.items() if isinstance(key, tuple)}
        return found

    def _in_order(self) -> list[NirNode]:
        """Return the populations behind their sources, as metadata or edges order them; the Output's source last."""
        output = self._only("Output").name
        rank = {name: index for index, name in enumerate(dict.fromkeys(target for _, target in self.graph.edges))}
        # Only files of `write_nir` have an "order"; the others' nodes come in no reliable order, but their edges do.
        orders = {node.name: np.asarray(node.metadata.get("order", np.inf)) for node in self.populations}
        nodes = sorted(self.populations, key=lambda node: rank.get(node.name, -1))
        nodes.sort(
            key=lambda node: float(value) if (value := orders[node.name]).ndim == 0 and value.dtype.kind in "iuf" else np.inf
        )
        nodes.sort(key=lambda node: node.name in self.sources[output])  # stable: the first order holds among equals
        order = topological_order(
            {node.name: self.sources[node.name] for node in nodes}, {node.name: node.where for node in nodes}
        )
        return [self.graph.nodes[name] for name in order]

    # ---------------------------------------------------------------------------------------------------- expressions

    def _population_shape(self, node: NirNode) -> Shape:
        """Return the shape of what arrives from other populations; of the parameters if it receives its own spikes only."""
        loops = set()
        if node.name in self.sources[node.name]:
            # Loops through other populations have been refused, so a descendant in front of the node is linear.
            edges = nx.DiGraph()
            edges.add_edges_from(self.graph.edges)
            loops = nx.descendants(edges, node.name)
        others = [name for name in self.graph.sources(node.name) if name != node.name and name not in loops]
        if others:
            return self._arriving(node, others).shape
        shapes = [np.shape(value) for value in node.fields.values()]
        # Parameters may be scalars: the largest shows the shape.
        return max(shapes, key=lambda shape: int(np.prod(shape)), default=()) or (1,)

    def _arriving(self, node: NirNode, names: Sequence[str]) -> LinearExpression:
        """Return the sum of what some nodes give."""
        if not names:
            raise ExtractError(node.where, "receives nothing", remedy="Connect its input, or remove it.")
        total: LinearExpression | None = None
        for name in names:
            x = self._output_of(name)
            if total is not None and total.shape != x.shape:
                raise ExtractError(
                    node.where,
                    f"adds {x.shape} from {name!r} to {total.shape} from {names[0]!r}",
                    remedy="Let both have one shape.",
                )
            total = x if total is None else expressions.add(total, x)
        assert total is not None
        return total

    def _output_of(self, name: str) -> LinearExpression:
        """Return what a node gives."""
        node = self.graph.nodes[name]
        if name not in self.expressions:
            arriving = self._arriving(node, self.graph.sources(name))
            self.expressions[name] = LINEAR_READERS[node.kind](LinearNodeReader(node, arriving, self.step.dt))
        return self.expressions[name]


class _NodeChecker(_GraphReader):
    """Reads as much of a graph as can be read: behind a node that is not supported, its input stands for its output.

    Attributes
    ----------
    refused : dict of node name to ExtractError
    """

    def __init__(self, graph: NirGraph, step: TimeStep, refused: dict[str, ExtractError]) -> None:
        self.refused = refused
        self.wiring = nx.DiGraph()
        self.wiring.add_edges_from(graph.edges)
        super().__init__(graph, step)

    def _refuse(self, error: ExtractError, node: NirNode) -> None:
        self.refused.setdefault(node.name, error)

    def layer_specs(self) -> list[LayerSpec]:
        """Read every population, and refuse the nodes that are none of the chip's."""
        for node in self._in_order():
            try:
                shape = self._population_shape(node)
                self.expressions[node.name] = spikes(node.name, shape)
                read_neurons(node, shape, self.step)
                self._arriving(node, self.graph.sources(node.name))
            except ExtractError as error:
                self._refuse(error, node)
        return []

    def _output_of(self, name: str) -> LinearExpression:
        node = self.graph.nodes[name]
        if name not in self.expressions and name not in self.refused:
            try:
                return super()._output_of(name)
            except ExtractError as error:
                # what a refused node would give is not known
                unread = {other for other in self.refused if other and self.graph.nodes[other].kind not in NEURON_READERS}
                if not unread & nx.ancestors(self.wiring, name):
                    self._refuse(error, node)
        if name not in self.expressions:
            self.expressions[name] = self._arriving(node, self.graph.sources(name))
        return self.expressions[name]


def check_nir(
    path: str | os.PathLike[str], *, dt: float | None = None, discretisation: str | None = None, reset: str | None = None,
    max_spikes: int | None = None,
) -> tuple[tuple[NodeSupport, ...], Network | None]:  # fmt: skip
    """Return what becomes of each node of a file, and the network; None where a node is not supported.

    Parameters and errors are those of `read_nir`, which reads exactly the files that have a network here.
    """
    refused: dict[str, ExtractError] = {}
    network = None
    try:
        network = read_nir(path, dt=dt, discretisation=discretisation, reset=reset, max_spikes=max_spikes)
    except ExtractError as error:
        if error.where == os.fspath(path):
            raise
        refused[""] = error
    graph = read_graph(path)
    if network is None:
        # what else is raised is of the whole graph, such as a loop, or of a damaged file: the first error says it
        with suppress(ExtractError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError):
            _NodeChecker(graph, choose_time_step(graph, discretisation, dt, reset, max_spikes), refused).layer_specs()
    if refused and (name := next((node.name for node in graph.nodes.values() if node.where == refused[""].where), "")):
        refused.setdefault(name, refused.pop(""))
    # the neuron that carries biases is no node
    biased = {layer.name for layer in network or () if any(c.source not in {INPUT, *graph.nodes} for c in layer.connections)}
    nodes = [NodeSupport(name=error.where, reasons=(error,)) for name, error in refused.items() if not name]
    for name, node in graph.nodes.items():
        reasons = (refused[name],) if name in refused else ()
        rewrites = (" ".join(str(LINEAR_READERS[node.kind].__doc__).split()),) if node.kind in REWRITTEN_KINDS else ()
        if name in biased:
            rewrites = ("a bias in front of it comes from one extra neuron that fires at every step",)
        layers = (name,) if node.kind in NEURON_READERS else ()
        nodes.append(NodeSupport(name=name, kind=node.kind, reasons=reasons, rewrites=rewrites, layers=layers))
    return tuple(nodes), network

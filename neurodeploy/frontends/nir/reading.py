"""Networks from NIR files: a graph of nodes becomes a `Network` of the chip's recurrence, exactly, or is refused by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neurodeploy.errors import ExtractError, unsupported_kind
from neurodeploy.frontends.assembly import Heard, Row, assemble, in_order, rows_of
from neurodeploy.frontends.expressions import Form, added, spikes
from neurodeploy.frontends.nir.discretization import KINDS, Steps, choose, read_neurons
from neurodeploy.frontends.nir.file import Graph, Node, read_graph, remembered
from neurodeploy.frontends.nir.linear_nodes import MAPS, passed
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LI, LIF, Network

SUPPORTED = ("Input", "Output", "NIRGraph", *(kind for kind in MAPS if kind[0].isupper()), *KINDS)
_ROW = {"Affine": 1, "Linear": 1, "Conv1d": 2, "Conv2d": 3, "SumPool2d": 3, "AvgPool2d": 3}
"""Sides of what a node of this kind hears."""


def rows() -> list[Row]:
    """NIR's nodes, and what becomes of them: a line for each reader, which says so itself."""
    return [*rows_of({kind: reader for kind, reader in MAPS.items() if kind[0].isupper()}), *rows_of(KINDS)]


def read_nir(path: str | os.PathLike[str], *, dt: float | None = None, discretisation: str | None = None) -> Network:
    """Read a network from a NIR file.

    NIR states neurons in continuous time and without the step that they were trained with, so that has to be given, unless
    the file is one of `write_nir`. A neuron fires where v > v_threshold and is then reset to v_reset, as NIR states it: files
    do not tell of libraries that subtract the threshold instead (snnTorch and sinabs do by default). Membranes start from there.

    Parameters
    ----------
    path : str or path
    dt : float, optional
        Length of a step, in the unit of the file's time constants. It becomes the network's `timestep_s`.
    discretisation : str, optional
        How equations become steps: ``"euler"`` (the default), ``"exponential"``, or the library that wrote the file, with its
        own step and way: ``"snntorch"``, ``"spikingjelly"``, ``"sinabs"``, ``"norse"``; see
        `neurodeploy.frontends.nir.discretization`.

    Returns
    -------
    Network
        One layer a node of neurons, named by its path in the graph (``graph.node`` in a subgraph), each at rest at first;
        the one that the Output hears comes last. Linear nodes fold into connections: a bias in front of neurons with a
        synaptic current becomes synapses from a neuron that always fires.

    Raises
    ------
    ExtractError
        What is no NIR file, or cannot run on a chip, by node and kind: nothing is dropped or approximated.
    RequestError
        An unknown discretisation, or a step that is no length.
    """
    graph = read_graph(path)
    steps = choose(graph, discretisation, dt)
    reading = _Reading(graph, steps)
    heard = reading.heard()
    return remembered(assemble(reading.input_shape, heard, steps.timestep_s), heard, graph)


class _Reading:
    """What every node gives, in spikes of the populations."""

    def __init__(self, graph: Graph, steps: Steps) -> None:
        self.graph, self.steps = graph, steps
        for node in graph.nodes.values():
            if node.kind not in SUPPORTED and node.kind not in MAPS:
                raise ExtractError(node.where, "is not supported", remedy=f"Supported are {', '.join(SUPPORTED)}.")
        self.populations = [node for node in graph.nodes.values() if node.kind in KINDS]
        if not self.populations:
            raise ExtractError(graph.path, "holds no neurons", remedy="Export it with its neurons.")
        entry = self._only("Input")
        self.input_shape = self._shape_of_input(entry)
        self.forms = {entry.name: spikes(INPUT, self.input_shape)}
        self.hears = {node.name: self._sources(node) for node in self._ends()}

    def heard(self) -> list[Heard]:
        """The populations in an order in which spikes pass them, each with what it hears."""
        found: list[Heard] = []
        for node in self._in_order():
            shape = self._shape_of(node)
            neurons = read_neurons(node, shape, self.steps)
            self.forms[node.name] = spikes(node.name, shape)
            form = self._arriving(node, self.graph.into(node.name))
            terms = tuple(replace(term, at=term.at - (term.source == node.name)) for term in form.terms)
            found.append(
                Heard(name=node.name, where=node.where, form=replace(form, terms=terms), neuron=neurons.neuron,
                      gain=neurons.gain, has_current=neurons.has_current)
            )  # fmt: skip
            self._check_spikes(node, found)
        self._check_output(found)
        return found

    # ------------------------------------------------------------------------------------------ ways in and out

    def _only(self, kind: str) -> Node:
        found = [node for node in self.graph.nodes.values() if node.kind == kind]
        if len(found) != 1:
            names = f" ({', '.join(node.name for node in found)})" if found else ""
            raise ExtractError(
                self.graph.path, f"has {len(found)} {kind} nodes{names}, not one", source=f"a network has one {kind.lower()}",
                remedy=f"Give the graph a single {kind}.",
            )  # fmt: skip
        return found[0]

    def _shape_of_input(self, entry: Node) -> tuple[int, ...]:
        """The shape that the Input states, without a batch of one where those that hear it want none."""
        if entry.said.get("shape") is None:
            raise ExtractError(entry.where, "has no shape", remedy="Export the graph with a sample of its input.")
        shape = tuple(int(side) for side in entry.numbers("shape").reshape(-1))
        sides = {_ROW.get(self.graph.nodes[name].kind) for name in self.graph.out_of(entry.name)}
        return shape[1:] if shape[:1] == (1,) and sides == {len(shape) - 1} else shape

    def _ends(self) -> list[Node]:
        """Nodes that something has to arrive at."""
        return [node for node in self.graph.nodes.values() if node.kind in KINDS or node.kind == "Output"]

    def _check_output(self, found: Sequence[Heard]) -> None:
        """Refuse an Output of anything but the spikes, or the membranes, of the last population, and loose ends."""
        output = self._only("Output")
        form = self._arriving(output, self.graph.into(output.name))
        sources = [term.source for term in form.terms]
        if not form.is_spikes or len(sources) != 1 or not form.terms[0].is_in_order:
            whence = next((term.where for term in form.terms if term.where), "") or "more than one population"
            raise ExtractError(
                output.where, f"gives what {whence} makes, not what neurons say",
                remedy="End the graph with one population of neurons (an LI to read membranes).",
            )  # fmt: skip
        if sources != [found[-1].name]:
            raise ExtractError(
                output.where, f"gives what {sources[0]!r} says, but {found[-1].name!r} hears that and comes after it",
                source="a network's last layer is its output", remedy="Take out what nobody reads, or let the Output hear it.",
            )  # fmt: skip
        for node in self.graph.nodes.values():
            if node.kind in MAPS and not self.graph.out_of(node.name):
                raise ExtractError(node.where, "ends without neurons", remedy="Put neurons behind it, or take it out.")

    # ------------------------------------------------------------------------------------------ order

    def _sources(self, end: Node) -> dict[str, int]:
        """The populations that a node hears through nothing but linear nodes, and by how many steps of delay at least."""
        found: dict[str, int] = {}
        fewest: dict[str, float] = {}
        ahead = [(name, 0.0) for name in self.graph.into(end.name)]
        while ahead:
            name, late = ahead.pop(0)
            if fewest.get(name, np.inf) <= late:
                continue
            fewest[name], node = late, self.graph.nodes[name]
            if node.kind in KINDS:
                found[name] = round(late)
            else:
                late += float(node.numbers("delay").min()) / self.steps.dt if node.kind == "Delay" else 0.0
                ahead += [(before, late) for before in self.graph.into(name)]
        return found

    def _in_order(self) -> list[Node]:
        """The populations so that each hears such before it, or itself; the one that is put out comes last."""
        output = self._only("Output").name
        rank = {name: index for index, name in enumerate(dict.fromkeys(target for _, target in self.graph.edges))}
        waiting = sorted(self.populations, key=lambda node: (float(node.metadata.get("order", np.inf)), rank.get(node.name, -1)))
        waiting.sort(key=lambda node: node.name in self.hears[output])
        order = in_order({node.name: self.hears[node.name] for node in waiting}, {node.name: node.where for node in waiting})
        return [self.graph.nodes[name] for name in order]

    # ------------------------------------------------------------------------------------------ forms

    def _shape_of(self, node: Node) -> tuple[int, ...]:
        """The shape of what arrives at a population from others; of its parameters, where it hears itself only."""
        others = [name for name in self.graph.into(node.name) if not self._comes_from(name, node.name)]
        if others:
            return self._arriving(node, others).shape
        sides = [np.shape(value) for value in node.said.values()]
        return max(sides, key=lambda side: int(np.prod(side)), default=()) or (1,)

    def _comes_from(self, name: str, source: str) -> bool:
        node = self.graph.nodes[name]
        return name == source or (node.kind in MAPS and source in self._sources(node))

    def _arriving(self, node: Node, names: Sequence[str]) -> Form:
        """The sum of what some nodes give."""
        if not names:
            raise ExtractError(node.where, "hears nothing", remedy="Connect it to what is before it, or take it out.")
        total: Form | None = None
        for name in names:
            form = self._form(name, ())
            if total is not None and total.shape != form.shape:
                raise ExtractError(
                    node.where, f"adds {form.shape} from {name!r} to {total.shape} from {names[0]!r}",
                    remedy="Let both have one shape.",
                )  # fmt: skip
            total = form if total is None else added(total, form)
        assert total is not None
        return total

    def _form(self, name: str, within: tuple[str, ...]) -> Form:
        """What a node gives."""
        node = self.graph.nodes[name]
        if name in within:
            raise ExtractError(node.where, "hears itself with no neurons between", remedy="Put neurons into the loop.")
        if name not in self.forms:
            for before in self.graph.into(name):
                self._form(before, (*within, name))
            self.forms[name] = passed(node, self._arriving(node, self.graph.into(name)), self.steps.dt)
        return self.forms[name]

    def _check_spikes(self, node: Node, found: Sequence[Heard]) -> None:
        """Refuse what the last population hears of a membrane, its own too."""
        read = set()
        for population in found:
            match population.neuron:
                case LIF():
                    pass
                case LI():
                    read.add(population.name)
                case _:
                    raise unsupported_kind(population.neuron)
        for term in found[-1].form.terms:
            if term.source in read:
                raise ExtractError(
                    node.where, f"takes the membrane of {term.source!r}, which never fires", source="the chip sends spikes",
                    remedy="LI, CubaLI and I have to be last; use neurons that fire before others.",
                )  # fmt: skip

"""Assembly of a `Network` from the linear expressions that its populations receive; every frontend ends here.

Terms become connections. On the chip a bias is added to v, but a bias in front of neurons with a synaptic current has to enter u
and decay there. So the network gets one more neuron, which fires at every step, and its synapses carry those biases exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError, NetworkError, unsupported_kind
from neurodeploy.frontends.expressions import LinearExpression, Shape, Term, spikes
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import ungrouped
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import (
    LIF,
    Conv,
    Dense,
    Layer,
    Network,
    Neuron,
    Sparse,
    Synapse,
    as_sparse,
    scale_inputs,
    scale_targets,
)

BIAS = "bias"
"""Name of the layer of one neuron that always fires."""

MEMORYLESS = {"current_decay": np.ones(()), "voltage_decay": np.ones(()), "rest": np.zeros(())}
"""Parameters of neurons that keep nothing from one step to the next."""

Sources: TypeAlias = "Mapping[str, Mapping[str, int]]"
"""For each population its source populations, with the delay in steps: the smallest, where there are several connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronSpec:
    """Neurons as the chip computes them.

    Attributes
    ----------
    neuron : LIF, SubtractiveLIF or LI
    gain : array () or (n,)
        Factor on all input; it goes into the weights and biases.
    drive : array () or (n,)
        Added to the membrane at every step, past the synaptic current.
    after_spike : array () or (n,)
        Added to the membrane in the step after each spike, past the synaptic current. Neurons send it to themselves.
    has_current : bool
        Whether input enters a synaptic current; a bias then has to enter it too.
    timestep_s : float or None
        Length of a step, if the framework's neurons have one.
    """

    neuron: Neuron
    gain: Floats
    drive: Floats = field(default_factory=lambda: np.zeros(()))
    after_spike: Floats = field(default_factory=lambda: np.zeros(()))
    has_current: bool = False
    timestep_s: float | None = None


def uniform(values: NDArray[Any]) -> Floats:
    """Return (n,) values as one number where they are equal up to rounding."""
    return np.asarray(np.median(values)) if np.allclose(values, values[0], rtol=1e-12, atol=1e-14) else values


def two_shares(one: Floats, two: Floats, atol: float) -> tuple[Floats, Floats]:
    """Return the shares a >= b of a membrane and a current of which a + b and a a + a b + b b are left after one step and two."""
    root = np.sqrt(np.maximum(one**2 - 4 * (one**2 - two), 0.0))
    high, low = (np.where(np.abs(share := (one + sign * root) / 2) < atol, 0.0, share) for sign in (1, -1))
    return high, low


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """A layer before its terms have become connections.

    Attributes
    ----------
    name : str
    where : str
        Label of its module or node, for error texts.
    expression : LinearExpression
        What arrives at step 0. A term of step -d arrives d steps late; from the layer itself, step -1 is without delay.
    neurons : NeuronSpec
    is_pool : bool
        Whether it is a max pooling, whose weights are all one and are not trained.
    """

    name: str
    where: str
    expression: LinearExpression
    neurons: NeuronSpec
    is_pool: bool = False

    @property
    def shape(self) -> Shape:
        """Shape of the convolutions into the layer if they agree on one, else of the expression; lines are images of one row."""
        terms = self.expression.terms
        shapes = {term.synapse.output_shape for term in terms if isinstance(term.synapse, Conv) and term.is_in_order}
        shape = self.expression.shape
        return next(iter(shapes)) if len(shapes) == 1 else shape if len(shape) != 2 else (shape[0], 1, shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSupport:
    """What becomes of one node of a model: a module, the functions that a container calls itself, or a node of a file.

    Attributes
    ----------
    name, kind : str
        Its path, and its type.
    reasons : tuple of ExtractError
        Why it is not supported, each with a way round; empty where it is.
    rewrites : tuple of str
        What it becomes, where that is something else than itself.
    is_used : bool
        Whether the model called it.
    is_host : bool
        Whether it stands behind the last neurons, and is left to the host.
    layers : tuple of str
        Layers whose neurons it is.
    shape : tuple of int
        Of what it gives for one sample and step.
    n_parameters : int
        Its own, without those of modules in it.
    n_products : int
        Multiplications of its weights for one sample and step, as torchinfo counts them: once for each pixel that it gives.
    """

    name: str
    kind: str = ""
    reasons: tuple[ExtractError, ...] = ()
    rewrites: tuple[str, ...] = ()
    is_used: bool = True
    is_host: bool = False
    layers: tuple[str, ...] = ()
    shape: Shape = ()
    n_parameters: int = 0
    n_products: int = 0

    @property
    def verdict(self) -> str:
        """``"unsupported"``, ``"not reached"``, ``"host"``, ``"rewrite"`` or ``"exact"``."""
        if self.reasons:
            return "unsupported"
        if not self.is_used:
            return "not reached"
        return "host" if self.is_host else "rewrite" if self.rewrites else "exact"

    def explained(self) -> list[dict[str, str]]:
        """Return what each reason is, where a limit comes from, and the way round."""
        correct = "Correct it, or take another module or node: docs/operators.md and docs/nir.md list what is supported."
        return [{"what": one.what, "source": one.source, "remedy": one.remedy or correct} for one in self.reasons]

    def to_json(self) -> dict[str, object]:
        """An entry of ``nodes`` in ``neurodeploy check --json``."""
        return {
            "name": self.name, "kind": self.kind, "verdict": self.verdict, "rewrites": list(self.rewrites),
            "reasons": self.explained(),
            "layers": list(self.layers),
        }  # fmt: skip


def topological_order(sources: Sources, labels: Mapping[str, str]) -> list[str]:
    """Return the populations in topological order, apart from loops of one population; ties keep the order of `sources`.

    Parameters
    ----------
    sources : mapping of name to (mapping of name to int)
    labels : mapping of name to str
        What errors call a population.

    Raises
    ------
    ExtractError
        A loop through several populations. On the chip a spike takes one step a synapse, so such a loop would need a delay of
        as many steps; and a layer receives spikes only from layers before it and from itself.
    """
    # Order of the model: breaks ties, so that equal models give equal networks.
    rank = {name: index for index, name in enumerate(sources)}
    # not networkx, which takes half a second to import
    graph = TopologicalSorter({name: [source for source in delays if source != name] for name, delays in sources.items()})
    try:
        graph.prepare()
    except CycleError as error:
        loop = error.args[1][:-1]  # it ends where it begins
    else:
        order: list[str] = []
        ready = [rank[name] for name in graph.get_ready()]
        heapify(ready)
        names = list(sources)
        while ready:
            order.append(names[heappop(ready)])
            graph.done(order[-1])
            for name in graph.get_ready():
                heappush(ready, rank[name])
        return order
    first = loop.index(min(loop, key=rank.__getitem__))  # the error text begins with the first one in the model
    loop = loop[first:] + loop[:first]
    n, targets = len(loop), [*loop[1:], loop[0]]
    delay = sum(sources[target][source] for source, target in zip(loop, targets, strict=True))
    path = " -> ".join(repr(name) for name in [*loop, loop[0]])
    raise ExtractError(
        labels[loop[0]],
        f"is in a loop, {path}, which takes {n} steps on the chip, one per synapse, and has a delay of {delay}",
        source="a layer receives spikes from the input, from layers before it and from itself",
        remedy=f"Replace them by one population that feeds back to itself one step later, so that its spikes take {n} steps "
        "around the loop, and train with that; or feed back to one population only.",
    )


def assemble(input_shape: Shape, specs: Sequence[LayerSpec], timestep_s: float) -> Network:
    """Return the network of these layers; each receives spikes from the input, from layers before it, or from itself.

    A layer takes the image shape that convolutions expect of it. Where two expect different shapes, the synapses of the
    second are listed one by one.

    Raises
    ------
    ExtractError
        The layers are no network; it names the module.
    """
    assembler = _Assembler(input_shape, specs)
    try:
        return Network(input_shape=assembler.shapes[INPUT], layers=assembler.layers(), timestep_s=timestep_s)
    except NetworkError as error:
        raise ExtractError(error.where, error.what, remedy=error.remedy) from error


class _Assembler:
    """The layers of a network, and the shapes that they agree on.

    Attributes
    ----------
    shapes : dict of str to shape
        Of each layer and the input; flat ones have become the images that convolutions expect.
    bias_name : str
        A free name for the layer that carries biases.
    """

    def __init__(self, input_shape: Shape, specs: Sequence[LayerSpec]) -> None:
        self.specs = specs
        self.shapes: dict[str, Shape] = {INPUT: input_shape} | {spec.name: spec.shape for spec in specs}
        # Layers behind a convolution have its output's shape; of the others, the first convolution that reads one decides.
        fixed = {spec.name for spec in specs if any(isinstance(term.synapse, Conv) for term in spec.expression.terms)}
        for term in (term for spec in specs for term in spec.expression.terms):
            if isinstance(term.synapse, Conv) and term.source not in fixed:
                fixed.add(term.source)
                self.shapes[term.source] = term.synapse.input_shape
        names = (BIAS, *(f"{BIAS}{k}" for k in range(2, len(specs) + 3)))  # more names than layers: one is free
        self.bias_name = next(name for name in names if name not in {spec.name for spec in specs})

    def layers(self) -> tuple[Layer, ...]:
        """Return all layers; if any needs it, the layer that carries biases comes first."""
        layers: list[Layer] = []
        for spec in self.specs:
            try:
                layers.append(self._layer(spec))
            except NetworkError as error:
                where = next((term.where for term in spec.expression.terms if term.where), spec.where)
                raise ExtractError(where, f"{error.where} {error.what}", remedy=error.remedy) from error
        if any(c.source == self.bias_name for layer in layers for c in layer.connections):
            layers.insert(0, self._bias_layer())  # before every layer that receives from it
        return tuple(layers)

    def _layer(self, spec: LayerSpec) -> Layer:
        shape, gain = self.shapes[spec.name], spec.neurons.gain
        connections = []
        for term in (term.weighted() for term in spec.expression.terms):
            synapse = _synapse(term, self.shapes[term.source], shape)
            if (gain != 1).any():  # the chip's neurons take their input as it is, so their gain goes into the weights
                synapse = scale_targets(synapse, gain)
            delay = -term.step - (term.source == spec.name)  # its own spikes are a step old: the synapse's step, no delay
            is_fixed = spec.is_pool or not term.has_weights
            connections.append(Connection(source=term.source, synapse=synapse, delay_steps=delay, is_fixed=is_fixed))
        connections += self._after_spikes(spec)
        bias = np.asarray(spec.expression.bias.reshape(-1) * gain)
        if spec.neurons.has_current and bias.any():  # the chip's bias is added to v, past the current
            connections.append(Connection(source=self.bias_name, synapse=Dense(weight=bias.reshape(-1, 1))))
            bias = np.zeros(())
        bias = bias + spec.neurons.drive
        if not connections:
            raise ExtractError(spec.where, "receives no spikes", remedy="Put a layer with weights before it.")
        return Layer(
            name=spec.name,
            shape=shape,
            neuron=spec.neurons.neuron,
            connections=tuple(connections),
            bias=bias if bias.any() else np.zeros(()),
        )

    def _after_spikes(self, spec: LayerSpec) -> Iterator[Connection[Synapse]]:
        """Yield the connections from neurons to themselves that add `after_spike` to the membrane, once."""
        shape, added, keeps = self.shapes[spec.name], spec.neurons.after_spike, 1 - spec.neurons.neuron.current_decay
        if added.any():
            # what the synaptic current would keep of it, a second synapse takes back a step later
            for delay, weights in enumerate((added, -keeps * added) if keeps.any() else (added,)):
                term = replace(spikes(spec.name, spec.expression.shape).terms[0], gain=np.asarray(weights))
                yield Connection(source=spec.name, synapse=_synapse(term, shape, shape), delay_steps=delay, is_fixed=True)

    def _bias_layer(self) -> Layer:
        """Return one neuron that fires at every step: its bias is above its threshold, and it receives no spikes."""
        n_in = int(np.prod(self.shapes[INPUT]))
        # Every layer has a connection; this one is empty, so the input never reaches the neuron.
        no_synapses = Sparse(
            n_in=n_in, starts=np.zeros(2, dtype=np.int64), sources=np.zeros(0, dtype=np.int32), weight=np.zeros(0)
        )
        return Layer(
            name=self.bias_name,
            shape=(1,),
            neuron=LIF(threshold=np.ones(()), **MEMORYLESS),
            connections=(Connection(source=INPUT, synapse=no_synapses),),
            bias=np.array(2.0),
        )


# --------------------------------------------------------------------------------------------------- terms to synapses


def _synapse(term: Term, source: Shape, target: Shape) -> Synapse:
    """Return the synapse of a term between populations of these shapes."""
    match term.synapse:
        case Conv() as conv:
            onto_target = _conv_onto_channels(term, conv, target)
            if onto_target is not None and onto_target.input_shape == source and onto_target.output_shape == target:
                # A pool has not taken the term's gain yet; of a convolution with weights it is 1.
                return scale_inputs(onto_target, term.gain) or as_sparse(term.matrix())
            return as_sparse(term.matrix())
        case Dense() as dense:
            if term.is_in_order:
                return dense
            matrix = np.zeros((term.indices.size, term.n_source))
            used = term.indices.reshape(-1) > 0  # indices count from 1; 0 is an element that no neuron feeds
            matrix[used] = dense.weight[term.indices.reshape(-1)[used] - 1]
            return Dense(weight=matrix)
        case Sparse() as sparse:
            return sparse if term.is_in_order and (term.gain == 1).all() else as_sparse(term.matrix())
        case None:  # no weights in between: one synapse from each neuron
            if len(source) == 3 and source == target and term.is_in_order:
                channels, rows, columns = source
                each_pixel = Conv(weight=np.ones((channels, 1, 1, 1)), input_shape=(channels, rows, columns), groups=channels)
                return scale_inputs(each_pixel, term.gain) or as_sparse(term.matrix())
            return as_sparse(term.matrix())
        case _:
            raise unsupported_kind(term.synapse)


def _conv_onto_channels(term: Term, conv: Conv, target: Shape) -> Conv | None:
    """Return the convolution onto all channels of the target, with zero weights onto those that the term does not reach.

    None where the term moves pixels, not whole channels, or where the target has other rows and columns.
    """
    if term.is_in_order:
        return conv
    pixels = int(np.prod(conv.output_shape[1:]))
    if len(target) != 3 or target[1:] != conv.output_shape[1:] or term.is_pool:
        return None
    rows = term.indices.reshape(-1, pixels)
    channel = np.where(rows[:, 0] > 0, (rows[:, 0] - 1) // pixels, -1)
    if (rows != np.where(channel[:, None] >= 0, channel[:, None] * pixels + np.arange(1, pixels + 1), 0)).any():
        return None
    full = ungrouped(conv.weight, conv.groups)
    # Channel -1 reads the last filter, but is not kept.
    weight = np.where((channel >= 0)[:, None, None, None], full[channel], 0.0)
    return replace(conv, weight=weight, groups=1)

"""What the readers of a table say of themselves: a row for each, with the names that it goes by; so README's tables are made.

In which order populations answer: each after those that it hears. Loops through several are refused by name.

From what each population hears to a network: forms become connections, and biases in front of currents a neuron.

Any frontend ends here. A chip adds a bias to v; one in front of neurons with a synaptic current would have to enter u and decay
there. So one neuron that fires at every step is put beside the network, and its synapses carry those biases, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from neurodeploy.errors import ExtractError, NetworkError, unsupported_kind
from neurodeploy.frontends.expressions import Form, Shape, Term
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Sparse, Synapse

# -------------------- frontends.told

Row = tuple[str, str]
"""What goes in, by name, and what becomes of it."""


def rows_of(table: Mapping[str, Callable[..., Any]], unnamed: Container[str] = ()) -> list[Row]:
    """A row for each reader: the names that lead to it, but those `unnamed`, and the first line of its docstring."""
    names: dict[Callable[..., Any], list[str]] = {}
    for name, reader in table.items():
        names.setdefault(reader, []).append(name)
    shown = {reader: [name for name in by if name not in unnamed] for reader, by in names.items()}
    return [(listed(by), (getdoc(reader) or "").splitlines()[0]) for reader, by in shown.items() if by]


def listed(names: Iterable[str]) -> str:
    """Names as Markdown has code, in alphabetical order."""
    return ", ".join(f"`{name}`" for name in sorted(names))


# -------------------- frontends.ordering

Hears = Mapping[str, Mapping[str, int]]
"""Of each population those that it hears, and the steps of delay by which it does; of several ways the fewest."""


def in_order(hears: Hears, where: Mapping[str, str]) -> list[str]:
    """The names, each behind those that it hears, but for itself; otherwise as they stand.

    Parameters
    ----------
    hears : mapping of name to (mapping of name to int)
    where : mapping of name to str
        What errors call a population.

    Raises
    ------
    ExtractError
        Populations hear each other in a loop. On the chip it takes a step a synapse, so it would have to be delayed by as
        many; and layers hear only what is before them, or themselves.
    """
    waiting, done = list(hears), set[str]()
    order: list[str] = []
    while waiting:
        ready = next((name for name in waiting if all(s in done or s == name for s in hears[name])), None)
        if ready is None:
            raise _refused(_loop({name: hears[name] for name in waiting}), hears, where)
        waiting.remove(ready)
        done.add(ready)
        order.append(ready)
    return order


def _loop(waiting: Hears) -> list[str]:
    """One after another the names of a loop, as spikes go round it, from its first in the order of `waiting`."""
    name, way = next(iter(waiting)), list[str]()
    while name not in way:
        way.append(name)
        name = next(source for source in waiting[name] if source in waiting and source != name)
    loop = way[way.index(name) :][::-1]
    k = loop.index(min(loop, key=list(waiting).index))
    return loop[k:] + loop[:k]


def _refused(loop: list[str], hears: Hears, where: Mapping[str, str]) -> ExtractError:
    n = len(loop)
    delay = sum(hears[loop[(k + 1) % n]][name] for k, name in enumerate(loop))
    way = " -> ".join(repr(name) for name in [*loop, loop[0]])
    return ExtractError(
        where[loop[0]], f"is in a loop, {way}, which takes {n} steps on the chip, one a synapse, and has a delay of {delay}",
        source="a network's layers hear the input, layers before them and themselves",
        remedy=f"Make one population of them that hears itself a step later, so that its spikes go round in {n} steps, and "
        "train with that; or feed back to one population only.",
    )  # fmt: skip


# -------------------- frontends.assembly

BIAS = "bias"
"""What the layer of one neuron that always fires is called."""

AT_ONCE = {"current_decay": np.ones(()), "voltage_decay": np.ones(()), "rest": np.zeros(())}


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A population, and what it hears.

    Attributes
    ----------
    name : str
        Of its layer.
    where : str
        What errors call it.
    form : Form
        What arrives at step 0; terms `at` -d arrive d steps late, from itself at -1 without a delay.
    neuron : LIF or LI
    gain : array () or (n,)
        What scales all that arrives.
    has_current : bool
        Whether a bias would have to enter u.
    """

    name: str
    where: str
    form: Form
    neuron: LIF | LI
    gain: Floats
    has_current: bool

    @property
    def shape(self) -> Shape:
        """That of its convolutions, where they agree on one."""
        shapes = {term.synapse.output_shape for term in self.form.terms if isinstance(term.synapse, Conv) and term.is_in_order}
        shape = self.form.shape
        return next(iter(shapes)) if len(shapes) == 1 else shape if len(shape) != 2 else (shape[0], 1, shape[1])


def assemble(input_shape: Shape, heard: Sequence[Heard], timestep_s: float) -> Network:
    """The network of these populations, each of which hears the input, such before it, or itself.

    A population takes the shape of image that convolutions look at; where two look at different ones, the synapses of the
    second are listed one by one.

    Raises
    ------
    ExtractError
        What is no network, by the name of the module.
    """
    shapes = {INPUT: input_shape} | {population.name: population.shape for population in heard}
    shapes = _as_convolved(shapes, heard)
    bias = _bias_layer({population.name for population in heard})
    layers: list[Layer] = []
    for population in heard:
        try:
            layer = _layer(population, shapes, bias.name)
        except NetworkError as error:
            where = next((term.where for term in population.form.terms if term.where), population.where)
            raise ExtractError(where, f"{error.where} {error.what}", remedy=error.remedy) from error
        layers.append(layer)
    if any(c.source == bias.name for layer in layers for c in layer.connections):
        starts = np.zeros(2, dtype=np.int64)
        nothing = Sparse(n_in=int(np.prod(shapes[INPUT])), starts=starts, sources=np.zeros(0, dtype=np.int32), weight=np.zeros(0))
        layers.insert(0, replace(bias, connections=(Connection(source=INPUT, synapse=nothing),)))
    try:
        return Network(input_shape=shapes[INPUT], layers=tuple(layers), timestep_s=timestep_s)
    except NetworkError as error:
        raise ExtractError(error.where, error.what, remedy=error.remedy) from error


def _as_convolved(shapes: dict[str, Shape], heard: Sequence[Heard]) -> dict[str, Shape]:
    """The shapes, with flat ones made the images that convolutions look at."""
    fixed = {p.name for p in heard if any(isinstance(t.synapse, Conv) for t in p.form.terms)}
    for population in heard:
        for term in population.form.terms:
            if isinstance(term.synapse, Conv) and term.source not in fixed:
                fixed.add(term.source)
                shapes = shapes | {term.source: term.synapse.input_shape}
    return shapes


def _bias_layer(taken: set[str]) -> Layer:
    """One neuron that fires at every step; it hears nothing."""
    name = next(name for name in (BIAS, *(f"{BIAS}{k}" for k in range(2, len(taken) + 3))) if name not in taken)
    nothing: Connection[Synapse] = Connection(source=INPUT, synapse=Dense(weight=np.zeros((1, 1))))
    return Layer(
        name=name, shape=(1,), neuron=LIF(threshold=np.ones(()), **AT_ONCE), connections=(nothing,), bias=np.array(2.0)
    )  # fmt: skip


def _layer(population: Heard, shapes: dict[str, Shape], bias_name: str) -> Layer:
    shape, form, gain = shapes[population.name], population.form, population.gain
    connections = []
    for term in form.terms:
        synapse = _synapse(term, shapes[term.source], shape)
        if (gain != 1).any():
            synapse = replace(synapse, weight=synapse.weight * synapse.per_weight(gain))
        delay = -term.at - (term.source == population.name)
        connections.append(Connection(source=term.source, synapse=synapse, delay_steps=delay))
    bias = np.asarray(form.bias.reshape(-1) * gain)
    if population.has_current and bias.any():
        connections.append(Connection(source=bias_name, synapse=Dense(weight=bias.reshape(-1, 1))))
        bias = np.zeros(())
    if not bias.any():
        bias = np.zeros(())
    if not connections:
        raise ExtractError(population.where, "hears nothing", remedy="Put its weights before it.")
    return Layer(name=population.name, shape=shape, neuron=population.neuron, connections=tuple(connections), bias=bias)


# ---------------------------------------------------------------------------------------------- terms as synapses


def _synapse(term: Term, source: Shape, target: Shape) -> Synapse:
    """The term's synapse between populations of these shapes."""
    match term.synapse:
        case Conv():
            conv = _placed_channels(term, term.synapse, target)
            if conv is not None and conv.input_shape == source and conv.output_shape == target:
                return _gained(conv, term.gain) if term.is_pool else conv
            return _picked(term, _listed(term.synapse))
        case Dense():
            if term.is_in_order:
                return term.synapse
            matrix = np.zeros((term.places.size, term.n))
            taken = term.places.reshape(-1) > 0
            matrix[taken] = term.synapse.weight[term.places.reshape(-1)[taken] - 1]
            return Dense(weight=matrix)
        case None:
            return _alike(term, source, target)
        case _:
            raise unsupported_kind(term.synapse)


def _alike(term: Term, source: Shape, target: Shape) -> Synapse:
    """Spikes as they are, neuron by neuron."""
    if len(source) == 3 and source == target and term.is_in_order:
        return _gained(
            Conv(weight=np.ones((source[0], 1, 1, 1)), input_shape=(source[0], *source[1:3]), groups=source[0]), term.gain
        )
    return _picked(term, csr_matrix((np.ones(term.n), np.arange(term.n), np.arange(term.n + 1)), shape=(term.n, term.n)))


def _gained(conv: Conv, gain: Floats) -> Synapse:
    """A window on each channel, of what is scaled in front of it."""
    if not gain.shape:
        return replace(conv, weight=conv.weight * gain)
    channels = gain.reshape(len(conv.weight), -1)
    if (channels != channels[:, :1]).any():
        return _sparse(csr_matrix(_listed(conv).multiply(gain)))
    return replace(conv, weight=conv.weight * channels[:, :1, None, None])


def _placed_channels(term: Term, conv: Conv, target: Shape) -> Conv | None:
    """The convolution onto all channels of the target, zeros onto those that it does not reach."""
    if term.is_in_order:
        return conv
    pixels = int(np.prod(conv.output_shape[1:]))
    if len(target) != 3 or target[1:] != conv.output_shape[1:] or term.is_pool:
        return None
    rows = term.places.reshape(-1, pixels)
    which = np.where(rows[:, 0] > 0, (rows[:, 0] - 1) // pixels, -1)
    if (rows != np.where(which[:, None] >= 0, which[:, None] * pixels + np.arange(1, pixels + 1), 0)).any():
        return None
    f, c = conv.weight.shape[:2]
    full = np.zeros((f, c * conv.groups, *conv.weight.shape[2:]))
    for out in range(f):
        first = out // (f // conv.groups) * c
        full[out, first : first + c] = conv.weight[out]
    weight = np.where((which >= 0)[:, None, None, None], full[which], 0.0)
    return replace(conv, weight=weight, groups=1)


def _picked(term: Term, matrix: csr_matrix) -> Sparse:
    """Of the rows of a matrix those that the term's places hold."""
    places = term.places.reshape(-1)
    taken = np.flatnonzero(places)
    pick = csr_matrix((np.ones(taken.size), (taken, places[taken] - 1)), shape=(places.size, matrix.shape[0]))
    picked = pick @ matrix
    return _sparse(picked if term.has_weights else csr_matrix(picked.multiply(np.broadcast_to(term.gain, term.n))))


def _listed(conv: Conv) -> csr_matrix:
    """Synapses of a convolution one by one."""
    (f, rows, columns), (_, height, width) = conv.output_shape, conv.input_shape
    per_group, c = f // conv.groups, conv.weight.shape[1]
    y, i = np.nonzero(conv.is_inside_input(0))
    x, j = np.nonzero(conv.is_inside_input(1))
    out, within = (a.reshape(-1) for a in np.indices((f, c)))
    channel = out // per_group * c + within
    to = (out[:, None, None] * rows + y[:, None]) * columns + x
    pixels = (channel[:, None, None] * height + conv.input_positions(0)[y, i][:, None]) * width + conv.input_positions(1)[x, j]
    weight = conv.weight[out[:, None, None], within[:, None, None], i[:, None], j]
    return csr_matrix((weight.reshape(-1), (to.reshape(-1), pixels.reshape(-1))), shape=(conv.n_out, conv.n_in))


def _sparse(matrix: csr_matrix) -> Sparse:
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return Sparse(n_in=matrix.shape[1], starts=matrix.indptr, sources=matrix.indices, weight=matrix.data)

"""How many cores a network needs at least, by the limits alone.

Every slice takes some share of each resource: of its own core's and, by the output axons that lead to it, of the cores of the
neurons that it hears. Let prices on the resources add up to one: then no core holds slices of
more than one in price, so the cheapest way to hold all neurons, each layer in the cheapest slices that a core could
hold, is a lower bound on the number of cores, whatever the prices. The best prices are found by a linear program (HiGHS, through
SciPy), the bound then taken at these prices over all slices that could exist.

Which slices could exist, and the least that they take: of a full dense layer any number of neurons, exactly; of a full convolution
any box of channels, rows and columns, counted as if it stood where it takes least. Of a layer that is pruned only the total
is known: its synapses without indices, packed without a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from neurodeploy.counting import LayerCount
from neurodeploy.encodings import Formula
from neurodeploy.graph import INPUT
from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.resources import AnyLayer, Layers, limited
from neurodeploy.windows import alike, edge
from neurodeploy.wiring import ConvWiring, DenseWiring, SparseWiring, Wiring

Floats = NDArray[np.float64]


def least_cores(layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile) -> int:
    """No placement of the layers' slices on cores of the chip takes fewer cores."""
    if not limited(profile):
        return 1
    n_neurons = np.array([layer.n_neurons for layer in layers], dtype=np.float64)
    shares = [_shares(layer, counts[layer.name], profile) for layer in layers]
    prices = _prices(shares, n_neurons)
    cheapest = np.array([(share @ prices).min() for share in shares])
    return max(1, math.ceil(float(n_neurons @ cheapest) - 1e-6))


def _prices(shares: list[Floats], n_neurons: Floats) -> Floats:
    """The prices (n_resources,) that make the bound largest, over the slices that are cheapest at some prices tried."""
    n_resources, n_layers = shares[0].shape[1], len(shares)
    corners = np.concatenate(
        [np.eye(n_resources), (np.eye(n_resources)[:, None] + np.eye(n_resources)).reshape(-1, n_resources) / 2]
    )
    kept = [share[np.unique((share @ corners.T).argmin(axis=0))] for share in shares]
    prices = np.full(n_resources, 1 / n_resources)
    for _ in range(20):
        rows = np.concatenate([_rows(slices, layer, n_layers) for layer, slices in enumerate(kept)])
        solved = linprog(
            np.concatenate([np.zeros(n_resources), -n_neurons]), A_ub=rows, b_ub=np.zeros(len(rows)),
            A_eq=np.concatenate([np.ones(n_resources), np.zeros(n_layers)])[None], b_eq=[1.0], method="highs",
        )  # fmt: skip
        if not solved.success:
            return prices
        prices = np.maximum(solved.x[:n_resources], 0) / np.maximum(solved.x[:n_resources], 0).sum()
        best = [int((share @ prices).argmin()) for share in shares]
        bound = sum(n * float(share[i] @ prices) for n, share, i in zip(n_neurons, shares, best, strict=True))
        if bound >= -solved.fun * (1 - 1e-6):
            return prices
        kept = [np.concatenate([slices, share[i : i + 1]]) for slices, share, i in zip(kept, shares, best, strict=True)]
    return prices


def _rows(slices: Floats, layer: int, n_layers: int) -> Floats:
    """Constraints of the program: the layer's value a neuron is no more than the price of any of its slices."""
    values = np.zeros((len(slices), n_layers))
    values[:, layer] = 1.0
    return np.concatenate([-slices, values], axis=1)


def _shares(layer: AnyLayer, count: LayerCount, profile: HardwareProfile) -> Floats:
    """(n_slices, n_resources): the share of a core that a neuron takes, in every slice of the layer that could exist."""
    capacity = np.array([profile.capacity(resource) for resource in limited(profile)], dtype=np.float64)
    found = [_of_total(layer, count, profile)]
    if len(layer.connections) == 1 and (count.connectivity is None or count.connectivity == 1):
        full = list(_of_full(layer.connections[0].synapse, count, profile))
        found = full or found
    n, memory, axons, heard = (np.concatenate(columns) for columns in zip(*found, strict=True))
    hears_input = all(connection.source == INPUT for connection in layer.connections)
    here = _taken(n, memory, axons, np.zeros_like(n), profile)
    fits = (here <= capacity).all(axis=1) | (n >= layer.n_neurons)
    shares = _taken(n, memory, axons, heard * (not hears_input), profile) / n[:, None] / capacity
    return shares[fits] if fits.any() else shares


def _taken(n: Floats, memory: Floats, axons: Floats, heard: Floats, profile: HardwareProfile) -> Floats:
    """(n_slices, n_resources): what slices take of their cores and, for the neurons that they hear, of those neurons' cores."""
    own = memory + profile.number("neuron_state_bits", 0) * n
    taken = {
        "neurons": n, "memory_bits": own + profile.number("output_axon_bits", 0) * heard, "synapse_memory_bits": memory,
        "neuron_memory_bits": profile.number("neuron_state_bits", 0) * n, "input_axons": axons, "output_axons": heard,
        "slices": np.ones_like(n),
    }  # fmt: skip
    return np.stack([taken.get(resource, np.zeros_like(n)) for resource in limited(profile)], axis=1)


Slices = tuple[Floats, Floats, Floats, Floats]
"""Neurons of slices, memory, input axons, and neurons that they hear."""


def _of_total(layer: AnyLayer, count: LayerCount, profile: HardwareProfile) -> Slices:
    """The layer as a whole, packed without a gap; of what is only expected, nothing but the neurons."""
    memory = axons = 0.0
    if count.connectivity is None:
        for connection in layer.connections:
            formula = Formula.of(profile, count.width, is_delayed=connection.delay_steps > 0)
            bits, heard = _packed(connection.synapse, formula)
            memory, axons = memory + bits, axons + heard
    return np.array([float(layer.n_neurons)]), np.array([memory]), np.array([axons]), np.array([axons])


def _packed(wiring: Wiring, formula: Formula) -> tuple[float, float]:
    match wiring:
        case ConvWiring():
            return float(np.count_nonzero(wiring.weight) * formula.synapse_bits), 0.0
        case SparseWiring():
            n_synapses = np.bincount(wiring.sources[wiring.weight != 0], minlength=1)
        case DenseWiring():
            n_synapses = np.count_nonzero(wiring.weight, axis=0)
    return float(formula.least(n_synapses).sum()), float(np.count_nonzero(n_synapses))


def _of_full(wiring: Wiring, count: LayerCount, profile: HardwareProfile) -> Iterator[Slices]:
    """Every slice of a layer without a zero among its weights."""
    is_full = count.connectivity == 1 or bool(wiring.weight.all())
    formula = Formula.of(profile, count.width, is_delayed=count.layer.connections[0].delay_steps > 0)
    match wiring:
        case DenseWiring() if is_full and "dense" in profile["encodings"].names:
            n = np.arange(1, min(wiring.n_out, profile.capacity("neurons")) + 1)
            memory = wiring.n_in * (formula.lists(n) + formula.entry)
            yield n.astype(np.float64), memory.astype(np.float64), *(np.full(n.size, float(wiring.n_in)),) * 2
        case ConvWiring() if is_full and wiring.groups == 1 and "convolution" in profile["encodings"].names:
            yield from _boxes(wiring, formula, profile)


def _boxes(wiring: ConvWiring, formula: Formula, profile: HardwareProfile) -> Iterator[Slices]:
    """Every box of a full convolution that could be best: as many columns as the neurons, or an index, allow."""
    (channels, height, width), atoms = wiring.output_shape, wiring.input_shape[0]
    along_rows, along_columns = (_least_edges(wiring, axis) for axis in (0, 1))
    c = np.arange(1, channels + 1)
    for rows in range(1, height + 1):
        most = np.minimum(width, profile.capacity("neurons") // (c * rows))
        for index in profile["index_bits"].choices:
            heard, kinds_r, span_r = along_rows[rows - 1]
            columns = np.minimum(most, _columns_within(1 << index, c, rows, span_r, along_columns, profile))
            for x in np.unique(columns[columns > 0]):
                here = c[columns == x]
                heard_x, kinds_c, _ = along_columns[x - 1]
                met = np.outer(kinds_r, kinds_c).reshape(-1)
                memory = formula.lists(here[:, None] * met * atoms, index).sum(axis=1) + formula.entry * heard * heard_x
                pixels = np.full(here.size, float(heard * heard_x))
                yield (here * rows * x).astype(np.float64), memory.astype(np.float64), pixels, pixels * atoms


def _columns_within(
    targets: int,
    c: NDArray[np.int64],
    rows: int,
    span: int,
    edges: list[tuple[int, NDArray[np.int64], int]],
    profile: HardwareProfile,
) -> NDArray[np.int64]:
    """Most columns of boxes of c channels and so many rows whose lists an index that tells `targets` apart can hold."""
    reach = profile.number("axon_base_neurons", UNLIMITED)
    most = np.zeros_like(c)
    for x in range(1, len(edges) + 1):
        plane, local = rows * x, span * x + edges[x - 1][2]
        last = local * c + c - 1
        first = (c - 1) * plane + local
        moved = (plane * c > reach) & (c > 1)  # channels last, lists stand several times: never the fewer bits
        needed = np.where(moved, first, np.minimum(first, last)) + 1
        most[needed <= targets] = x
    return most


def _least_edges(wiring: ConvWiring, axis: int) -> list[tuple[int, NDArray[np.int64], int]]:
    """For 1, 2, ... outputs along an axis: inputs heard, sizes of the kinds of meeting, span; where all are least."""
    side, kernel = wiring.output_shape[1 + axis], wiring.weight.shape[2 + axis]
    least, like = [], alike(wiring, axis)
    for n in range(1, side + 1):
        starts = sorted({*range(min(kernel, side - n) + 1), (side - n) // 2, *range(max(0, side - n - kernel), side - n + 1)})
        edges = [edge(wiring, axis, start, start + n, like) for start in starts]
        best = min(edges, key=lambda e: int(e.kinds.sum()))
        least.append((min(e.inputs.size for e in edges), best.kinds.sum(axis=1), min(e.span for e in edges)))
    return least

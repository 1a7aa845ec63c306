"""How many cores a network needs at least, by the limits alone.

Every slice takes some share of each resource: of its own core's and, by the output axons that lead to it, of the cores of the
neurons that it hears. Let prices on the resources add up to one: then no core holds slices of more than one in price, so the
cheapest way to hold all neurons, each layer in the cheapest slices that a core could hold, is a lower bound on the number of
cores, whatever the prices. The best prices are found by a linear program (HiGHS, through SciPy), the bound then taken at
these prices over all slices that could exist.

A slice holds the output axons of its own neurons beside the rest, and by how many slices they are heard follows from what
slices the layers after it could be cut into (`benchmarks.placement.lower_bound.hearers`). So the bound is taken a second time
with each
layer's cost paid by the neurons that it hears: large slices that hear a neuron are few, small ones are many and leave less
room where that neuron stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import linprog

from benchmarks.placement.lower_bound.hearers import fewest_hearers, image_of, is_known, least_cost, least_windows
from benchmarks.placement.lower_bound.possible import Possible, possible
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import ConvWiring
from neurodeploy.ir.graph import Connection
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, grid_of, limited_resources

_MANY_LAYERS = 100
"""Of so many layers each is looked at by itself."""
_NOTHING = 1e-12
"""A slice that covers nothing of a measure is dear beyond measure."""
_LARGE_IMAGE = 1 << 12
"""Of an image of more places every one counts like the least."""


def least_cores(layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile) -> int:
    """No placement of the layers' slices on cores of the chip takes fewer cores."""
    if not limited_resources(profile):
        return 1
    slices = slices_of(layers, counts, profile)
    alike: dict[int, tuple[Possible, int, tuple[float, float]]] = {}
    for layer in layers:
        one = slices[layer.name]
        times = alike[id(one)][1] if id(one) in alike else 0
        alike[id(one)] = one, times + 1, _whole(layer, one)
    bound, measure = 0.0, dict.fromkeys(alike, 0)
    for _ in range(2):
        covered = np.array([times * whole[measure[name]] for name, (_, times, whole) in alike.items()])
        prices = _prices([_shares(one, measure[name], profile) for name, (one, _, _) in alike.items()], covered)
        each = {
            name: [n * float((_shares(one, which, profile) @ prices).min()) for which, n in enumerate(whole)]
            for name, (one, _, whole) in alike.items()
        }
        measure = {name: int(np.argmax(values)) for name, values in each.items()}
        bound = max(bound, sum(alike[name][1] * max(values) for name, values in each.items()))
    if len(layers) <= _MANY_LAYERS:
        measures = [measure, dict.fromkeys(alike, 1)]
        bound = max(bound, *(_joint(layers, slices, by, prices, profile) for by in measures[: 1 + (measure != measures[1])]))
    return max(1, math.ceil(bound - 1e-6))


def _whole(layer: AnyLayer, one: Possible) -> tuple[float, float]:
    """What a layer counts in either measure."""
    rows, columns = part_of(layer, 1)
    return float(layer.n_neurons), layer.shape[0] * float(rows.sum() * columns.sum()) if one.is_image else float(layer.n_neurons)


def part_of(layer: AnyLayer, measure: int) -> tuple[Floats, Floats]:
    """What each row and column of a layer's neurons counts: 1, or the rows and columns of its largest window on the image."""
    windows = [c.synapse for c in layer.connections if isinstance(c.synapse, ConvWiring)]
    if not windows:
        return np.ones(1), np.ones(layer.n_neurons)
    largest = max(windows, key=lambda wiring: wiring.weight[0].size)
    rows, columns = (largest.is_inside_input(axis).sum(axis=1).astype(np.float64) for axis in (0, 1))
    return (rows, columns) if measure else (np.ones(rows.size), np.ones(columns.size))


def _joint(
    layers: Layers, slices: Mapping[str, Possible], measure: Mapping[int, int], prices: Floats, profile: HardwareProfile
) -> float:
    """A bound in which each layer is cut with what hears it in mind, at given prices (n_resources,).

    What a layer costs is paid by the neurons that it hears, from the last layer to the first: so a slice of these costs what it
    takes, and what its neurons pay. They can be heard only as often as there is room for their output axons beside the rest.
    Where a layer hears several, each pays by the synapses through which it is heard; any other parting would be a bound too.
    """
    total, cost = 0.0, dict[str, Floats]()
    known = {layer.name: _known_sources(layer, slices) for layer in layers}
    synapses = {layer.name: sum(_synapses(each) for each in known[layer.name]) for layer in layers}
    for layer in reversed(layers):
        one = slices[layer.name]
        which = measure[id(one)]
        covers, whole = np.maximum(one.measures[which], _NOTHING), max(_whole(layer, one)[which], _NOTHING)
        own = _taken(one.neurons, one.memory, one.axons, one.heard, profile) / _capacity(profile) @ prices
        hearers = [
            (connection.synapse, slices[target.name], cost[target.name] * _synapses(connection) / synapses[target.name],
             part_of(target, measure[id(slices[target.name])]))
            for target in layers for connection in target.connections
            if connection.source == layer.name and any(connection is each for each in known[target.name])
        ]  # fmt: skip
        if hearers:
            own = own + _paid_by(one, covers / whole, hearers, profile)
        cost[layer.name] = own / covers
        if not known[layer.name]:
            total += whole * float(cost[layer.name].min())
    return total


def _synapses(connection: Connection[Any]) -> int:
    """Synapses onto a neuron within the image."""
    wiring = connection.synapse
    return int(wiring.weight[0].size) if isinstance(wiring, ConvWiring) else int(wiring.n_in)


def _known_sources(layer: AnyLayer, slices: Mapping[str, Possible]) -> list[Connection[Any]]:
    """The connections by whose sources the layer is paid for."""
    known = []
    for connection in layer.connections:
        source = slices.get(connection.source)
        if source is not None and source.are_all and connection.source != layer.name:
            grid = tuple(int(side) for side in source.grid)
            if is_known(connection.synapse, slices[layer.name], image_of(grid)):
                known.append(connection)
    return known


Hearer: TypeAlias = "tuple[Any, Possible, Floats, tuple[Floats, Floats]]"
"""Wiring, slices, what they cost, and what rows and columns of their neurons count."""


def _paid_by(one: Possible, share: Floats, hearers: list[Hearer], profile: HardwareProfile) -> Floats:
    """(n_slices,): what the neurons of each slice, a share of the layer, pay at least for what hears them."""
    grid, image = one.grid, image_of(one.grid)
    room = profile.number("output_axon_bits", 0) / profile.capacity("memory_bits") + 1 / profile.capacity("output_axons")
    prices = np.concatenate([[0.0], room * 2.0 ** np.arange(-6, 8)])
    least = np.zeros((len(prices), *image))
    for wiring, slices, cost, parts in hearers:
        least += least_cost(image, wiring, slices, cost, prices, parts)
    per_place = grid[0] if len(grid) == 3 else 1
    anyway = least[0].sum() * per_place * share  # whatever the slices, so it may as well be parted by what they cover
    more = least - least[0]
    if len(grid) == 1 or math.prod(image) > _LARGE_IMAGE:
        pays = one.neurons * more.min(axis=(1, 2))[:, None]
    else:
        pays = one.sides[:, 0] * least_windows(more)[:, one.sides[:, 1], one.sides[:, 2]]
    paid: Floats = (pays - prices[:, None] * np.where(prices[:, None] > 0, one.sent, 0.0)).max(axis=0)
    total: Floats = anyway + paid
    return total


def _prices(shares: list[Floats], n_neurons: Floats) -> Floats:
    """The prices (n_resources,) that make the bound largest, over the slices that are cheapest at some prices tried."""
    n_resources, n_layers = shares[0].shape[1], len(shares)
    corners = np.concatenate(
        [np.eye(n_resources), (np.eye(n_resources)[:, None] + np.eye(n_resources)).reshape(-1, n_resources) / 2]
    )
    kept = [share[np.unique((share @ corners.T).argmin(axis=0))] for share in shares]
    prices: Floats = np.full(n_resources, 1 / n_resources)
    for _ in range(20):
        rows = np.concatenate([_rows(slices, layer, n_layers) for layer, slices in enumerate(kept)])
        solved = linprog(
            np.concatenate([np.zeros(n_resources), -n_neurons]), A_ub=rows, b_ub=np.zeros(len(rows)),
            A_eq=np.concatenate([np.ones(n_resources), np.zeros(n_layers)])[None], b_eq=[1.0], method="highs",
        )  # fmt: skip
        if not solved.success:
            return prices
        found = np.maximum(solved.x[:n_resources], 0)
        prices = np.asarray(found / found.sum(), dtype=np.float64)
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


def _capacity(profile: HardwareProfile) -> Floats:
    return np.array([profile.capacity(resource) for resource in limited_resources(profile)], dtype=np.float64)


def slices_of(layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile) -> dict[str, Possible]:
    """Every slice of each layer that an empty core could hold, with the output axons that it has at least.

    These are known from the last layer to the first: the largest slices that hear a neuron say how many hear it at least.
    """
    found: dict[str, Possible] = {}
    shared: dict[Any, Any] = {}
    heard_by: dict[str, list[tuple[str, Any]]] = {layer.name: [] for layer in layers}
    for layer in layers:
        for connection in layer.connections:
            if connection.source in heard_by:
                heard_by[connection.source].append((layer.name, connection.synapse))
    for layer in reversed(layers):
        every, grid = possible(counts[layer.name], profile, shared), grid_of(layer)
        hearers = [(synapse, found[target]) for target, synapse in heard_by[layer.name] if target in found]
        heard = (grid, *((id(synapse), id(one)) for synapse, one in hearers))
        if heard not in shared:
            shared[heard] = fewest_hearers(image_of(grid), hearers)
        fewest = shared[heard]
        key = (id(every), fewest.tobytes())
        if key not in shared:
            shared[key] = _fitting(every, fewest, profile) if every.are_all else every
        found[layer.name] = shared[key]
    return found


def _fitting(every: Possible, fewest: Floats, profile: HardwareProfile) -> Possible:
    """Those that an empty core could hold, with one output axon for each slice that must hear a neuron."""
    if (fewest == fewest.flat[0]).all() or fewest.shape[0] == 1 or fewest.size > _LARGE_IMAGE:
        sent = every.neurons * fewest.min()
    else:
        sent = every.sides[:, 0] * least_windows(fewest)[every.sides[:, 1], every.sides[:, 2]]
    here = _taken(every.neurons, every.memory, every.axons, sent, profile)
    fits = (here <= _capacity(profile)).all(axis=1)
    return every.only(fits) if fits.any() else every


def _shares(slices: Possible, measure: int, profile: HardwareProfile) -> Floats:
    """(n_slices, n_resources): the share of a core that a unit of a measure takes, in every slice that could exist."""
    taken = _taken(slices.neurons, slices.memory, slices.axons, slices.heard, profile)
    covered = np.maximum(slices.measures[measure], _NOTHING)
    shares: Floats = taken / covered[:, None] / _capacity(profile)
    return shares


def _taken(n: Floats, memory: Floats, axons: Floats, heard: Floats, profile: HardwareProfile) -> Floats:
    """(n_slices, n_resources): what slices take of their cores and, for the neurons that they hear, of those neurons' cores."""
    own = memory + profile.number("neuron_state_bits", 0) * n
    taken = {
        "neurons": n, "memory_bits": own + profile.number("output_axon_bits", 0) * heard, "synapse_memory_bits": memory,
        "neuron_memory_bits": profile.number("neuron_state_bits", 0) * n, "input_axons": axons, "output_axons": heard,
        "slices": np.ones_like(n),
    }  # fmt: skip
    return np.stack([taken.get(resource, np.zeros_like(n)) for resource in limited_resources(profile)], axis=1)

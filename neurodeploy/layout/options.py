"""Which blocks a layer can be cut into, and what the pieces would take."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.layout.schemes import Floats, Options, blocks, even_cuts, middle
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.regions import Region
from neurodeploy.resources.usage import Usage, limited, vector
from neurodeploy.resources.windows import Edge, Integers, Window

_SHARED = "options"
_COARSE = 1.5
"""Numbers of blocks to look at grow by so much where each has to be counted by itself."""
_LARGEST = 4
"""Of blocks with so many times the neurons of a core nothing is to be learnt."""


def options_of(count: LayerCount, grid: tuple[int, ...], profile: HardwareProfile) -> Options:
    """What a layer can be cut into; blocks of no more neurons than a core has, where it is an image.

    Parameters
    ----------
    count : LayerCount
        Or what counts as it does.
    """
    windows = count.windows() if isinstance(count, LayerCount) and len(grid) == 3 else None
    if windows is None or "convolution" not in profile["encodings"].names:
        return _one_by_one(count, grid, profile)
    key = (_SHARED, grid, bool(count.layer.bias.any()), *((id(window), len(sources)) for window, sources in windows))
    if key not in count.counted:
        count.counted[key] = _of_windows(count, windows, grid, profile)
    lengths, pieces, own, heard, peaks = count.counted[key]
    own = _pressed(own, lengths.prod(axis=1), count.share, profile)
    of_source, peak_of_source = dict[str, Floats](), dict[str, Floats]()
    for (_, sources), neurons, peak in zip(windows, heard, peaks, strict=True):
        for source in sources:
            of_source[source] = of_source.get(source, 0.0) + neurons
            peak_of_source[source] = peak_of_source.get(source, 0.0) + peak
    return Options(
        blocks=lengths, pieces=pieces, neurons=lengths.prod(axis=1).astype(np.float64), own=own, heard=of_source,
        peak=peak_of_source,
    )  # fmt: skip


def _pressed(own: Floats, n_neurons: Integers, share: float, profile: HardwareProfile) -> Floats:
    """Shares of a core that are left where synapses keep a share of the memory that they take."""
    if share == 1:
        return own
    pressed, state = own.copy(), n_neurons * profile.number("neuron_state_bits", 0)
    for n, resource in enumerate(limited(profile)):
        if resource in ("memory_bits", "synapse_memory_bits"):
            beside = state / profile.capacity(resource) if resource == "memory_bits" else 0.0
            pressed[:, n] = beside + share * (own[:, n] - beside)
    return pressed


def _one_by_one(count: LayerCount, grid: tuple[int, ...], profile: HardwareProfile) -> Options:
    """Any layer: the middle of each even cut stands for all."""
    most, capacity = profile.capacity("neurons"), _capacity(profile)
    lengths, pieces, own, heard = [], [], [], []
    for block in product(*(blocks(side, _COARSE) for side in grid)):
        if math.prod(block) > most and (len(grid) == 3 or math.prod(block) > most * _LARGEST):
            continue
        cut = [middle(side, length) for side, length in zip(grid, block, strict=True)]
        region = Region(tuple(a for a, _ in cut), tuple(b for _, b in cut))
        try:
            share = vector(count.usage(region), 0, profile) / capacity
        except BudgetError:
            share = np.full(len(capacity), 1e6)
        lengths.append(block)
        pieces.append(math.prod(-(-side // length) for side, length in zip(grid, block, strict=True)))
        own.append(share)
        heard.append(count.hears(region))
    parts = np.array(pieces, dtype=np.float64)
    sources = sorted({source for one in heard for source in one})
    of_source = {source: parts * np.array([one.get(source, 0) for one in heard], dtype=np.float64) for source in sources}
    table = np.array(lengths, dtype=np.int64)
    sizes = _sizes(count)
    peak = {source: neurons / sizes[source] for source, neurons in of_source.items() if source in sizes}
    return Options(
        blocks=table, pieces=parts, neurons=table.prod(axis=1).astype(np.float64), own=np.stack(own), heard=of_source, peak=peak
    )


def _sizes(count: LayerCount) -> dict[str, int]:
    """How many neurons each source has."""
    return {connection.source: connection.synapse.n_in for connection in count.layer.connections}


def _capacity(profile: HardwareProfile) -> Floats:
    return np.maximum(np.array([profile.capacity(resource) for resource in limited(profile)], dtype=np.float64), 1.0)


def _of_windows(
    count: LayerCount, windows: list[tuple[Window, tuple[str, ...]]], grid: tuple[int, ...], profile: HardwareProfile
) -> tuple[Integers, Floats, Floats, list[Floats], list[Floats]]:
    """Blocks, pieces, shares of a core, and what a source of each window has to send, in all and at most a neuron."""
    channels = np.array(blocks(grid[0]))
    n_runs = -(-grid[0] // channels)
    cut = np.array([middle(grid[0], int(c)) for c in channels])
    sides = [[(length, *_along(windows, axis, grid, length)) for length in blocks(grid[1 + axis])] for axis in (0, 1)]
    tables: list[tuple[Integers, Floats, Floats, list[Floats], list[Floats]]] = []
    for (y, rows, heard_y, peak_y), (x, columns, heard_x, peak_x) in product(*sides):
        few = channels * y * x <= profile.capacity("neurons")
        while few.any():
            try:
                own = _shares(count, windows, cut[few], (y, x), (rows, columns), profile)
                break
            except BudgetError:  # no index as long: fewer channels
                few[np.flatnonzero(few)[0]] = False
        if not few.any():
            continue
        pieces = n_runs[few] * -(-grid[1] // y) * -(-grid[2] // x)
        length = np.stack([channels[few], np.full(few.sum(), y), np.full(few.sum(), x)], axis=1)
        heard = [
            n_runs[few] * np.array([window.n_channels(a, b) for a, b in cut[few].tolist()]) * float(hy * hx)
            for (window, _), hy, hx in zip(windows, heard_y, heard_x, strict=True)
        ]
        within = [
            n_runs[few] * np.array([window.n_channels(a, b) for a, b in cut[few].tolist()]) / window.wiring.input_shape[0]
            for window, _ in windows
        ]
        peak = [runs * float(py * px) for runs, py, px in zip(within, peak_y, peak_x, strict=True)]
        tables.append((length, pieces.astype(np.float64), own, heard, peak))
    lengths, all_pieces, shares, sent, most = zip(*tables, strict=True)
    of_window, peaks = ([np.concatenate(column) for column in zip(*each, strict=True)] for each in (sent, most))
    return np.concatenate(lengths), np.concatenate(all_pieces), np.concatenate(shares), of_window, peaks


def _along(
    windows: list[tuple[Window, tuple[str, ...]]], axis: int, grid: tuple[int, ...], length: int
) -> tuple[list[Edge], list[int], list[int]]:
    """For each window along rows (0) or columns (1): the middle run's edge, inputs that runs hear, runs that hear one at most."""
    runs, (a, b) = even_cuts(grid[1 + axis], length), middle(grid[1 + axis], length)
    return (
        [window.edge(axis, a, b) for window, _ in windows],
        [sum(window.edge(axis, *run).inputs.size for run in runs) for window, _ in windows],
        [
            int(np.bincount(np.concatenate([window.edge(axis, *run).inputs for run in runs])).max(initial=0))
            for window, _ in windows
        ],
    )


def _shares(
    count: LayerCount,
    windows: list[tuple[Window, tuple[str, ...]]],
    cut: Integers,
    sides: tuple[int, int],
    edges: tuple[list[Edge], list[Edge]],
    profile: HardwareProfile,
) -> Floats:
    """(n, n_resources): share of a core that pieces of the channels `cut` (n, 2) take."""
    memory, axons = np.zeros(len(cut), dtype=np.int64), np.zeros(len(cut), dtype=np.int64)
    for (window, sources), rows, columns in zip(windows, *edges, strict=True):
        bits, pixels, _ = window.count_many(cut[:, 0], cut[:, 1], sides, rows, columns)
        memory += bits + (len(sources) - 1) * pixels * window.formula.entry
        axons += len(sources) * pixels
    taken, one = [], count.usage(Region((0, 0, 0), (1, 1, 1)))
    for (start, stop), bits, pixels in zip(cut.tolist(), memory.tolist(), axons.tolist(), strict=True):
        neurons = (stop - start) * sides[0] * sides[1]
        usage = Usage(
            neurons=neurons, synapses=0, synapse_memory_bits=bits, input_axons=pixels, encoding="convolution",
            neuron_memory_bits=neurons * profile.number("neuron_state_bits", 0),
            biases=stop - start if count.layer.bias.any() else 0, synapse_formats=len(windows),
            neuron_profiles=one.neuron_profiles, threshold_profiles=one.threshold_profiles,
        )  # fmt: skip
        taken.append(vector(usage, 0, profile))
    shares: Floats = np.stack(taken) / _capacity(profile)
    return shares

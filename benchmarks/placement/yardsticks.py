"""Neurons onto cores and cores onto the board: ours beside a hypergraph partitioner, and beside simpler arrangements.

uv run --group mtkahypar python -m benchmarks.placement.yardsticks [--only NET] [--out benchmarks/results/placement.jsonl]

Mt-KaHyPar (Gottesbueren et al. 2024) partitions the hypergraph of the network: a vertex for each neuron, and for each neuron that
sends, a net of itself and its targets. It gets as many parts as our layout has cores, each of at most as many neurons as our
fullest core, and minimises what is counted for all: `km1`, the sum over neurons of the other cores that they send to. Its parts
are put onto the board by our `arrange`; our cores also in order, greedily, and along a Hilbert curve improved by forces. Spikes x
hops have one message from a neuron to each other core that it sends to, at 0.1 spikes a step.

Mt-KaHyPar knows neurons alone. `needs` is how many cores its parts take at least once those that break a limit of the chip are
divided: lists of synapses are stored as the chip stores them, but no longer as convolutions, since a part is no box of neurons.

Seconds are the processor's, without building the network or the hypergraph.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.placement.arrangers import force_directed
from benchmarks.placement.drawing import Drawing
from benchmarks.placement.flywire import flywire
from benchmarks.placement.networks import mnist_2fc
from benchmarks.placement.rows import append, commit, rows
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedNetwork, QuantizedSparse
from neurodeploy.mapping.energy import mesh_of, multicast_hops
from neurodeploy.mapping.mesh_arrangement import arrange, greedy, in_order
from neurodeploy.mapping.place import counts_of, lay_out
from neurodeploy.mapping.placement import Placement
from neurodeploy.mapping.traffic import ASSUMED_RATE, Copies, Flow, links_of, spike_hops, traffic_graph
from neurodeploy.resources.usage import Region, grid_of, limited_resources, usage_vector

Integers = NDArray[np.int64]
T = TypeVar("T")
ADDITIVE = ("neurons", "input_axons", "output_axons", "synapse_memory_bits", "neuron_memory_bits", "memory_bits")
"""Resources of which slices on one core take the sum."""


def conv_digits(*, channels: int = 16) -> QuantizedNetwork:
    """Three convolutions of stride 2 on 2 x 34 x 34, 256 and 10: 8,858 neurons at 16 channels."""
    draw = Drawing((2, 34, 34), seed=0)
    heard = draw.conv("conv1", (INPUT,), channels, stride=2)
    heard = draw.conv("conv2", heard, 2 * channels, stride=2)
    heard = draw.conv("conv3", heard, 4 * channels, stride=2)
    draw.dense("fc2", draw.dense("fc1", heard, 256), 10, fires=False)
    return draw.network()


def sparse_layers() -> QuantizedNetwork:
    """2000-2000-2000-2000-2000-2000, 5 % of the weights at random."""
    draw = Drawing((2000,), seed=0, connectivity=0.05)
    heard: tuple[str, ...] = (INPUT,)
    for k in range(1, 6):
        heard = draw.dense(f"fc{k}", heard, 2000)
    return draw.network()


NETS: dict[str, tuple[Callable[[], QuantizedNetwork], str]] = {
    "784-800-10": (mnist_2fc, "loihi1"),
    "784-800-10, a tenth of the weights": (partial(mnist_2fc, connectivity=0.1), "loihi1"),
    "five layers of 2,000, 5 % of the weights": (sparse_layers, "loihi1"),
    "convolutions, 9,000 neurons": (conv_digits, "loihi1"),
    "convolutions, 18,000 neurons": (partial(conv_digits, channels=32), "loihi1"),
    "FlyWire-like, 5,000 neurons": (partial(flywire, neurons=5000), "loihi2"),
    "FlyWire-like, 20,000 neurons": (partial(flywire, neurons=20_000), "loihi2"),
}


def first_neurons(network: QuantizedNetwork) -> dict[str, int]:
    """Number of the first neuron of each layer, all neurons of the network counted through."""
    ends = np.cumsum([layer.n_neurons for layer in network]).tolist()
    return dict(zip((layer.name for layer in network), [0, *ends], strict=False))


def adjacency_of(network: QuantizedNetwork) -> csr_array:
    """(n_neurons, n_neurons), one where the row's neuron sends to the column's; without the network's input."""
    first, found = first_neurons(network), []
    for layer in network:
        for connection in layer.connections:
            if connection.source != INPUT:
                synapses = connection.synapse.csr().tocoo()
                there = synapses.data != 0
                found.append((synapses.col[there] + first[connection.source], synapses.row[there] + first[layer.name]))
    source, target = (
        np.concatenate([np.zeros(0, np.int64), *ends]) for ends in (zip(*found, strict=True) if found else ([], []))
    )
    n = network.n_neurons
    adjacency = csr_array((np.ones(source.size, np.int8), (source, target)), shape=(n, n))
    adjacency.sum_duplicates()
    adjacency.data[:] = 1
    return adjacency


def part_of(network: QuantizedNetwork, placement: Placement) -> Integers:
    """Core of each neuron, numbered among those that are used."""
    part, first = np.empty(network.n_neurons, np.int64), first_neurons(network)
    for piece in placement.slices:
        layer = network[piece.layer]
        mine = part[first[layer.name] : first[layer.name] + layer.n_neurons]
        mine.reshape(grid_of(layer))[piece.region.box] = piece.core
    return np.unique(part, return_inverse=True)[1].ravel()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Neurons on cores: the spikes of each core's neurons to other cores."""

    n_cores: int
    copies: Copies

    @classmethod
    def of(cls, adjacency: csr_array, part: Integers) -> Parts:
        """Messages from each neuron to each other core with targets of it."""
        n, n_cores = part.size, int(part.max()) + 1
        where = csr_array((np.ones(n, np.int32), (np.arange(n), part)), shape=(n, n_cores))
        sent = (adjacency.astype(np.int32) @ where).tocoo()
        other = sent.col != part[sent.row]
        copies = Copies(part, np.full(n, ASSUMED_RATE), sent.row[other].astype(np.int64), sent.col[other].astype(np.int64))
        return cls(n_cores=n_cores, copies=copies)

    @property
    def km1(self) -> int:
        """Pairs of a neuron and another core that it sends to."""
        return int(self.copies.group.size)

    @property
    def flow(self) -> Flow:
        pairs = self.copies.source[self.copies.group] * self.n_cores + self.copies.target
        keys, messages = np.unique(pairs, return_counts=True)
        return Flow(source=keys // self.n_cores, target=keys % self.n_cores, spikes=messages * ASSUMED_RATE)


def in_parts(network: QuantizedNetwork, part: Integers) -> tuple[QuantizedNetwork, list[tuple[str, Region]], Integers]:
    """The network with each layer's neurons in the order of their parts, its slices, and the part of each slice."""
    first, order, slices, parts = first_neurons(network), {}, [], []
    for layer in network:
        mine = part[first[layer.name] : first[layer.name] + layer.n_neurons]
        order[layer.name] = np.argsort(mine, kind="stable")
        start = 0
        for number, run in groupby(mine[order[layer.name]].tolist()):
            stop = start + len(list(run))
            slices.append((layer.name, Region.run(start, stop)))
            parts.append(number)
            start = stop
    layers = []
    for layer in network:
        connections = []
        for connection in layer.connections:
            rows = connection.synapse.csr()[order[layer.name]]
            moved = rows if connection.source == INPUT else rows[:, order[connection.source]]
            moved.eliminate_zeros()
            moved.sort_indices()
            listed_out = QuantizedSparse(
                n_in=moved.shape[1], starts=moved.indptr.astype(np.int64), sources=moved.indices.astype(np.int32),
                weight=moved.data.astype(np.int16), weight_bits=connection.synapse.weight_bits,
            )  # fmt: skip
            connections.append(replace(connection, synapse=listed_out))
        bias = np.array(layer.bias)
        bias = bias.ravel()[order[layer.name]] if bias.size == layer.n_neurons else bias
        layers.append(replace(layer, shape=(layer.n_neurons,), connections=tuple(connections), bias=bias))
    return replace(network, layers=tuple(layers)), slices, np.array(parts)


def limits_of(network: QuantizedNetwork, part: Integers, profile: HardwareProfile) -> tuple[int, dict[str, dict[str, int]]]:
    """Cores that the parts need at least, and by resource the number of parts that break its limit, the most and the limit."""
    ordered, slices, home = in_parts(network, part)
    counts = counts_of(ordered.layers, {layer.name: layer.weight_bits for layer in ordered}, profile)
    links = links_of(slices, ordered.layers, counts, {layer.name: np.array(1.0) for layer in ordered})
    inside = links.source >= 0
    axons = np.bincount(links.source[inside], links.spikes[inside], len(slices)).round().astype(int).tolist()
    used = np.array(
        [usage_vector(counts[name].usage(region), n, profile) for (name, region), n in zip(slices, axons, strict=True)]
    )
    names = limited_resources(profile)
    columns = [names.index(name) for name in ADDITIVE if name in names]
    taken = np.zeros((int(home.max()) + 1, len(columns)), np.int64)
    np.add.at(taken, home, used[:, columns])
    most = np.array([profile.capacity(names[column]) for column in columns])
    broken = {
        names[column]: {"parts": int((need > limit).sum()), "most": int(need.max()), "limit": int(limit)}
        for column, need, limit in zip(columns, taken.T, most, strict=True)
        if need.max() > limit
    }
    return int(np.maximum((-(-taken // most)).max(axis=1), 1).sum()), broken


def partitioned(adjacency: csr_array, n_parts: int, most: int, preset: str) -> tuple[Integers, float]:
    """Mt-KaHyPar's part of each neuron, at most `most` neurons to a part, and the processor's seconds; one thread."""
    import mtkahypar  # in the dependency group of this benchmark alone

    kahypar = mtkahypar.initialize(1, print_warnings=False)
    mtkahypar.set_seed(0)
    context = kahypar.context_from_preset(getattr(mtkahypar.PresetType, preset))
    n = adjacency.shape[0]
    context.set_partitioning_parameters(n_parts, max(most * n_parts / n - 1, 0.0), mtkahypar.Objective.KM1)
    context.set_individual_target_block_weights([most] * n_parts)
    nets = [
        np.union1d(adjacency.indices[adjacency.indptr[i] : adjacency.indptr[i + 1]], i).tolist()
        for i in np.flatnonzero(np.diff(adjacency.indptr)).tolist()
    ]
    graph = kahypar.create_hypergraph(context, n, len(nets), nets)
    started = time.process_time()
    found = graph.partition(context)
    seconds = time.process_time() - started
    return np.array([found.block_id(i) for i in range(n)]), seconds


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """A result and the processor's seconds that it took."""
    started = time.process_time()
    result = run()
    return result, time.process_time() - started


def measure(net: str) -> Iterator[dict[str, Any]]:
    """Rows of a network: every way to partition and to arrange it."""
    build, chip = NETS[net]
    network, profile = build(), load_profile(chip)
    mesh, adjacency = mesh_of(profile), adjacency_of(network)
    placement, laid_s = timed(lambda: lay_out(network, profile))
    part = part_of(network, placement)
    n_cores, most = int(part.max()) + 1, int(np.bincount(part).max())
    size = {"net": net, "profile": chip, "neurons": network.n_neurons, "pairs": int(adjacency.nnz), "cores": n_cores}

    def row(way: str, parts: Parts, partition_s: float, put: Callable[[Flow], Integers], **more: Any) -> dict[str, Any]:
        flow = parts.flow
        position, arrange_s = timed(lambda: put(flow))
        return {
            "table": "yardsticks", **size, "way": way, "km1": parts.km1, "spike_hops": round(spike_hops(flow, position, mesh), 1),
            "multicast_hops": round(multicast_hops(parts.copies, position, mesh), 1), "partition_s": round(partition_s, 3),
            "arrange_s": round(arrange_s, 3), **more, "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip

    def ours(flow: Flow) -> Integers:
        return arrange(flow, n_cores, mesh, seed=0)

    mine = Parts.of(adjacency, part)
    yield row("in order", mine, laid_s, lambda _: in_order(n_cores))
    yield row("greedy", mine, laid_s, lambda flow: greedy(traffic_graph(flow, n_cores), mesh))
    yield row("Hilbert curve and forces", mine, laid_s, lambda flow: force_directed(flow, n_cores, mesh, 0))
    yield row("neurodeploy", mine, laid_s, ours, needs=n_cores, broken={})
    for preset in ("DEFAULT", "QUALITY"):
        theirs, seconds = partitioned(adjacency, n_cores, most, preset)
        needs, broken = limits_of(network, theirs, profile)
        yield row(f"mtkahypar, {preset.lower()}", Parts.of(adjacency, theirs), seconds, ours, needs=needs, broken=broken)


RIVALS = ("in order", "greedy", "Hilbert curve and forces")
THEIRS = ("mtkahypar, default", "mtkahypar, quality")


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown, one for each network: km1 and hops over ours, with both presets of Mt-KaHyPar in one cell."""
    hops = ("in order", "greedy", "curve, forces", "mtkahypar")
    headings = ("net", "cores", "km1: mtkahypar", f"hops: {hops[0]}", *hops[1:], f"as multicast: {hops[0]}", *hops[1:])
    headings += ("partition: ours", "mtkahypar", "arrange: ours", "cores that its parts need")
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for net in dict.fromkeys(row["net"] for row in found):
        of = {row["way"]: row for row in found if row["net"] == net}
        mine, theirs = of["neurodeploy"], [of[way] for way in THEIRS]

        def ratios(key: str, some: list[dict[str, Any]], mine: dict[str, Any] = mine) -> str:
            return ", ".join(f"{row[key] / mine[key]:.2f}" for row in some) if mine[key] else "-"

        needs = [f"{row['needs']:,}" for row in theirs]
        broken = "; ".join(f"{name} {one['most']:,} > {one['limit']:,}" for name, one in theirs[0]["broken"].items())
        cells = [f"{net}, {mine['profile']}", f"{mine['cores']:,}", ratios("km1", theirs)]
        for key in ("spike_hops", "multicast_hops"):
            cells += [*(ratios(key, [of[way]]) for way in RIVALS), ratios(key, theirs)]
        cells += [f"{mine['partition_s']:.2f} s", ", ".join(f"{row['partition_s']:.2f}" for row in theirs) + " s"]
        cells += [f"{mine['arrange_s']:.2f} s", f"{', '.join(needs)}{f' ({broken})' if broken else ''}"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure every network that is not on record at this commit yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="nets whose name has this in it")
    parser.add_argument("--out", type=Path, help="append a line of JSON for each net and way to this file")
    parser.add_argument("--table", action="store_true", help="print the table of the file's last rows, and measure nothing")
    asked = parser.parse_args()
    on_record = [row for row in rows(asked.out) if row["table"] == "yardsticks"]
    made = []
    for net in NETS if not asked.table else ():
        if asked.only in net and not any(row["net"] == net and row["commit"] == commit() for row in on_record):
            made += list(measure(net))
            for row in made[-6:]:
                append(row, asked.out)
    last = {(row["net"], row["way"]): row for row in [*on_record, *made]}
    print("\n".join(table(list(last.values()))))


if __name__ == "__main__":
    main()

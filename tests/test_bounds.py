"""The lower bound on cores: never above what any placement takes, however it was found, and exact where paper says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np
import pytest
from conftest import examples, with_values
from hypothesis import given
from hypothesis import strategies as st
from paper import in_integers, layer_of

from benchmarks.placement.drawing import Drawing
from benchmarks.placement.lower_bound.bounds import least_cores as tight_bound
from benchmarks.placement.lower_bound.hearers import least_windows
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLIF, QuantizedNetwork, QuantizedSparse, QuantizedSynapse
from neurodeploy.mapping.core_estimate import least_cores
from neurodeploy.mapping.packing import FanOut
from neurodeploy.mapping.place import counts_of, lay_out
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, bits_of, grid_of, limited_resources

MakeChip = Callable[..., HardwareProfile]


# ---------------------------------------------------------------------------------------------- any placement there is


def counted(network: QuantizedNetwork, profile: HardwareProfile) -> dict[str, LayerCount]:
    return counts_of(network.layers, {layer.name: bits_of(layer, 8) for layer in network.layers}, profile)


def halved(region: Region, rng: np.random.Generator) -> tuple[Region, Region]:
    """A region cut in two, anywhere."""
    axis = int(rng.choice([n for n, side in enumerate(region.sides) if side > 1]))
    cut = int(rng.integers(region.starts[axis] + 1, region.stops[axis]))
    middle = [list(region.starts), list(region.stops)]
    middle[0][axis] = middle[1][axis] = cut
    return Region(region.starts, tuple(middle[1])), Region(tuple(middle[0]), region.stops)


def at_random(network: QuantizedNetwork, profile: HardwareProfile, rng: np.random.Generator) -> int | None:
    """Cores of a placement with cuts drawn until every piece fits, each piece on the first core with room; None if none fits."""
    counts = counted(network, profile)
    fan_out = FanOut(network.layers, counts, profile)
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    pieces: list[np.ndarray] = []
    for layer in reversed(network.layers):
        counter, waiting, regions = fan_out.counter(layer), [Region.whole(grid_of(layer))], []
        while waiting:
            region = waiting.pop()
            if (counter.needs(region) > capacity).any() or (region.n_neurons > 1 and rng.random() < 0.05):
                if region.n_neurons == 1:
                    return None
                waiting += halved(region, rng)
            else:
                regions.append(region)
        fan_out.add(layer, regions)
        pieces += [counter.needs(region) for region in regions]
    return first_fit(pieces, capacity)


@st.composite
def drawn_networks(draw: st.DrawFn) -> QuantizedNetwork:
    """Up to four layers of convolutions, with strides, folded pools, shortcuts, sums and depthwise ones, and a dense end."""
    side = draw(st.integers(1, 3)) * 2
    drawing = Drawing((draw(st.integers(1, 3)), side, side), seed=draw(st.integers(0, 99)),
                      connectivity=draw(st.sampled_from([1.0, 1.0, 1.0, 0.5])))  # fmt: skip
    heard = (INPUT,)
    for n in range(draw(st.integers(1, 3))):
        kernel, channels = draw(st.sampled_from([1, 3])), draw(st.integers(1, 6))
        kind = draw(st.sampled_from(["plain", "shortcut", "sum", "depthwise"]))
        if kind == "depthwise":
            heard = drawing.max_pool(f"conv{n}", heard[:1], 3, stride=1, padding=1)
            continue
        sides = drawing.shapes[heard[0]][1:]
        pool = draw(st.sampled_from([1, 2])) if sides[0] % 2 == 0 and kind == "plain" else 1
        before = heard
        shortcut = heard if kind == "shortcut" else ()
        heard = drawing.conv(f"conv{n}", heard, channels, kernel=kernel, padding=kernel // 2, pool=pool, shortcut=shortcut)
        if kind == "sum" and drawing.shapes[before[0]] == drawing.shapes[heard[0]]:
            heard = heard + before
    if draw(st.booleans()):
        drawing.dense("dense", heard[:1], draw(st.integers(1, 20)))
    return drawing.network()


CHIPS = st.builds(
    with_values,
    st.just(load_profile("tiny")),
    neurons_per_core=st.sampled_from([8, 40, 200]),
    synapse_memory_bits_per_core=st.sampled_from([4_000, 12_000, 60_000]),
    output_axons_per_core=st.sampled_from([30, 200, 5_000]),
    input_axons_per_core=st.sampled_from([60, 400]),
    memory_unit_bits=st.sampled_from([1, 64]),
    axon_base_neurons=st.sampled_from([None, 16]),
) | st.builds(
    with_values,
    st.just(load_profile("loihi2")),
    neurons_per_core=st.sampled_from([16, 200]),
    memory_bits_per_core=st.sampled_from([8_000, 30_000, 120_000]),
)


@examples(60)
@given(network=drawn_networks(), profile=CHIPS, seed=st.integers(0, 999))
def test_no_placement_takes_fewer_cores(network: QuantizedNetwork, profile: HardwareProfile, seed: int) -> None:
    bound = tight_bound(network.layers, counted(network, profile), profile)
    bound = max(bound, least_cores(network.layers, counted(network, profile), profile))
    ours = lay_out(network, profile)
    if not [overrun for overrun in ours.overruns() if overrun.resource != "cores"]:
        assert bound <= ours.cores_used
    for draw in range(3):
        found = at_random(network, profile, np.random.default_rng([seed, draw]))
        assert found is None or bound <= found


@pytest.mark.parametrize("chip", ["loihi1", "loihi2", "dynapcnn", "tiny", "xylo"])
@pytest.mark.parametrize("connectivity", [None, 0.3])
def test_the_plain_bound_holds_on_every_kind_of_chip(chip: str, connectivity: float | None) -> None:
    """Formats that round up to powers of two, crossbars, cores that differ; counted, and as expected of pruned weights."""
    drawing = Drawing((2, 8, 8), seed=3, connectivity=0.5)
    drawing.dense("dense", drawing.conv("last", drawing.conv("first", (INPUT,), 4, kernel=3, padding=1), 3), 20)
    network, profile = drawing.network(), load_profile(chip)
    ours = lay_out(network, profile, connectivity=connectivity)
    assert ours.cores_lower_bound <= ours.cores_used or not ours.fits
    assert ours.cores_lower_bound >= 1


def first_fit(pieces: list[np.ndarray], capacity: np.ndarray) -> int:
    """Cores that pieces take, each on the first with room."""
    cores: list[np.ndarray] = []
    for needs in pieces:
        room = next((core for core in cores if (core >= needs).all()), None)
        if room is None:
            cores.append(room := capacity.copy())
        room -= needs
    return len(cores)


def recurrent(n: int, connectivity: float, seed: int) -> QuantizedNetwork:
    """A population that hears itself and one input, each pair connected with some chance."""
    rng = np.random.default_rng(seed)
    present = rng.random((n, n)) < connectivity
    starts, sources = np.concatenate([[0], np.cumsum(present.sum(axis=1))]), np.nonzero(present)[1]
    itself = QuantizedSparse(n_in=n, starts=starts, sources=sources, weight=np.full(sources.size, 2), weight_bits=8)
    inputs = QuantizedSparse(n_in=1, starts=np.array([0, *[1] * n]), sources=np.array([0]), weight=np.array([2]), weight_bits=8)
    into: tuple[Connection[QuantizedSynapse], ...] = (
        Connection(source=INPUT, synapse=inputs), Connection(source="all", synapse=itself),
    )  # fmt: skip
    neuron = QuantizedLIF(vth=np.array(10), du=np.array(4096), dv=np.array(4096))
    layer = QuantizedLayer(name="all", shape=(n,), neuron=neuron, connections=into, bias=np.array(0), scale=np.array(0.0))
    return QuantizedNetwork(input_shape=(1,), layers=(layer,))


@examples(40)
@given(n=st.integers(2, 40), connectivity=st.sampled_from([0.02, 0.1, 0.5]), profile=CHIPS, seed=st.integers(0, 999))
def test_nor_fewer_for_sparse_layers_that_hear_themselves(
    n: int, connectivity: float, profile: HardwareProfile, seed: int
) -> None:
    network, rng = recurrent(n, connectivity, seed), np.random.default_rng(seed)
    layer, counts = network.layers[0], counted(network, profile)
    bound = max(least_cores(network.layers, counts, profile), tight_bound(network.layers, counts, profile))
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    for pieces in range(1, n + 1):
        ends = [0, *sorted(rng.choice(np.arange(1, n), pieces - 1, replace=False).tolist()), n]
        regions = [Region.run(*run) for run in pairwise(ends)]
        fan_out = FanOut(network.layers, counts, profile)
        fan_out.add(layer, regions)
        needs = [fan_out.counter(layer).needs(region) for region in regions]
        if all((need <= capacity).all() for need in needs):
            assert bound <= first_fit(needs, capacity)
            break


# ---------------------------------------------------------------------------------------------- all placements of tiny networks


def cuts(n: int) -> Iterator[list[tuple[int, int]]]:
    """All ways to cut n neurons into runs."""
    for chosen in product([False, True], repeat=n - 1):
        ends = [0, *(i + 1 for i, is_cut in enumerate(chosen) if is_cut), n]
        yield list(pairwise(ends))


def fewest_cores(network: QuantizedNetwork, profile: HardwareProfile) -> int:
    """Of all cuts of two layers and all ways to put the pieces on cores."""
    counts, first, second = counted(network, profile), *network.layers
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    best = network.n_neurons
    for later in cuts(second.n_neurons):
        fan_out = FanOut(network.layers, counts, profile)
        fan_out.add(second, [Region.run(*run) for run in later])
        fillings = fan_out.counter(first), fan_out.counter(second)
        for earlier in cuts(first.n_neurons):
            pieces = [fillings[0].needs(Region.run(*run)) for run in earlier]
            pieces += [fillings[1].needs(Region.run(*run)) for run in later]
            best = min(best, packed(pieces, [], capacity, best))
    return best


def packed(pieces: list[np.ndarray], cores: list[np.ndarray], capacity: np.ndarray, best: int) -> int:
    """The fewest cores that hold the pieces, on those begun and new ones; `best` if no better."""
    if len(cores) >= best or not pieces:
        return min(len(cores), best)
    for n, core in enumerate(cores):
        if (core >= pieces[0]).all():
            best = min(best, packed(pieces[1:], [*cores[:n], core - pieces[0], *cores[n + 1 :]], capacity, best))
    if (pieces[0] <= capacity).all():
        best = min(best, packed(pieces[1:], [*cores, capacity - pieces[0]], capacity, best))
    return best


@examples(15)
@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(2, 5), st.integers(1, 4)), share=st.sampled_from([0.6, 1.0]),
    memory=st.sampled_from([128, 256, 512, 1024]), sends=st.integers(2, 12), neurons=st.integers(1, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_nor_does_the_best_of_all_placements(
    make_chip: MakeChip, sizes: tuple[int, int, int], share: float, memory: int, sends: int, neurons: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = [2 * rng.integers(1, 60, (n_out, n_in)) * (rng.random((n_out, n_in)) < share)
               for n_in, n_out in pairwise(sizes)]  # fmt: skip
    network = in_integers(layer_of(weights[0], name="first", vth=10), layer_of(weights[1], name="second", source="first"))
    chip = make_chip(synapse_memory_bits_per_core=memory, output_axons_per_core=sends, neurons_per_core=neurons)
    ours = lay_out(network, chip)
    if not [overrun for overrun in ours.overruns() if overrun.resource != "cores"]:
        tight = tight_bound(network.layers, counted(network, chip), chip)
        assert max(tight, ours.cores_lower_bound) <= fewest_cores(network, chip) <= ours.cores_used


@examples(20)
@given(
    n=st.integers(2, 6), connectivity=st.sampled_from([0.3, 0.6, 1.0]), memory=st.sampled_from([500, 800, 1200, 2500]),
    unit=st.sampled_from([1, 64]), seed=st.integers(0, 99),
)  # fmt: skip
def test_nor_the_best_of_a_sparse_layer_that_hears_itself(n: int, connectivity: float, memory: int, unit: int, seed: int) -> None:
    profile = with_values(load_profile("loihi2"), memory_bits_per_core=memory, memory_unit_bits=unit)
    network = recurrent(n, connectivity, seed)
    layer, counts, best = network.layers[0], counted(network, profile), n + 1
    capacity = np.array([profile.capacity(resource) for resource in limited_resources(profile)])
    for runs in cuts(n):
        regions = [Region.run(*run) for run in runs]
        fan_out = FanOut(network.layers, counts, profile)
        fan_out.add(layer, regions)
        needs = [fan_out.counter(layer).needs(region) for region in regions]
        if all((need <= capacity).all() for need in needs):
            best = min(best, packed(needs, [], capacity, best))
    bounds = [bound(network.layers, counts, profile) for bound in (least_cores, tight_bound)]
    assert best > n or max(bounds) <= best


# ---------------------------------------------------------------------------------------------- on paper


def test_output_axons_count_for_the_cores_they_leave(make_chip: MakeChip) -> None:
    """The second layer is 3 slices of 10; each of the first's 20 neurons sends to 3, 15 to a core: 4 cores of 5 neurons, and 3.

    By the limits alone it is 5: what is left on the four, 5 neurons each, is room enough for 20 of the 30.
    """
    network = in_integers(
        layer_of(np.full((20, 2), 2), name="first", vth=10), layer_of(np.full((30, 20), 2), name="second", source="first")
    )
    chip = make_chip(neurons_per_core=10, output_axons_per_core=15, synapse_memory_bits_per_core=1 << 20)
    ours = lay_out(network, chip)
    assert (tight_bound(network.layers, counted(network, chip), chip), ours.cores_used) == (5, 7)
    assert ours.cores_lower_bound == 5  # 50 neurons, 10 to a core; the 20 output axons that no cutting saves would do with 2
    plenty = make_chip(neurons_per_core=10, output_axons_per_core=100, synapse_memory_bits_per_core=1 << 20)
    ours = lay_out(network, plenty)
    assert (ours.cores_lower_bound, ours.cores_used) == (5, 5)


@pytest.mark.parametrize("many", [1, 3])
def test_neurons_alone_bind_exactly(make_chip: MakeChip, many: int) -> None:
    network = in_integers(layer_of(np.full((64 * many, 1), 2), vth=10))
    chip = make_chip(neurons_per_core=64, synapse_memory_bits_per_core=1 << 20)
    ours = lay_out(network, chip)
    assert (ours.cores_lower_bound, ours.cores_used) == (many, many)


@given(values=st.lists(st.integers(0, 9), min_size=12, max_size=12))
def test_the_least_window_is_the_least_window(values: list[int]) -> None:
    image = np.array(values, dtype=np.float64).reshape(3, 4)
    least = least_windows(image)
    for y, x in product(range(1, 4), range(1, 5)):
        windows = [image[i : i + y, j : j + x].sum() for i in range(4 - y) for j in range(5 - x)]
        assert least[y, x] == min(windows)

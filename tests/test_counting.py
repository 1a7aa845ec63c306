"""Closed forms against exact counts, laws that counting keeps, and the chips that count in ways of their own, on paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from conftest import examples
from grammar import quantized_graphs
from hypothesis import given
from hypothesis import strategies as st
from paper import layer_of

from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile, Value
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LIF, Conv, Dense, Layer, Sparse
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Region, Usage, grid_of

MakeChip = Callable[..., HardwareProfile]
LOIHI1, LOIHI2, DYNAPCNN, TRUENORTH = (load_profile(name) for name in ("loihi1", "loihi2", "dynapcnn", "truenorth"))


def layer_with(*synapses: Any, name: str = "only", sources: tuple[str, ...] = (), bias: Any = 0.0) -> Layer:
    """A layer of some connections, from the input unless told."""
    first = synapses[0]
    decays = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.1), "rest": np.array(0.0)}
    named = (*sources, *("input",) * (len(synapses) - len(sources)))
    return Layer(
        name=name, shape=first.output_shape if isinstance(first, Conv) else (first.n_out,), bias=np.array(bias),
        neuron=LIF(threshold=np.array(1.0), **decays),
        connections=tuple(Connection(source=source, synapse=each) for source, each in zip(named, synapses, strict=True)),
    )  # fmt: skip


def sparse(matrix: Any) -> Sparse:
    """The synapses of a matrix that are not zero."""
    there = np.asarray(matrix) != 0
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    return Sparse(n_in=there.shape[1], starts=starts, sources=np.nonzero(there)[1], weight=np.asarray(matrix)[there])


def whole(layer: AnyLayer, chip: HardwareProfile = LOIHI1, bits: int = 8, connectivity: float | None = None) -> Usage:
    return LayerCount(layer, bits, chip, connectivity).usage(Region.whole(grid_of(layer)))


def random(shape: tuple[int, ...], chance: float, rng: np.random.Generator) -> Any:
    return np.where(rng.random(shape) < chance, rng.normal(size=shape), 0.0)


WINDOW: dict[str, Any] = {"input_shape": (4, 9, 9), "stride": (2, 1), "padding": (1, 1)}
KINDS: dict[str, Callable[[float, np.random.Generator], Any]] = {
    "dense": lambda chance, rng: Dense(weight=random((40, 30), chance, rng)),
    "sparse": lambda chance, rng: sparse(np.tri(40, 30) * random((40, 30), chance, rng)),
    "conv": lambda chance, rng: Conv(weight=random((6, 4, 3, 3), chance, rng), **WINDOW),
    "groups": lambda chance, rng: Conv(weight=random((6, 2, 3, 3), chance, rng), groups=2, **WINDOW),
}

# ---------------------------------------------------------------------------------------------- the closed form


@pytest.mark.parametrize("chip", [LOIHI1, LOIHI2, DYNAPCNN, TRUENORTH, load_profile("xylo")], ids=lambda chip: chip.name)
@pytest.mark.parametrize("kind", KINDS)
def test_at_a_connectivity_of_one_the_closed_form_is_exact(kind: str, chip: HardwareProfile) -> None:
    layer = layer_with(KINDS[kind](1.0, np.random.default_rng(0)))
    bits = chip["weight_bits"].choices[-1]
    exact, closed = whole(layer, chip, bits), whole(layer, chip, bits, connectivity=1.0)
    assert closed == exact


@pytest.mark.parametrize("chance", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("chip", ["loihi1", "loihi2", "xylo"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_is_the_mean_of_exact_counts_over_random_masks(kind: str, chip: str, chance: float) -> None:
    """Within 4 standard errors, and a unit for what is rounded up; where two encodings are about as cheap it may be more.

    The cheaper of two expectations is never less than what to expect of the cheaper one.
    """
    rng, profile = np.random.default_rng(1), load_profile(chip)
    full = KINDS[kind](1.0, rng)
    drawn = []
    for _ in range(60):
        thin = replace(full, weight=full.weight * (rng.random(full.weight.shape) < chance))
        usage = whole(layer_with(thin), profile)
        drawn.append((usage.synapse_memory_bits, usage.input_axons, usage.synapses, usage.encoding))
    closed = whole(layer_with(full), profile, connectivity=chance)
    told = closed.synapse_memory_bits, closed.input_axons, closed.synapses
    for name, said, exact in zip(("memory", "axons", "synapses"), told, zip(*drawn, strict=True), strict=False):
        counts = np.array(exact, dtype=float)
        error = 4 * counts.std() / np.sqrt(len(counts)) + 1
        assert said >= counts.mean() - error, name
        if name != "memory" or {encoding for *_, encoding in drawn} == {closed.encoding}:
            assert said <= counts.mean() + error, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_expects_fewer_synapses_onto_a_neuron(kind: str) -> None:
    layer = layer_with(KINDS[kind](1.0, np.random.default_rng(0)))
    assert whole(layer, connectivity=0.25).fan_in == -(-whole(layer).fan_in // 4)


@examples(30)
@given(chances=st.tuples(st.floats(0, 1), st.floats(0, 1)), kind=st.sampled_from(sorted(KINDS)))
def test_the_closed_form_grows_with_the_chance(chances: tuple[float, float], kind: str) -> None:
    layer = layer_with(KINDS[kind](1.0, np.random.default_rng(0)))
    less, more = (whole(layer, connectivity=chance) for chance in sorted(chances))
    assert less.synapse_memory_bits <= more.synapse_memory_bits
    assert less.input_axons <= more.input_axons
    assert less.synapses <= more.synapses


def test_nothing_survives_a_chance_of_zero() -> None:
    for kind in KINDS.values():
        usage = whole(layer_with(kind(1.0, np.random.default_rng(0))), connectivity=0.0)
        assert (usage.synapse_memory_bits, usage.input_axons, usage.synapses, usage.fan_in) == (0, 0, 0, 0)


# ---------------------------------------------------------------------------------------------- laws


@examples(40)
@given(network=quantized_graphs(), widths=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_wider_weights_never_need_less(network: QuantizedNetwork, widths: tuple[int, int]) -> None:
    for layer in network:
        narrow, wide = (whole(layer, LOIHI2, bits) for bits in sorted(widths))
        assert narrow.synapse_memory_bits <= wide.synapse_memory_bits
        assert narrow.input_axons == wide.input_axons


@examples(40)
@given(network=quantized_graphs())
def test_several_connections_add_up(network: QuantizedNetwork) -> None:
    for layer in network:
        apart = [whole(replace(layer, connections=(connection,)), LOIHI2) for connection in layer.connections]
        together = whole(layer, LOIHI2)
        alike = any(a.synapse == b.synapse for a, b in combinations(layer.connections, 2))  # whose lists are stored once
        if len({grid_of(replace(layer, connections=(c,))) for c in layer.connections}) == 1 and not alike:
            for name in ("synapses", "synapse_memory_bits", "input_axons", "synapse_formats"):
                assert getattr(together, name) == sum(getattr(usage, name) for usage in apart)
            assert together.encoding == "+".join(sorted({usage.encoding for usage in apart}))
            assert max(usage.fan_in for usage in apart) <= together.fan_in <= sum(usage.fan_in for usage in apart)


@examples(60)
@given(chance=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 99), data=st.data())
def test_sparse_synapses_count_as_the_same_in_a_matrix(chance: float, seed: int, data: st.DataObject) -> None:
    matrix = random((data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))), chance, np.random.default_rng(seed))
    as_list, as_matrix = (LayerCount(layer_with(each), 8, LOIHI1) for each in (sparse(matrix), Dense(weight=matrix)))
    start, stop = sorted(data.draw(st.sets(st.integers(0, len(matrix)), min_size=2, max_size=2)))
    region = Region.run(start, stop)
    on_a_kernel = [whole(layer_with(each), DYNAPCNN) for each in (sparse(matrix), Dense(weight=matrix))]
    assert on_a_kernel[0] == on_a_kernel[1]
    assert as_list.usage(region) == as_matrix.usage(region)
    (heard,), (also,) = as_list.sources(region), as_matrix.sources(region)
    in_all = np.zeros(heard.shape, dtype=np.bool_)
    in_all[heard.box.box] = heard.mask  # of a list, the box reaches from the first source to the last
    np.testing.assert_array_equal(in_all, also.mask)
    assert as_list.n_sources(region)["input"] == np.count_nonzero(heard.mask)
    assert as_matrix.n_sources(region)["input"] == matrix.shape[1]


def test_a_recurrent_layer_hears_itself_on_axons_of_its_own() -> None:
    """Two neurons, three inputs: axons of 2 * 8 + 10 bits, a unit, three from the input and two from the layer."""
    usage = whole(layer_with(Dense(weight=np.ones((2, 3))), Dense(weight=np.ones((2, 2))), sources=("input", "only")))
    assert (usage.input_axons, usage.synapse_memory_bits, usage.synapses, usage.fan_in) == (5, 5 * 64, 10, 5)
    assert (usage.synapse_formats, usage.encoding) == (2, "dense")


# ---------------------------------------------------------------------------------------------- chips of other kinds


@pytest.mark.parametrize(("c", "f", "kernel", "words"), [
    (2, 3, (3, 3), 2 * 2 ** (4 + 2)),  # 9 places -> 16, 3 filters -> 4
    (1, 8, (2, 2), 1 * 2 ** (2 + 3)),
    (5, 1, (1, 1), 5),
])  # fmt: skip
def test_kernels_of_dynapcnn_are_powers_of_two(c: int, f: int, kernel: tuple[int, int], words: int) -> None:
    """Kernel c * 2^(ceil(log2 kx ky) + ceil(log2 f)) words of 8 bits; neurons f * 2^(ceil(log2 fx) + ceil(log2 fy)) of 16."""
    usage = whole(layer_with(Conv(weight=np.ones((f, c, *kernel)), input_shape=(c, 7, 12), padding=(0, 1))), DYNAPCNN)
    assert (usage.synapse_memory_bits, usage.encoding) == (8 * words, "dynapcnn")
    fy, fx = 7 - kernel[0] + 1, 12 + 2 - kernel[1] + 1
    assert usage.neuron_memory_bits == 16 * f * 8 * 16
    assert 4 < fy <= 8 < fx <= 16


def test_biases_of_dynapcnn_are_one_a_channel() -> None:
    conv = Conv(weight=np.ones((3, 1, 2, 2)), input_shape=(1, 4, 4))
    assert whole(layer_with(conv), DYNAPCNN).biases == 0
    assert whole(layer_with(conv, bias=1.0), DYNAPCNN).biases == 3
    assert whole(layer_with(Dense(weight=np.ones((5, 2))), bias=1.0), DYNAPCNN).biases == 5


def test_a_crossbar_stores_every_pair_of_an_axon_and_a_neuron() -> None:
    """Four neurons, of three sources one unheard: two rows of four cells."""
    usage = whole(layer_with(Dense(weight=np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 2.0]]))), TRUENORTH, 1)
    assert (usage.synapse_memory_bits, usage.input_axons, usage.synapses, usage.encoding) == (8, 2, 3, "crossbar")


def test_a_convolution_on_a_crossbar_is_unrolled() -> None:
    """A window of two over three pixels of two channels: six rows of the crossbar of two neurons."""
    usage = whole(layer_with(Conv(weight=np.ones((1, 2, 1, 2)), input_shape=(2, 1, 3))), TRUENORTH, 1)
    assert (usage.synapse_memory_bits, usage.input_axons, usage.synapses, usage.encoding) == (12, 6, 8, "crossbar")


@examples(60)
@given(network=quantized_graphs(), encodings=st.sampled_from([("dense", "sparse"), ("sparse",), ("crossbar",)]))
def test_a_convolution_counts_as_its_synapses_where_lists_are_not_shared(
    make_chip: MakeChip, network: QuantizedNetwork, encodings: Value
) -> None:
    chip = make_chip(encodings=encodings, weight_bits=(9,), input_axon_bits=7)
    for layer in network:
        unrolled = tuple(replace(c, synapse=Dense(weight=c.synapse.matrix())) for c in layer.connections)
        if len({c.synapse.weight.tobytes() for c in unrolled}) < len(unrolled):  # equal weights share their lists, once unrolled
            continue
        flat = replace(layer_with(*(c.synapse for c in unrolled)), connections=unrolled)
        assert whole(layer, chip, 9).synapse_memory_bits == whole(flat, chip, 9).synapse_memory_bits
        assert whole(layer, chip, 9).input_axons == whole(flat, chip, 9).input_axons


def test_where_axons_share_the_memory_their_entries_count(make_chip: MakeChip) -> None:
    """Three axons of 34 bits in units of 64, and an entry of 20 bits each; pixels where lists are shared: 4 entries, 3 lists."""
    chip = make_chip(input_axon_bits=20)
    assert whole(layer_with(Dense(weight=np.ones((3, 3)))), chip).synapse_memory_bits == 3 * (64 + 20)
    window = Conv(weight=np.array([[[[1.0, 2.0]]]]), input_shape=(1, 1, 4))
    assert whole(layer_with(window), chip).synapse_memory_bits == 3 * 64 + 4 * 20


def test_a_delay_widens_every_synapse() -> None:
    """On Loihi 1 by 6 bits, for up to 62 steps: 4 neurons, 4 * (8 + 6) + 10 = 66 bits, two units instead of one."""
    layer = layer_with(Dense(weight=np.ones((4, 1))))
    late = replace(layer, connections=(replace(layer.connections[0], delay_steps=1),))
    assert (whole(layer).synapse_memory_bits, whole(late).synapse_memory_bits) == (64, 128)


def profiled(neuron: QuantizedLIF | QuantizedLI) -> QuantizedLayer:
    return replace(layer_of(np.ones((4, 1)), vth=1), neuron=neuron)


def test_settings_of_neurons_are_counted_where_a_core_limits_them(make_chip: MakeChip) -> None:
    lif = profiled(QuantizedLIF(vth=np.array([1, 1, 2, 3]), du=np.array([5, 5, 6, 5]), dv=np.array(9)))
    usage = whole(lif)
    assert (usage.neuron_profiles, usage.threshold_profiles) == (2, 3)
    first = LayerCount(lif, 8, LOIHI1).usage(Region.run(0, 2))
    assert (first.neuron_profiles, first.threshold_profiles) == (1, 1)
    assert whole(profiled(QuantizedLI(du=np.array(1), dv=np.array(2)))).threshold_profiles == 0
    assert whole(lif, make_chip()).neuron_profiles == 1  # the toy chip has no limit of them

"""What hypothesis draws: nouns that are legal, and no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from neurodeploy.hardware.profile import KEYS, HardwareProfile, Limit, Value
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Dense, Layer, Network
from neurodeploy.ir.quantized import Encoder, QuantizedDense, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.targets.loihi.target import BIAS_MAX, BIAS_MIN, DECAY_UNITY, THRESHOLD_MAX, as_lava_reads, width_of

sizes = st.integers(1, 6)
names = st.text("abcXYZ019._- é", min_size=1, max_size=8).filter(lambda name: name != INPUT)


# ---------------------------------------------------------------------------------------------- integers


def runs_in_lava(weight: Integers) -> bool:
    """Whether a netx file can hold the matrix: Lava reads a layer of zeros not at all, and some others differently."""
    return bool(weight.any()) and np.array_equal(as_lava_reads(weight), weight)


def from_seeds(
    shape: tuple[int, ...], numbers_of: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> st.SearchStrategy[Integers]:
    """Arrays that `numbers_of` makes of random numbers of 0..65535.

    Hypothesis draws the seed: thousands of numbers drawn one by one take seconds.
    """
    return st.integers(0, 2**24 - 1).map(
        lambda seed: numbers_of(np.random.default_rng(seed).integers(0, 2**16, shape)).astype(np.int64)
    )


def half_the_time(ends: Sequence[int], otherwise: Callable[[NDArray[np.int64]], Any]) -> Callable[[NDArray[np.int64]], Any]:
    """One of `ends` half the time, and else what becomes of a number of 0..32767."""
    return lambda drawn: np.where(drawn % 2, np.array(ends)[(drawn >> 1) % len(ends)], otherwise(drawn >> 1))


def even(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Even numbers of -256..254, and 0 for 0."""
    return 2 * ((number + 128) % 256 - 128)


def weights(n_out: int, n_in: int) -> st.SearchStrategy[Integers]:
    """Matrices that the chip's synapses and Lava hold alike: of both signs and even, or of one sign, out to the ends."""
    kinds: tuple[Callable[[NDArray[np.int64]], Any], ...] = (
        half_the_time([0, 254, -256], even),
        half_the_time([255], lambda number: number % 256),
        half_the_time([-255], lambda number: -1 - number % 255),
        lambda drawn: np.array([0, 2, -2, 4, -4])[drawn % 5],
        lambda drawn: np.array([0, 0, 1, 2, 4, 128])[drawn % 6],
    )
    matrices = (from_seeds((n_out, n_in), kind) for kind in kinds)
    return st.one_of(*matrices).filter(_is_legal).filter(runs_in_lava)


def _is_legal(weight: Integers) -> bool:
    return bool(weight.max() > 0) or int(weight.min()) >= -255


def one_or_each(n_neurons: int, elements: st.SearchStrategy[Any], dtype: type = np.int64) -> st.SearchStrategy[NDArray[Any]]:
    """One number for the population, or one a neuron."""
    return st.sampled_from([(), (n_neurons,)]).flatmap(lambda shape: npst.arrays(dtype, shape, elements=elements))


decays = st.sampled_from([0, 1, DECAY_UNITY - 1, DECAY_UNITY]) | st.integers(0, DECAY_UNITY)
thresholds = st.sampled_from([0, 1, THRESHOLD_MAX]) | st.integers(0, 600) | st.integers(0, THRESHOLD_MAX)
biases = st.just(0) | st.integers(-100, 100) | st.sampled_from([BIAS_MIN, BIAS_MAX])


@st.composite
def quantized_layers(draw: st.DrawFn, name: str, source: str, n_in: int, readout: bool) -> QuantizedLayer:
    shape = draw(st.sampled_from([(draw(sizes),), (2, 3)]))
    n_neurons = int(np.prod(shape))
    weight = draw(weights(n_neurons, n_in))
    registers = {"du": draw(one_or_each(n_neurons, decays)), "dv": draw(one_or_each(n_neurons, decays))}
    synapse = QuantizedDense(weight=weight, weight_bits=draw(st.integers(max(1, width_of(weight)), 9)))
    return QuantizedLayer(
        name=name,
        shape=shape,
        neuron=QuantizedLI(**registers) if readout else QuantizedLIF(vth=draw(one_or_each(n_neurons, thresholds)), **registers),
        connections=(Connection(source=source, synapse=synapse),),
        bias=draw(one_or_each(n_neurons, biases)),
        scale=draw(one_or_each(n_neurons, st.floats(0, 1e6), np.float64)),
    )


@st.composite
def quantized_networks(draw: st.DrawFn) -> QuantizedNetwork:
    """Chains of 1 to 3 layers of 1 to 6 neurons on 1 to 6 inputs, the last LIF or LI; all of them run in Lava."""
    input_shape = draw(st.sampled_from([(draw(sizes),), (2, 2), (1, 2, 3), (2, 1, 1, 3)]))
    layers: list[QuantizedLayer] = []
    depth = draw(st.integers(1, 3))
    for name in draw(st.lists(names, min_size=depth, max_size=depth, unique=True)):
        source, n_in = (layers[-1].name, layers[-1].n_neurons) if layers else (INPUT, int(np.prod(input_shape)))
        readout = len(layers) + 1 == depth and draw(st.booleans())
        layers.append(draw(quantized_layers(name, source, n_in, readout)))
    return QuantizedNetwork(input_shape=input_shape, layers=tuple(layers), encoder=draw(st.none() | encoders))


encoders = st.builds(
    Encoder,
    neuron=st.builds(QuantizedLIF, vth=thresholds.map(np.array), du=decays.map(np.array), dv=decays.map(np.array)),
    weight=st.integers(-255, 255),
    bias=st.integers(BIAS_MIN, BIAS_MAX),
)


def spikes_into(network: Network | QuantizedNetwork, max_steps: int = 12) -> st.SearchStrategy[NDArray[np.uint8]]:
    """Input spikes (batch, *input_shape, n_steps) of 1 to 3 samples, from silent to all firing."""
    ends = st.tuples(st.integers(1, 3), st.integers(1, max_steps))
    shapes = ends.map(lambda end: (end[0], *network.input_shape, end[1]))
    return npst.arrays(np.uint8, shapes, elements=st.integers(0, 1), fill=st.integers(0, 1))


jobs = quantized_networks().flatmap(lambda network: st.tuples(st.just(network), spikes_into(network)))
"""A network and spikes for it."""


# ---------------------------------------------------------------------------------------------- floats


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Float chains of 1 to 3 layers of 1 to 6 neurons on 1 to 6 inputs, with zeros among the weights."""
    shares = st.floats(0, 1)
    moderate = st.just(0.0) | st.floats(-4, 4, width=32)
    input_shape = (draw(sizes),)
    layers: list[Layer] = []
    depth = draw(st.integers(1, 3))
    for index in range(depth):
        source, n_in = (layers[-1].name, layers[-1].n_neurons) if layers else (INPUT, input_shape[0])
        n = draw(sizes)
        dynamics = {key: draw(one_or_each(n, shares, np.float64)) for key in ("current_decay", "voltage_decay")}
        dynamics["rest"] = draw(one_or_each(n, moderate, np.float64))
        readout = index + 1 == depth and draw(st.booleans())
        threshold = draw(one_or_each(n, st.floats(0.125, 8, width=32), np.float64))
        weight = draw(npst.arrays(np.float64, (n, n_in), elements=moderate))
        layers.append(
            Layer(
                name=f"layer{index + 1}",
                shape=(n,),
                neuron=LI(**dynamics) if readout else LIF(threshold=threshold, **dynamics),
                connections=(Connection(source=source, synapse=Dense(weight=weight)),),
                bias=draw(one_or_each(n, moderate, np.float64)),
            )
        )
    return Network(input_shape=input_shape, layers=tuple(layers), timestep_s=draw(st.sampled_from([1e-3, 1e-4])))


# ---------------------------------------------------------------------------------------------- chips


@st.composite
def profiles(draw: st.DrawFn) -> HardwareProfile:
    """Chips with numbers small enough that small networks meet every limit."""
    ranges = {
        "chips": (1, 3),
        "cores_per_chip": (1, 12),
        "neurons_per_core": (1, 8),
        "input_axons_per_core": (1, 16),
        "output_axons_per_core": (1, 24),
        "synapse_memory_bits_per_core": (64, 4096),
        "memory_unit_bits": (1, 64),
        "synapses_per_block": (1, 60),
        "block_header_bits": (1, 32),
        "max_delay_steps": (1, 62),
    }
    values: dict[str, Value] = {key: draw(st.integers(*ends)) for key, ends in ranges.items()}
    for key, widest in (("weight_bits", 9), ("index_bits", 10)):
        values[key] = tuple(sorted(draw(st.sets(st.integers(1, widest), min_size=1))))
    values["encodings"] = ("dense", "sparse")
    limits = {
        key: Limit(key=key, value=value, unit=KEYS[key].unit, source="drawn", assumed=True, profile="drawn")
        for key, value in values.items()
    }
    return HardwareProfile(name="drawn", description="Drawn by hypothesis.", limits=limits)


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Value | None]:
    """Numbers for `make_chip`: limits that small networks meet; memories of their own, or one pool."""
    numbers: dict[str, Value | None] = {
        "cores_per_chip": draw(st.integers(1, 20)), "neurons_per_core": draw(st.integers(1, 40)),
        "input_axons_per_core": draw(st.none() | st.integers(1, 60)), "fan_in_per_neuron": draw(st.none() | st.integers(1, 60)),
        "output_axons_per_core": draw(st.none() | st.integers(1, 60)), "synapse_formats_per_core": draw(st.none() | st.just(4)),
        "slices_per_core": draw(st.none() | st.integers(1, 3)), "axon_base_neurons": draw(st.none() | st.sampled_from([2, 16])),
        "encodings": draw(st.sampled_from([("dense", "sparse", "convolution"), ("dense", "sparse"), ("crossbar",)])),
        "memory_unit_bits": draw(st.sampled_from([1, 8, 64])), "synapses_per_block": draw(st.sampled_from([3, 64])),
        "neuron_profiles_per_core": draw(st.none() | st.just(3)), "threshold_profiles_per_core": draw(st.none() | st.just(3)),
        "biases_per_core": draw(st.none() | st.integers(1, 9)), "external_inputs": draw(st.none() | st.integers(1, 60)),
        "fan_out_per_neuron": draw(st.none() | st.integers(1, 60)), "targets_per_layer": draw(st.none() | st.integers(1, 3)),
        "cores_per_layer": draw(st.none() | st.integers(2, 5)),
        "weight_bits": tuple(range(1, 10)), "neuron_state_bits": draw(st.sampled_from([None, 1, 30])),
    }  # fmt: skip
    if draw(st.booleans()):
        numbers |= {"synapse_memory_bits_per_core": None, "memory_bits_per_core": draw(st.integers(64, 8000))}
        numbers |= {"input_axon_bits": draw(st.integers(1, 32)), "output_axon_bits": draw(st.integers(1, 32))}
    else:
        numbers |= {"synapse_memory_bits_per_core": draw(st.integers(64, 6000))}
        numbers |= {"neuron_memory_bits_per_core": draw(st.none() | st.integers(30, 400))}
    return numbers

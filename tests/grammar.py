"""Networks that hypothesis draws over the whole grammar: every kind of synapse, skips, recurrence, delays, many connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from strategies import biases, decays, even, from_seeds, half_the_time, one_or_each, spikes_into, thresholds, weights

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Sparse
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
)
from neurodeploy.targets.loihi.target import as_lava_reads_together, width_of

Shape: TypeAlias = "tuple[int, ...]"
Wires: TypeAlias = "tuple[str, dict[str, Any], Shape]"
"""A kind of synapse, its wiring without the weights, and the shape of those."""

INTEGERS = {"dense": QuantizedDense, "sparse": QuantizedSparse, "conv": QuantizedConv}
FLOATS = {"dense": Dense, "sparse": Sparse, "conv": Conv}

flat = st.tuples(st.integers(1, 6))
images = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
MOST_WEIGHTS = 2_500
"""More than these make a slow example that shows nothing else."""

shapes = flat | images | st.sampled_from([(2, 3), (2, 1, 1, 3)])


# ---------------------------------------------------------------------------------------------- wiring


@st.composite
def windows(draw: st.DrawFn, image: tuple[int, int, int]) -> Wires:
    """A convolution of an image, whatever comes out."""
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if image[0] % g == 0]))
    channels = groups * draw(st.integers(1, 2))
    stride, padding, dilation = (
        draw(st.tuples(each, each)) for each in (st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
    )
    room = [(n + 2 * p - 1) // d + 1 for n, p, d in zip(image[1:], padding, dilation, strict=True)]
    kernel = tuple(draw(st.integers(1, min(3, side))) for side in room)
    wiring = {"input_shape": image, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return "conv", wiring, (channels, image[0] // groups, *kernel)


@st.composite
def windows_that_keep(draw: st.DrawFn, image: tuple[int, int, int], channels: int) -> Wires:
    """A convolution that gives an image of the same size."""
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if image[0] % g == 0 and channels % g == 0]))
    half, dilation = (draw(st.tuples(each, each)) for each in (st.integers(0, 1), st.integers(1, 2)))
    padding = (half[0] * dilation[0], half[1] * dilation[1])
    wiring = {"input_shape": image, "padding": padding, "dilation": dilation, "groups": groups}
    return "conv", wiring, (channels, image[0] // groups, 2 * half[0] + 1, 2 * half[1] + 1)


@st.composite
def lists(draw: st.DrawFn, n_out: int, n_in: int) -> Wires:
    """Some synapses, down to none."""
    exist = draw(npst.arrays(bool, (n_out, n_in)))
    starts = np.concatenate([[0], np.cumsum(exist.sum(axis=1))])
    return "sparse", {"n_in": n_in, "starts": starts, "sources": np.nonzero(exist)[1]}, (int(exist.sum()),)


@st.composite
def wires(draw: st.DrawFn, source: Shape, target: Shape) -> Wires:
    """Some way to connect populations of these shapes."""
    n_in, n_out = int(np.prod(source)), int(np.prod(target))
    kinds = [st.just(("dense", {}, (n_out, n_in))), lists(n_out, n_in)]
    if len(source) == len(target) == 3 and source[1:] == target[1:]:
        kinds.append(windows_that_keep(source, target[0]))
    return draw(st.one_of(kinds))


def output_of(wired: Wires) -> tuple[int, int, int]:
    return Conv(weight=np.zeros(wired[2]), **wired[1]).output_shape


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Shape, list[tuple[str, Shape, list[tuple[str, int, Wires]]]]]:
    """An input shape and layers: each a name, a shape, and connections of a source, a delay and wires."""
    shape_of = {INPUT: draw(shapes)}
    layers = []
    for name in ("first", "second", "third")[: draw(st.integers(1, 3))]:
        source = list(shape_of)[-1] if draw(st.booleans()) else draw(st.sampled_from(list(shape_of)))
        if len(shape_of[source]) == 3 and draw(st.booleans()):
            wired = draw(windows(shape_of[source]))
            shape: Shape = output_of(wired)
        else:
            shape = draw(shapes)
            wired = draw(wires(shape_of[source], shape))
        delays = st.just(0) | st.integers(0, 4)
        connections = [(source, draw(delays), wired)]
        others = draw(st.lists(st.sampled_from([*shape_of, name]), max_size=2))
        connections += [(other, draw(delays), draw(wires(shape_of.get(other, shape), shape))) for other in others]
        layers.append((name, shape, draw(st.permutations(connections))))
        shape_of[name] = shape
    return shape_of[INPUT], layers


# ---------------------------------------------------------------------------------------------- numbers


def legal_weights(shape: Shape) -> st.SearchStrategy[NDArray[np.int64]]:
    """What the chip's synapses hold: of both signs and even, of one sign, nothing but zeros; out to the ends."""
    kinds: tuple[Callable[[NDArray[np.int64]], Any], ...] = (
        half_the_time([0, 254, -256], even),
        half_the_time([255], lambda number: number % 256),
        half_the_time([-255], lambda number: -(number % 256)),
        lambda drawn: np.array([0, 2, -2])[drawn % 3],
        np.zeros_like,
    )
    arrays = st.one_of(from_seeds(shape, kind) for kind in kinds)
    return arrays.filter(lambda weight: not weight.size or weight.max() > 0 or weight.min() >= -255)


@st.composite
def integer_layers(draw: st.DrawFn, name: str, shape: Shape, connections: tuple[Connection[Any], ...]) -> QuantizedLayer:
    n = int(np.prod(shape))
    registers = {key: draw(one_or_each(n, decays)) for key in ("du", "dv")}
    vth = draw(one_or_each(n, thresholds))
    return QuantizedLayer(
        name=name, shape=shape, connections=connections, bias=draw(one_or_each(n, biases)),
        neuron=QuantizedLI(**registers) if draw(st.integers(0, 5)) == 0 else QuantizedLIF(vth=vth, **registers),
        scale=draw(one_or_each(n, st.floats(0, 1e6), np.float64)),
    )  # fmt: skip


@st.composite
def quantized_graphs(draw: st.DrawFn) -> QuantizedNetwork:
    """Networks of 1 to 3 layers in the chip's integers."""
    input_shape, layout = draw(layouts())
    layers = []
    for name, shape, connected in layout:
        connections = []
        for source, delay, (kind, wiring, of_weights) in connected:
            assume(np.prod(of_weights) <= MOST_WEIGHTS)
            weight = draw(legal_weights(of_weights))
            bits = draw(st.integers(max(1, width_of(weight)), 9))
            synapse = INTEGERS[kind](weight=weight, weight_bits=bits, **wiring)
            connections.append(Connection(source=source, synapse=synapse, delay_steps=delay))
        layers.append(draw(integer_layers(name, shape, tuple(connections))))
    return QuantizedNetwork(input_shape=input_shape, layers=tuple(layers))


graph_jobs = quantized_graphs().flatmap(lambda network: st.tuples(st.just(network), spikes_into(network)))
"""A network and spikes for it."""


def graded_into(network: QuantizedNetwork) -> st.SearchStrategy[NDArray[np.int32]]:
    """Input of whole numbers, 1 to 3 samples of 1 to 8 steps."""
    shapes = st.tuples(st.integers(1, 3), *map(st.just, network.input_shape), st.integers(1, 8))
    graded = half_the_time([0], lambda number: (number + 300) % 601 - 300)
    return shapes.flatmap(lambda shape: from_seeds(shape, graded)).map(lambda array: array.astype(np.int32))


@st.composite
def graphs(draw: st.DrawFn) -> Network:
    """Networks of 1 to 3 layers in floats."""
    moderate, shares = st.just(0.0) | st.floats(-4, 4, width=32), st.floats(0, 1)
    input_shape, layout = draw(layouts())
    layers = []
    for name, shape, connected in layout:
        n, connections = int(np.prod(shape)), []
        for source, delay, (kind, wiring, of_weights) in connected:
            weight = draw(npst.arrays(np.float64, of_weights, elements=moderate))
            connections.append(Connection(source=source, synapse=FLOATS[kind](weight=weight, **wiring), delay_steps=delay))
        dynamics = {key: draw(one_or_each(n, shares, np.float64)) for key in ("current_decay", "voltage_decay")}
        dynamics["rest"] = draw(one_or_each(n, moderate, np.float64))
        threshold = draw(one_or_each(n, st.floats(0.125, 8, width=32), np.float64))
        layers.append(Layer(
            name=name, shape=shape, connections=tuple(connections), bias=draw(one_or_each(n, moderate, np.float64)),
            neuron=LI(**dynamics) if draw(st.integers(0, 5)) == 0 else LIF(threshold=threshold, **dynamics),
        ))  # fmt: skip
    return Network(input_shape=input_shape, layers=tuple(layers), timestep_s=1e-3)


@st.composite
def quantized_chains(draw: st.DrawFn) -> QuantizedNetwork:
    """Chains that plain netx says and Lava reads: convolutions, then dense, recurrent, delayed and sparse layers."""
    network_shape: Shape = draw(images | flat)
    layers: list[QuantizedLayer] = []
    source, shape, is_image = INPUT, network_shape, len(network_shape) == 3
    for name in ("one", "two", "three")[: draw(st.integers(1, 3))]:
        is_image = is_image and draw(st.booleans())
        connections = draw(image_links(source, shape) if is_image else flat_links(name, source, int(np.prod(shape))))
        synapse = connections[0].synapse
        shape = synapse.output_shape if isinstance(synapse, QuantizedConv) else (synapse.n_out,)
        layers.append(draw(integer_layers(name, shape, connections)))
        source = name
    return QuantizedNetwork(input_shape=network_shape, layers=tuple(layers))


@st.composite
def image_links(draw: st.DrawFn, source: str, shape: Shape) -> tuple[Connection[Any], ...]:
    _kind, wiring, of_weights = draw(windows((shape[0], shape[1], shape[2])))
    weight = draw(legal_weights(of_weights))
    synapse = QuantizedConv(weight=weight, weight_bits=draw(st.integers(max(1, width_of(weight)), 9)), **wiring)
    return (Connection(source=source, synapse=synapse),)


@st.composite
def flat_links(draw: st.DrawFn, name: str, source: str, n_in: int) -> tuple[Connection[Any], ...]:
    n = draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["dense", "delayed", "sparse", "recurrent"]))
    weight = draw(weights(n, n_in))
    bits = draw(st.integers(max(1, width_of(weight)), 9))
    synapse = QuantizedDense(weight=weight, weight_bits=bits)
    if kind == "sparse":
        exist = weight != 0
        starts, sources = np.concatenate([[0], np.cumsum(exist.sum(axis=1))]), np.nonzero(exist)[1]
        return (Connection(source=source, synapse=QuantizedSparse(
            n_in=n_in, starts=starts, sources=sources, weight=weight[exist], weight_bits=bits)),)  # fmt: skip
    if kind == "recurrent":
        back = draw(weights(n, n))
        both = (weight, back)
        assume(all(np.array_equal(*pair) for pair in zip(as_lava_reads_together(*both), both, strict=True)))
        again = QuantizedDense(weight=back, weight_bits=max(1, width_of(back)))
        return Connection(source=source, synapse=synapse), Connection(source=name, synapse=again)
    return (Connection(source=source, synapse=synapse, delay_steps=draw(st.integers(1, 4)) if kind == "delayed" else 0),)

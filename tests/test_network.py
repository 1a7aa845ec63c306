"""The nouns that run: a legal one can be built, an illegal one cannot; equal by value, read-only, unhashable."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest

from neurodeploy.errors import ArgumentTypeError, NetworkError
from neurodeploy.ir.graph import INPUT, Connection, layer_name
from neurodeploy.ir.network import LI, LIF, Dense, Layer, Network
from neurodeploy.ir.quantized import Encoder, QuantizedDense, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.targets.loihi.target import LOIHI, check_layer, check_neuron, check_synapse
from neurodeploy.targets.simulate import simulate


def lif(**changes: Any) -> LIF:
    parts: dict[str, Any] = {"threshold": 1.0, "current_decay": 0.5, "voltage_decay": 0.1, "rest": 0.0}
    return LIF(**{**parts, **changes})


def li(**changes: Any) -> LI:
    parts: dict[str, Any] = {"current_decay": 0.5, "voltage_decay": 0.1, "rest": 0.0}
    return LI(**{**parts, **changes})


def quantized_lif(**changes: Any) -> QuantizedLIF:
    parts: dict[str, Any] = {"vth": 100, "du": 2048, "dv": 410}
    return QuantizedLIF(**{**parts, **changes})


def layer(**changes: Any) -> Layer:
    """Two LIF neurons on three inputs."""
    parts: dict[str, Any] = {
        "name": "hidden", "shape": (2,), "neuron": lif(), "bias": 0.0,
        "connections": (Connection(source=INPUT, synapse=Dense(weight=np.ones((2, 3)))),),
    }  # fmt: skip
    return Layer(**{**parts, **changes})


def quantized_layer(**changes: Any) -> QuantizedLayer:
    parts: dict[str, Any] = {
        "name": "hidden", "shape": (2,), "neuron": quantized_lif(), "bias": 0, "scale": 32.0,
        "connections": (Connection(source=INPUT, synapse=QuantizedDense(weight=np.ones((2, 3)), weight_bits=8)),),
    }  # fmt: skip
    return QuantizedLayer(**{**parts, **changes})


def network(**changes: Any) -> Network:
    parts: dict[str, Any] = {"input_shape": (3,), "layers": (layer(),), "timestep_s": 0.001}
    return Network(**{**parts, **changes})


def quantized_network(**changes: Any) -> QuantizedNetwork:
    parts: dict[str, Any] = {"input_shape": (3,), "layers": (quantized_layer(),)}
    return QuantizedNetwork(**{**parts, **changes})


ENCODER = Encoder(neuron=quantized_lif(), weight=1, bias=0)
NOUNS: dict[str, Callable[..., Any]] = {
    "LIF": lif, "LI": li, "QuantizedLIF": quantized_lif, "QuantizedLI": lambda: QuantizedLI(du=1, dv=2),
    "Dense": lambda: Dense(weight=np.ones((2, 3))),
    "QuantizedDense": lambda: QuantizedDense(weight=np.ones((2, 3)), weight_bits=8),
    "Connection": lambda: layer().connections[0], "Layer": layer, "QuantizedLayer": quantized_layer,
    "Network": network, "QuantizedNetwork": lambda: quantized_network(encoder=ENCODER),
}  # fmt: skip


def says(text: str) -> str:
    return f"^{re.escape(text)}"


# ---------------------------------------------------------------------------------------------- what every noun keeps


@pytest.mark.parametrize("build", NOUNS.values(), ids=NOUNS.keys())
def test_nouns_compare_by_value_and_do_not_hash(build: Callable[[], Any]) -> None:
    assert build() == build()
    assert build() != "something else"
    with pytest.raises(TypeError, match="unhashable"):
        hash(build())


@pytest.mark.parametrize("build", NOUNS.values(), ids=NOUNS.keys())
def test_nouns_and_their_arrays_are_read_only(build: Callable[[], Any]) -> None:
    noun = build()
    for field in fields(noun):
        value = getattr(noun, field.name)
        with pytest.raises(FrozenInstanceError):
            setattr(noun, field.name, value)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0


def test_a_noun_keeps_a_copy_of_its_own() -> None:
    weight = np.ones((2, 3))
    dense = Dense(weight=weight)
    weight[0, 0] = 7
    assert dense.weight[0, 0] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lif(), lif(threshold=2.0)),
        (lif(), lif(threshold=[1.0])),  # another shape
        (layer(), layer(bias=1.0)),
        (layer(), layer(shape=(1, 2))),
        (network(), network(timestep_s=0.002)),
        (quantized_network(), quantized_network(encoder=ENCODER)),
        (Dense(weight=np.ones((1, 1))), QuantizedDense(weight=np.ones((1, 1)), weight_bits=8)),
    ],
)
def test_nouns_differ_where_anything_differs(one: Any, other: Any) -> None:
    assert one != other


def test_every_array_has_the_dtype_that_the_noun_promises() -> None:
    assert lif(threshold=1).threshold.dtype == np.float64
    assert quantized_lif(vth=np.array([3.0])).vth.dtype == np.int64
    assert QuantizedDense(weight=np.array([[True, False]]), weight_bits=1).weight.dtype == np.int64


# ---------------------------------------------------------------------------------------------- numbers that cannot be


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lif(threshold=0.0), "LIF.threshold: 0.0 is not above the reset potential. A neuron at rest would fire"),
        (lambda: lif(threshold=[1.0, -2.0]), "LIF.threshold: -2.0 is not above the reset potential"),
        (lambda: lif(threshold=np.nan), "LIF.threshold: is not finite"),
        (lambda: lif(threshold=np.inf), "LIF.threshold: is not finite"),
        (lambda: lif(threshold="high"), "LIF, argument 'threshold': is of type str ('high'), and has to be an array"),
        (lambda: lif(threshold=np.array(1j)), "LIF.threshold: holds complex128, not numbers"),
        (lambda: lif(current_decay=1.5), "LIF.current_decay: 1.5 is outside 0.0..1.0"),
        (lambda: lif(voltage_decay=-0.1), "LIF.voltage_decay: -0.1 is outside 0.0..1.0"),
        (lambda: lif(rest=np.inf), "LIF.rest: is not finite"),
        (lambda: li(current_decay=-1.0), "LI.current_decay: -1.0 is outside"),
        (lambda: li(voltage_decay=2.0), "LI.voltage_decay: 2.0 is outside"),
        (lambda: quantized_lif(vth=-1), "QuantizedLIF.vth: -1 is outside 0..inf"),
        (lambda: check_neuron(quantized_lif(vth=1 << 17)), "QuantizedLIF.vth: 131072 is outside 0..131071"),
        (lambda: quantized_lif(vth=1.5), "QuantizedLIF.vth: is not whole numbers"),
        (lambda: quantized_lif(vth=1e30), "QuantizedLIF.vth: is not whole numbers"),
        (lambda: quantized_lif(vth=np.nan), "QuantizedLIF.vth: is not finite"),
        (lambda: check_neuron(quantized_lif(du=4097)), "QuantizedLIF.du: 4097 is outside 0..4096"),
        (lambda: quantized_lif(dv=-1), "QuantizedLIF.dv: -1 is outside 0..inf"),
        (lambda: check_neuron(QuantizedLI(du=4097, dv=0)), "QuantizedLI.du: 4097 is outside"),
        (lambda: check_neuron(QuantizedLI(du=0, dv=4097)), "QuantizedLI.dv: 4097 is outside"),
        (lambda: check_layer(quantized_layer(bias=4096)), "QuantizedLayer.bias: 4096 is outside -4096..4095"),
        (lambda: quantized_layer(scale=-1.0), "layer 'hidden': needs a scale of at least zero"),
        (lambda: quantized_layer(scale=np.ones(5)), "layer 'hidden': needs a scale of at least zero, one or one a neuron"),
        (lambda: quantized_layer(scale=np.nan), "QuantizedLayer.scale: is not finite"),
        (lambda: layer(bias=np.nan), "Layer.bias: is not finite"),
    ],
)
def test_a_register_holds_what_it_holds(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((NetworkError, ArgumentTypeError), match=says(message)):
        build()


@pytest.mark.parametrize(
    ("weight", "bits", "message"),
    [
        ([1, 2, 3], 8, "QuantizedDense.weight: has shape (3,), not (n_out, n_in)"),
        ([[256, 0]], 9, "QuantizedDense.weight: 256 is outside"),
        ([[-256, 0]], 9, "QuantizedDense.weight: -256 is outside -255..255"),
        ([[-258, 2]], 9, "QuantizedDense.weight: -258 is outside -256..254"),
        ([[-2, 256]], 9, "QuantizedDense.weight: 256 is outside -256..254"),
        ([[-1, 1]], 8, "QuantizedDense.weight: has odd numbers among weights of both signs"),
        ([[255, 1]], 7, "QuantizedDense.weight_bits: 7 do not hold weights 8 bits wide"),
        ([[0, 0]], 0, "QuantizedDense.weight_bits: 0 do not hold"),
        ([[2, -2]], 1, "QuantizedDense.weight_bits: 1 do not hold weights 2 bits wide"),
        ([[0.5]], 8, "QuantizedDense.weight: is not whole numbers"),
    ],
)
def test_weights_are_what_the_chip_can_store(weight: Any, bits: int, message: str) -> None:
    with pytest.raises(NetworkError, match=says(message)):
        check_synapse(QuantizedDense(weight=np.array(weight), weight_bits=bits))


@pytest.mark.parametrize(
    ("weight", "bits"),
    [([[255, 0]], 8), ([[-255, 0]], 8), ([[-256, 254]], 8), ([[0, 0]], 1), ([[128, 64]], 2), ([[-2, 0, 2]], 2)],
)
def test_weights_at_the_edge_are_legal(weight: Any, bits: int) -> None:
    synapse = QuantizedDense(weight=np.array(weight), weight_bits=bits)
    check_synapse(synapse)
    assert synapse.weight.tolist() == weight


def test_a_target_names_layer_value_limit_and_source_of_what_its_registers_cannot_hold() -> None:
    network = quantized_network(layers=(quantized_layer(bias=4096, name="first"),))
    message = "layer 'first': QuantizedLayer.bias: 4096 is outside -4096..4095 (Loihi register widths, lava-nc 0.10"
    with pytest.raises(NetworkError, match=says(message)):
        LOIHI.check(network)
    with pytest.raises(NetworkError, match=says(message)):
        simulate(network, np.zeros((3, 4)))


def test_float_weights_are_a_matrix() -> None:
    with pytest.raises(NetworkError, match=says("Dense.weight: has shape (2, 3, 4), not (n_out, n_in)")):
        Dense(weight=np.ones((2, 3, 4)))


# ---------------------------------------------------------------------------------------------- layers and chains


def test_a_layer_counts_itself() -> None:
    sparse = layer(connections=(Connection(source=INPUT, synapse=Dense(weight=np.array([[1, 0, 0], [0, 2, 3.0]]))),))
    assert (sparse.n_neurons, sparse.n_synapses, sparse.connectivity) == (2, 3, 0.5)
    assert quantized_layer().weight_bits == 8


def test_the_diagonal_of_a_recurrent_matrix_without_self_synapses_is_no_weight_that_is_missing() -> None:
    """Cells whose neurons do not reach themselves, as Norse's, keep all their weights."""
    into = Connection(source=INPUT, synapse=Dense(weight=np.ones((3, 2))))

    def recurrent(weight: Any) -> Layer:
        neuron = LIF(current_decay=np.array(0.5), voltage_decay=np.array(0.5), threshold=np.array(1.0), rest=np.array(0.0))
        onto = Connection(source="r", synapse=Dense(weight=np.array(weight, dtype=np.float64)))
        return Layer(name="r", shape=(3,), neuron=neuron, connections=(into, onto), bias=np.array(0.0))

    without = recurrent([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    assert (without.n_weights, without.connectivity) == (12, 1)
    pruned = recurrent([[0, 1, 1], [1, 0, 1], [1, 0, 0]])
    assert (pruned.n_weights, pruned.connectivity) == (12, pytest.approx(11 / 12))
    # one neuron reaches itself, so that all could
    reaching = recurrent([[0, 1, 1], [1, 2, 1], [1, 1, 0]])
    assert (reaching.n_weights, reaching.connectivity) == (15, pytest.approx(13 / 15))


def test_a_layer_of_two_connections_is_no_single_matrix() -> None:
    twofold = layer(connections=layer().connections * 2)
    with pytest.raises(NetworkError, match=says("layer 'hidden': has the synapses Dense and Dense, not one matrix")):
        _ = twofold.weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "layer '': needs a name without a slash, other than 'input'"),
        ({"name": INPUT}, "layer 'input': needs a name without a slash"),
        ({"name": "a/b"}, "layer 'a/b': needs a name without a slash"),
        ({"shape": ()}, "layer 'hidden': has shape (): every side must be at least 1"),
        ({"shape": (2, 0)}, "layer 'hidden': has shape (2, 0): every side"),
        ({"shape": (3,)}, "layer 'hidden': has 3 neurons but weights for 2"),
        ({"connections": ()}, "layer 'hidden': has no connection into it"),
        ({"bias": [1.0, 2.0, 3.0]}, "layer 'hidden': bias has shape (3,), not () or (2,)"),
        ({"neuron": lif(threshold=[1.0, 1.0, 1.0])}, "layer 'hidden': threshold has shape (3,), not () or (2,)"),
        ({"neuron": li(rest=[[0.0, 0.0]])}, "layer 'hidden': rest has shape (1, 2), not () or (2,)"),
    ],
)
def test_a_layer_fits_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=says(message)):
        layer(**changes)


def test_a_delay_is_not_negative() -> None:
    with pytest.raises(NetworkError, match=says("connection from 'input': has a delay of -2 steps")):
        Connection(source=INPUT, synapse=Dense(weight=np.ones((1, 1))), delay_steps=-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "network: has no layer"),
        ({"input_shape": ()}, "network: has input shape (): every side must be at least 1"),
        ({"input_shape": (0,)}, "network: has input shape (0,): every side"),
        ({"input_shape": (4,)}, "layer 'hidden': expects 3 inputs, but 'input' has 4"),
        ({"timestep_s": 0.0}, "network: has a timestep of 0.0 s"),
        ({"timestep_s": np.nan}, "network: has a timestep of nan s"),
        ({"layers": (layer(), layer())}, "layer 'hidden': occurs twice in the network"),
    ],
)
def test_a_network_hangs_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=says(message)):
        network(**changes)


def test_a_network_counts_itself(make_network: Callable[..., Network]) -> None:
    chain = make_network([4, 3, 2])
    assert (chain.n_inputs, chain.n_neurons, chain.n_synapses, chain.connectivity) == (4, 5, 18, 1.0)
    assert [layer.name for layer in chain] == ["layer1", "layer2"]
    assert chain.output.name == "layer2"


def test_an_image_is_an_input_of_as_many_pixels() -> None:
    assert network(input_shape=(1, 3)).n_inputs == 3


def test_replacing_a_part_makes_a_new_noun_that_checks_itself() -> None:
    assert replace(network(), timestep_s=0.002).timestep_s == 0.002
    with pytest.raises(NetworkError, match="expects 3 inputs"):
        replace(network(), input_shape=(5,))


@pytest.mark.parametrize(("path", "name"), [("3", "layer3"), ("hidden.lif", "hidden.lif"), ("0.1", "0.1")])
def test_a_layer_is_called_after_its_module(path: str, name: str) -> None:
    assert layer_name(path) == name

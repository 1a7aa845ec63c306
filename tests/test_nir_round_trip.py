"""What is written as NIR is read again as it was, and means by NIR's own equations what the network means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from conftest import examples
from grammar import graph_jobs, graphs
from hypothesis import assume, given
from nir_runs import run_nir
from strategies import networks, spikes_into

from neurodeploy.errors import ExtractError, QuantizeError, RequestError
from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.frontends.nir.writing import write_nir
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Sparse
from neurodeploy.ir.quantized import QuantizedLayer
from neurodeploy.passes.quantize import dequantize, quantize
from neurodeploy.targets.simulate import simulate


def sayable(network: Network) -> Network:
    """The network with decays and biases that NIR has words for, no synapses of nothing, and read at its end only."""
    return replace(network, layers=tuple(_sayable(layer, layer is network.output) for layer in network))


def _sayable(layer: Layer, is_last: bool) -> Layer:
    neuron, bias = layer.neuron, layer.bias
    if isinstance(neuron, LI) and (not is_last or any(c.source == layer.name for c in layer.connections)):
        neuron = LIF(
            threshold=np.ones(()), current_decay=neuron.current_decay, voltage_decay=neuron.voltage_decay, rest=neuron.rest
        )
    kind = int(neuron.current_decay.size + neuron.voltage_decay.size + 3 * neuron.rest.size) % 3
    fades, leaks = (np.clip(np.round(share, 3), 0.01, 1) for share in (neuron.current_decay, neuron.voltage_decay))
    rest = neuron.rest
    if kind == 0:
        bias = np.zeros(()) if isinstance(neuron, LI) else bias
    else:
        fades = np.ones_like(fades)
    if kind == 1:
        leaks = np.zeros_like(leaks)
        rest = np.zeros_like(rest) if isinstance(neuron, LI) else rest
    if all(isinstance(c.synapse, Conv) for c in layer.connections) and bias.shape:
        bias = bias[0].reshape(())
    connections = tuple(replace(c, synapse=_without_nothing(c.synapse)) for c in layer.connections)
    neuron = replace(neuron, current_decay=fades, voltage_decay=leaks, rest=rest)
    return replace(layer, neuron=neuron, bias=bias, connections=connections)


def _without_nothing(synapse: Any) -> Any:
    if isinstance(synapse, Sparse):
        return replace(synapse, weight=np.where(synapse.weight == 0, 1.0, synapse.weight))
    return synapse


@examples(60)
@given(drawn=graphs() | networks())
def test_what_was_written_is_read_again(drawn: Network, tmp_path_factory: pytest.TempPathFactory) -> None:
    network, path = sayable(drawn), tmp_path_factory.mktemp("nir") / "network.nir"
    try:
        write_nir(network, path)
    except ExtractError as error:
        assume("an image of a row" not in error.source)  # a convolution of what a matrix gives
        raise
    assert read_nir(path) == network


@examples(40)
@given(job=(graphs() | networks()).flatmap(lambda n: spikes_into(n).map(lambda s: (n, s))))
def test_the_equations_in_the_file_are_the_network(job: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Membranes to 1e-9; neurons that one way or the other come that close to their threshold are left out."""
    drawn, spikes = job
    network, path = sayable(drawn), tmp_path_factory.mktemp("nir") / "network.nir"
    try:
        write_nir(network, path)
    except ExtractError:
        assume(False)
    theirs = run_nir(nir.read(path, type_check=False), spikes, network.timestep_s)
    ours = simulate(network, spikes, record="all")
    for layer in network:
        said = (ours.spikes if isinstance(layer.neuron, LIF) else ours.v)[layer.name]
        assert np.allclose(theirs[layer.name].reshape(said.shape), said, rtol=1e-6, atol=1e-6) or _is_close(network, ours)


def _is_close(network: Network, record: Any) -> bool:
    """Whether a membrane was within rounding of a threshold: a reset to the rest shows it no more, so all silence counts."""
    margins = [
        np.abs(np.moveaxis(record.v[layer.name].reshape(len(record.v[layer.name]), layer.n_neurons, -1), 1, -1)
               - layer.neuron.rest - layer.neuron.threshold).min(initial=np.inf)
        for layer in network if isinstance(layer.neuron, LIF)
    ]  # fmt: skip
    return min(margins, default=np.inf) < 1e-9


@examples(20)
@given(job=graph_jobs)
def test_integers_are_written_as_the_floats_that_they_stand_for(job: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    quantized = replace(job[0], layers=tuple(_with_known_scale(layer) for layer in job[0]))
    path = tmp_path_factory.mktemp("nir") / "network.nir"
    try:
        write_nir(quantized, path)
    except ExtractError:
        assume(False)
    floats = dequantize(quantized)
    assume(all(not isinstance(c.synapse, Sparse) or c.synapse.weight.all() for layer in floats for c in layer.connections))
    assert read_nir(path) == floats


def _with_known_scale(layer: QuantizedLayer) -> QuantizedLayer:
    neuron = replace(layer.neuron, du=np.maximum(layer.neuron.du, 1), dv=np.maximum(layer.neuron.dv, 1))
    return replace(layer, scale=np.array(3.0), neuron=neuron, bias=np.zeros((), dtype=np.int64))


def test_a_step_of_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="dt: 0 is not a positive length of a step"):
        write_nir(network(layer("one", from_input(), threshold=1.0)), tmp_path / "made.nir", dt=0)


def test_integers_of_an_unknown_scale_are_refused(tmp_path: Path) -> None:
    made = quantize(network(layer("one", from_input(), threshold=1.0)), load_profile("loihi2"))
    with pytest.raises(QuantizeError, match="layer 'one': has no scale"):
        write_nir(replace(made, layers=(replace(made["one"], scale=np.zeros(())),)), tmp_path / "made.nir")


# ---------------------------------------------------------------------------------------------- made by hand

AT_ONCE = {"current_decay": np.ones(()), "rest": np.zeros(())}


def layer(name: str, *connections: Connection[Any], shape: tuple[int, ...] = (2,), bias: Any = 0.0, **neuron: Any) -> Layer:
    decays = {"current_decay": 0.5, "voltage_decay": 0.25, "rest": 0.0} | neuron
    arrays = {key: np.asarray(value, dtype=float) for key, value in decays.items()}
    made = LIF(**arrays) if "threshold" in arrays else LI(**arrays)
    return Layer(name=name, shape=shape, neuron=made, connections=connections, bias=np.asarray(bias, dtype=float))


def from_input(n_out: int = 2, n_in: int = 3) -> Connection[Any]:
    return Connection(source=INPUT, synapse=Dense(weight=np.arange(1.0, 1 + n_out * n_in).reshape(n_out, n_in)))


def network(*layers: Layer, input_shape: tuple[int, ...] = (3,)) -> Network:
    return Network(input_shape=input_shape, layers=layers, timestep_s=1e-3)


def test_a_square_network_passes_the_type_check_of_nir(tmp_path: Path) -> None:
    kernel = np.ones((2, 1, 3, 3))
    image = Connection(source=INPUT, synapse=Conv(weight=kernel, input_shape=(1, 5, 5)))
    back = Connection(source="two", synapse=Dense(weight=np.eye(4)), delay_steps=2)
    flat = Connection(source="one", synapse=Dense(weight=np.ones((4, 18))))
    made = network(
        layer("one", image, shape=(2, 3, 3), threshold=1.0), layer("two", flat, back, shape=(4,), threshold=2.0),
        input_shape=(1, 5, 5),
    )  # fmt: skip
    write_nir(made, tmp_path / "made.nir")
    graph = nir.read(tmp_path / "made.nir")
    assert {type(node).__name__ for node in graph.nodes.values()} == {
        "Input", "Output", "Conv2d", "CubaLIF", "Flatten", "Linear", "Delay",
    }  # fmt: skip
    assert graph.nodes["two.from.two.delay"].delay == pytest.approx(2e-3)
    assert read_nir(tmp_path / "made.nir") == made


def test_a_neuron_that_another_tool_changed_is_read_as_it_is_now(tmp_path: Path) -> None:
    write_nir(network(layer("one", from_input(), threshold=1.0)), tmp_path / "made.nir")
    graph = nir.read(tmp_path / "made.nir")
    graph.nodes["one"].v_threshold = np.full(2, 3.0)
    nir.write(tmp_path / "changed.nir", graph)
    assert read_nir(tmp_path / "changed.nir")["one"].neuron.threshold == 3.0


UNSAYABLE = {
    "no decay": (layer("one", from_input(), threshold=1.0, current_decay=0.0), "layer 'one': has a synaptic current that never"),
    "no leak": (layer("one", from_input(), threshold=1.0, voltage_decay=0.0), "layer 'one': has a synaptic current but no leak"),
    "bias and current": (layer("one", from_input(), bias=1.0), "layer 'one': adds a bias to v, past its"),
    "some leak": (
        layer("one", from_input(), threshold=1.0, current_decay=1.0, voltage_decay=[0.0, 0.5]), "'one': has neurons that leak",
    ),
    "slow": (layer("one", from_input(), threshold=1.0, voltage_decay=1e-310), "layer 'one': decays so slowly"),
    "lost": (layer("one", from_input(), threshold=1e-12, rest=1e6), "layer 'one': has a threshold so much smaller"),
    "rest of I": (layer("one", from_input(), current_decay=1.0, voltage_decay=0.0, rest=1.0), "layer 'one': reads an integrator"),
    "no spikes": (
        layer("one", from_input(), Connection(source="one", synapse=Dense(weight=np.eye(2)))),
        "layer 'one': receives spikes from 'one', which never",
    ),
    "name": (layer(".", from_input(), threshold=1.0), "layer '.': cannot be the name of a node"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_nir_cannot_say_is_refused_by_layer(case: str, tmp_path: Path) -> None:
    made, said = UNSAYABLE[case]
    with pytest.raises(ExtractError, match=said):
        write_nir(network(made), tmp_path / "made.nir")
    assert not list(tmp_path.iterdir())


def test_images_that_nir_cannot_say_are_refused_by_layer(tmp_path: Path) -> None:
    kernel = Conv(weight=np.ones((1, 1, 2, 2)), input_shape=(1, 3, 3))
    by_matrix = Connection(source=INPUT, synapse=Dense(weight=np.ones((9, 3))))
    flat = network(layer("one", by_matrix, shape=(1, 3, 3), threshold=1.0),
                   layer("two", Connection(source="one", synapse=kernel), shape=(1, 2, 2), threshold=1.0))  # fmt: skip
    with pytest.raises(ExtractError, match="layer 'two': convolves 'one', which also receives spikes through a matrix"):
        write_nir(flat, tmp_path / "made.nir")
    biased = layer(
        "one", Connection(source=INPUT, synapse=kernel), shape=(1, 2, 2), threshold=1.0, bias=[1, 2, 3, 4], current_decay=1.0
    )
    with pytest.raises(ExtractError, match="layer 'one': has biases that differ within a channel"):
        write_nir(network(biased, input_shape=(1, 3, 3)), tmp_path / "made.nir")

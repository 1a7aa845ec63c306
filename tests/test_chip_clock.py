"""When layers answer on the chip, and how long spikes wait for others there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, SequentialState
from paper import layer_of

import neurodeploy as nd
from neurodeploy.errors import SimulationError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection, pipeline_depths, wait_steps
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLI, QuantizedNetwork
from neurodeploy.targets.simulate import simulate


def hears(name: str, **delays: int) -> QuantizedLayer:
    """A layer of one neuron that hears the layers of these names, so much later."""
    synapse = layer_of([[1]]).connections[0].synapse
    return QuantizedLayer(
        name=name, shape=(1,), neuron=QuantizedLI(du=np.array(0), dv=np.array(0)), bias=np.array(0), scale=np.array(1.0),
        connections=tuple(Connection(source=source, synapse=synapse, delay_steps=d) for source, d in delays.items()),
    )  # fmt: skip


def test_a_layer_answers_after_the_longest_path_and_short_ones_wait() -> None:
    network = QuantizedNetwork(
        input_shape=(1,),
        layers=(hears("a", input=0), hears("b", a=2, b=1), hears("c", b=0, a=0, input=3), hears("alone", alone=0)),
    )
    assert pipeline_depths(network) == {INPUT: 0, "a": 1, "b": 2, "c": 3, "alone": 1}
    assert wait_steps(network) == {"a": (0,), "b": (2, 1), "c": (0, 1, 2 + 3), "alone": (0,)}


@pytest.mark.lava
def test_spikes_wait_no_longer_than_a_synapse_can_hold_them() -> None:
    def skip(delay: int) -> QuantizedNetwork:
        return QuantizedNetwork(input_shape=(1,), layers=(hears("a", input=0), hears("b", a=0, input=delay)))

    assert wait_steps(skip(62))["b"] == (0, 63)
    message = (
        r"^layer 'b': 64 steps for which spikes from 'input' wait in a synapse, 1 of them for longer paths > 63 "
        r"\(lava-nc .*models\.py\)\. Shorten the delay"
    )
    with pytest.raises(SimulationError, match=message):
        simulate(skip(63), np.ones((1, 2), dtype=np.uint8), end="lava")


def test_nothing_waits_for_a_neuron_that_hears_nobody() -> None:
    """It begins when the input does; alone at the input it is a layer like others, whose synapses are gone."""
    model = SequentialState(torch.nn.Linear(6, 5), LIFCell(), torch.nn.Linear(5, 3), LICell())
    network = extract(model, torch.zeros(1, 6))
    assert pipeline_depths(network) == {INPUT: 0, "bias": 0, "layer0": 1, "layer2": 2}
    assert wait_steps(network)["layer0"] == (0, 0)
    assert wait_steps(network)["layer2"] == (0, 1)
    assert {layer.name for layer in nd.balance(network, load_profile("loihi2"))[0]} <= {"bias", "layer0", "layer2", "bias.relay1"}
    silent = layer_of([[0]], name="a")
    assert pipeline_depths(QuantizedNetwork(input_shape=(1,), layers=(silent, hears("b", a=0)))) == {INPUT: 0, "a": 1, "b": 2}


@pytest.mark.lava
def test_biases_arrive_in_lava_with_the_first_input() -> None:
    torch.manual_seed(1)
    model = SequentialState(torch.nn.Linear(6, 20), LIFCell(), torch.nn.Linear(20, 3), LICell())
    with torch.no_grad():
        model[0].bias.add_(2)
        model[2].bias.add_(1)
    network = nd.quantize(extract(model, torch.zeros(1, 6)), load_profile("loihi2"))
    spikes = np.random.default_rng(0).integers(0, 2, (3, 6, 12)).astype(np.uint8)
    here, there = (simulate(network, spikes, end=end, record="all") for end in ("emulator", "lava"))
    assert here.spikes["layer0"].sum() > 20
    assert nd.compare(here, there).mismatches == 0

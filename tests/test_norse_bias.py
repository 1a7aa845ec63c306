"""A bias in front of neurons with a synaptic current is exact: one neuron that always fires carries it, on the chip too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lava_runs import LONG_S, assert_equal_to_emulator
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters
from norse_runs import assert_alike
from torch.nn import AvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, pipeline_depths
from neurodeploy.ir.network import LIF, Network, Sparse
from neurodeploy.mapping.place import place
from neurodeploy.passes.quantize import dequantize, quantize
from neurodeploy.pipeline.inspection import inspect
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.targets.loihi.lava_client import Job, run_lava_jobs
from neurodeploy.targets.simulate import simulate

SLOW = {"tau_mem_inv": torch.tensor(300.0, dtype=torch.float64), "tau_syn_inv": torch.tensor(400.0, dtype=torch.float64)}


def loud(model: SequentialState, seed: int = 0) -> SequentialState:
    """The model in doubles, with weights and biases of which no membrane meets its threshold exactly."""
    rng = np.random.default_rng(seed)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data = torch.as_tensor(rng.normal(0.3, 1, tuple(parameter.shape)))
    return model


def lif() -> LIFCell:
    return LIFCell(LIFParameters(**SLOW))


def flat() -> SequentialState:
    return loud(SequentialState(Linear(6, 8), lif(), Linear(8, 7), lif(), Linear(7, 3), LICell(LIParameters(**SLOW))))


def pictures() -> SequentialState:
    """A bias of a convolution, and one that normalisation leaves, which pooling behind it keeps."""
    return loud(SequentialState(
        Conv2d(2, 3, 3, padding=1), lif(), Conv2d(3, 4, 3, bias=False), BatchNorm2d(4), AvgPool2d(2), lif(), Flatten(),
        Linear(16, 3), LICell(LIParameters(**SLOW)),
    ))  # fmt: skip


def recurrent() -> SequentialState:
    return loud(SequentialState(Linear(6, 5), lif(), LIFRecurrentCell(5, 4, p=LIFParameters(**SLOW)), Linear(4, 3), lif()))


MODELS = {"flat": (flat, (6,)), "pictures": (pictures, (2, 6, 6)), "recurrent": (recurrent, (6,))}


def spikes_for(shape: tuple[int, ...], n_steps: int = 40) -> Any:
    """Some samples, one of them silent."""
    spikes = (np.random.default_rng(0).random((3, *shape, n_steps)) < 0.4).astype(np.uint8)
    spikes[1] = 0
    return spikes


@pytest.mark.parametrize("name", MODELS)
def test_spikes_are_norses_with_a_bias_in_front_of_currents(name: str) -> None:
    make, shape = MODELS[name]
    assert assert_alike(make(), spikes_for(shape), atol=1e-9) > 100


def network_of(name: str) -> Network:
    make, shape = MODELS[name]
    return extract(make(), torch.zeros(1, *shape, dtype=torch.float64))


def test_one_neuron_carries_all_biases() -> None:
    model = flat()
    network = extract(model, torch.zeros(1, 6, dtype=torch.float64))
    bias = network["bias"]
    assert [layer.name for layer in network] == ["bias", "layer0", "layer2", "layer4"]
    assert bias.n_neurons == 1
    assert isinstance(bias.neuron, LIF)
    assert bias.bias > bias.neuron.threshold
    (nothing,) = bias.connections
    assert (nothing.source, type(nothing.synapse), nothing.synapse.n_synapses) == (INPUT, Sparse, 0)
    for index in (0, 2, 4):
        layer = network[f"layer{index}"]
        assert layer.connections[-1].source == "bias"
        assert layer.bias == 0
        gain = 0.3
        np.testing.assert_allclose(layer.connections[-1].synapse.weight[:, 0], model[index].bias.detach() * gain, rtol=1e-12)
    assert run_reference(network, spikes_for((6,)), record="all").spikes["bias"].all()


def test_a_bias_with_too_many_targets_has_a_remedy_that_works() -> None:
    def limits_of(bias: bool) -> list[str]:
        model = SequentialState(Linear(6, 80, bias=bias), LIFCell(), Linear(80, 8, bias=bias), LICell())
        return [str(one) for one in inspect(extract(model, torch.zeros(1, 6)), "xylo").placement.overruns()]

    (found,) = limits_of(bias=True)
    assert found.startswith("layer 'bias': 88 synapses from one neuron > 64 ")
    assert found.endswith("This neuron brings the biases of the layers it leads to. Train the model without them (bias=False).")
    assert limits_of(bias=False) == []


def test_a_bias_on_v_needs_no_neuron_more() -> None:
    from norse.torch import LIFBoxCell

    assert [layer.name for layer in extract(SequentialState(Linear(6, 4), LIFBoxCell()), torch.zeros(1, 6))] == ["layer0"]


def test_the_name_is_taken() -> None:
    model = SequentialState()
    for name, module in (("bias", Linear(6, 4)), ("bias2", lif())):
        model.add_module(name, module)
    network = extract(loud(model), torch.zeros(1, 6, dtype=torch.float64))
    assert [layer.name for layer in network] == ["bias2", "bias"]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", MODELS)
def test_on_the_chip_it_fires_at_every_step(name: str, bits: int) -> None:
    network = network_of(name)
    quantized = quantize(network, load_profile("loihi2"), bits=bits)
    spikes = spikes_for(network.input_shape)
    record = simulate(quantized, spikes, record="all")
    assert record.spikes["bias"].all()
    rounded = run_reference(dequantize(quantized), spikes, record="all")
    for layer in network:
        if layer.name != network.output.name:
            differ = (record.spikes[layer.name] != rounded.spikes[layer.name]).mean()
            assert differ < 0.05, layer.name
    assert place(quantized, load_profile("loihi2")).cores_used >= 1


@pytest.mark.lava
def test_in_lava_spikes_and_membranes_are_the_emulators() -> None:
    """Each sample begins alike, the silent one too: what the neuron fires before a layer's first input is put out."""
    jobs: list[Job] = [
        (quantize(network, load_profile("loihi2")), spikes_for(network.input_shape, 15))
        for network in (network_of(name) for name in MODELS)
    ]
    assert pipeline_depths(jobs[0][0]) == {INPUT: 0, "bias": 0, "layer0": 1, "layer2": 2, "layer4": 3}
    assert assert_equal_to_emulator(jobs, run_lava_jobs(jobs, record="all", time_limit_s=LONG_S)) > 500

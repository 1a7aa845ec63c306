"""Biases in front of synaptic currents under a budget: they keep their axon and their lists, and the loss sees their integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

import neurodeploy as nd
from neurodeploy.compression.bit_width import WeightGrid, thresholds_of
from neurodeploy.compression.minimax import MinimaxPruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.weight_matrices import budget_per_column

OPTIONS = nd.FitOptions(epochs_dense=4, epochs_compress=3, epochs_finetune=1, n_steps=6, readout="mean", learning_rate=3e-3)


def model() -> SequentialState:
    lif = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return SequentialState(torch.nn.Linear(64, 80), LIFCell(lif), torch.nn.Linear(80, 10), LICell())


def small_chip(memory: int = 12_000, **values: int) -> nd.HardwareProfile:
    return with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=memory, **values)


def test_synapses_are_pruned_and_biases_are_not() -> None:
    network = nd.extract(model(), torch.zeros(1, 64))
    budget = nd.share_budget(network, small_chip(), cores=1)
    kept = {layer.layer: layer.kept for layer in budget.layers}
    assert kept["bias"] == 1
    assert kept["layer0"] < 1
    hidden, out = budget.of("layer0")[0], budget.of("layer2")[0]
    assert (hidden.sources[0].source, hidden.biases, sum(cap.axons for cap in hidden.sources)) == ("input", 1, 64)
    assert (out.sources[0].source, out.biases, out.input_axons) == ("layer0", 1, 81)
    assert next(layer for layer in budget.layers if layer.layer == "bias").output_axons == 2


def test_what_biases_take_is_kept_from_the_synapses_that_are_chosen() -> None:
    net = trainable(model(), torch.zeros(1, 64))
    pruning = MinimaxPruning(nd.share_budget(net.network, small_chip(), cores=1), net)
    plan = budget_per_column(pruning.layers, pruning.budget)
    for mine, given in zip(plan.slices, (part for part in pruning.budget.slices if part.layer in pruning.layers), strict=True):
        assert mine.input_axons == given.input_axons - 1
        assert given.synapse_memory_bits - mine.synapse_memory_bits >= 8 * given.neurons


def test_biases_are_rounded_beside_the_weights() -> None:
    grid = WeightGrid(width=4, largest=0.7)
    weight = torch.tensor([[0.7, -0.3, 0.12]])
    grid = grid.fitted(float(weight.min()), float(weight.max()))
    assert torch.allclose(grid.round(torch.tensor([0.33, -0.06, 5.0])), torch.tensor([0.3, -0.1, 0.7]))  # steps of 0.1, clipped
    registered = grid.round_register(torch.tensor([0.33, -0.06, 5.0]))
    assert torch.allclose(registered, torch.tensor([0.35, -0.05, 5.0]))  # every other number is a weight; nothing is clipped


@pytest.mark.parametrize("cores", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_network_with_biases_is_compressed_into_cores(cores: int, tmp_path: Path) -> None:
    made = nd.compress(
        model(), torch.zeros(1, 64), small_chip(neurons_per_core=70 if cores > 1 else 1024), nd.load_data("digits"), OPTIONS,
        out=tmp_path, cores=cores, lava_samples=0,
    )  # fmt: skip
    assert made.placement.fits
    assert made.placement.cores_used == cores
    biases = [c.synapse.weight for layer in made.quantized for c in layer.connections if c.source == "bias"]
    assert len(biases) == 2
    assert all(np.count_nonzero(bias) for bias in biases)
    accuracy = made.report.accuracy
    assert accuracy.emulated is not None
    assert accuracy.compressed == pytest.approx(accuracy.emulated, abs=0.01)
    assert accuracy.emulated > 0.7


def test_biases_that_begin_at_zero_have_their_room_too(tmp_path: Path) -> None:
    """Untrained they are none, and no neuron brings them."""
    zeroed = model()
    for module in (zeroed[0], zeroed[2]):
        torch.nn.init.zeros_(module.bias)
    chip, data = small_chip(), nd.load_data("digits")
    made = nd.compress(zeroed, torch.zeros(1, 64), chip, data, OPTIONS, out=tmp_path, cores=1, lava_samples=0)
    assert made.placement.fits
    assert {c.source for layer in made.quantized for c in layer.connections} == {"input", "bias", "layer0"}


# ---------------------------------------------------------------------------------------------- of convolutions


def images(*, normalised: bool) -> SequentialState:
    """Convolutions whose biases, or normalisations, stand in front of synaptic currents; with a pool between."""
    lif = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        modules: list[torch.nn.Module] = []
        for n_in, n_out in ((1, 12), (12, 16)):
            modules.append(torch.nn.Conv2d(n_in, n_out, 3, padding=1))
            modules += [torch.nn.BatchNorm2d(n_out), LIFCell(lif)] if normalised else [LIFCell(lif)]
            modules.append(torch.nn.AvgPool2d(2))
        return SequentialState(*modules, torch.nn.Flatten(), torch.nn.Linear(64, 10), LICell())


@pytest.mark.parametrize("normalised", [pytest.param(False, marks=pytest.mark.slow), True])
def test_convolutions_with_biases_lose_channels_and_their_biases(normalised: bool, tmp_path: Path) -> None:
    net, chip = images(normalised=normalised), small_chip(memory=2**20, neurons_per_core=600)
    made = nd.compress(net, torch.zeros(1, 1, 8, 8), chip, nd.load_data("digits"), OPTIONS, out=tmp_path, cores=1, lava_samples=0)
    assert made.placement.fits
    whole = {layer.name: layer.shape[0] for layer in nd.extract(images(normalised=False), torch.zeros(1, 1, 8, 8))}
    convolved = [layer for layer in made.quantized if len(layer.shape) == 3]
    assert len(convolved) == 2
    assert convolved[0].shape[0] < whole["layer0"]
    for layer in convolved:
        (bias,) = (c.synapse.weight for c in layer.connections if c.source == "bias")
        assert bias.shape == (layer.n_neurons, 1)
        by_channel = bias.reshape(layer.shape[0], -1)
        assert (by_channel == by_channel[:, :1]).all()
        assert np.count_nonzero(by_channel[:, 0]) > layer.shape[0] / 2
    accuracy = made.report.accuracy
    assert accuracy.emulated is not None
    assert accuracy.dense is not None
    assert accuracy.dense > 0.6
    assert accuracy.emulated > accuracy.dense - 0.1
    assert accuracy.compressed == pytest.approx(accuracy.emulated, abs=0.02)


def test_biases_of_convolutions_are_rounded_beside_their_weights() -> None:
    net = trainable(images(normalised=False), torch.zeros(1, 1, 8, 8))
    budget = nd.narrow_budget(net.network, small_chip(memory=2**20, neurons_per_core=600), cores=1)
    assert [budget.of(name)[0].biases for name in ("layer0", "layer3", "layer7")] == [1, 1, 1]
    pruning = MinimaxPruning(budget, net, thresholds=thresholds_of(net))
    first = net["layer0"]
    (inlet,), bias = first.inlets, first.bias
    assert bias is not None
    own = bias.detach().clone()
    with pruning.in_force():
        largest = inlet.weight.detach().abs().max()
        steps = bias.detach() / largest * 127
        assert not torch.equal(bias, own)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert torch.allclose(bias, own, atol=float(largest) / 127)
    assert torch.equal(bias, own)

"""Recurrent cells under a budget: what they hear from before them and from themselves shares the memory of their slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState

import neurodeploy as nd
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.minimax import MinimaxPruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.training.forward import run_model

OPTIONS = nd.FitOptions(epochs_dense=8, epochs_compress=6, epochs_finetune=3, n_steps=6, readout="mean", mask_interval=5)
LIF = LIFParameters(v_th=torch.tensor(0.3), tau_mem_inv=torch.tensor(300.0))


def model() -> SequentialState:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return SequentialState(
            LIFRecurrentCell(64, 48, p=LIF), LIFRecurrentCell(48, 40, p=LIF), torch.nn.Linear(40, 10, bias=False), LICell()
        )  # fmt: skip


def chip(memory: int = 30_000, neurons: int = 1024) -> nd.HardwareProfile:
    return with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=memory, neurons_per_core=neurons)


def compression_of(net: TrainableNetwork) -> MinimaxPruning:
    return MinimaxPruning(nd.share_budget(net.network, chip(), cores=1), net, thresholds=thresholds_of(net))


def parts_of(net: TrainableNetwork, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights from before a layer, and from the layer itself."""
    by_source = {inlet.source == name: inlet.weight for inlet in net[name].inlets}
    return by_source[False], by_source[True]


@pytest.mark.parametrize(("cores", "neurons", "memory"), [(2, 60, 24_000)])
def test_a_recurrent_network_is_compressed_into_cores(cores: int, neurons: int, memory: int, tmp_path: Path) -> None:
    made = nd.compress(
        model(), torch.zeros(1, 64), chip(memory, neurons), nd.load_data("digits"), OPTIONS, out=tmp_path, cores=cores,
        lava_samples=0,
    )  # fmt: skip
    assert made.report.before is not None
    assert made.report.before.cores_used > cores
    assert made.placement.fits
    assert made.placement.cores_used == cores
    for layer in made.quantized.layers[:2]:
        assert [c.source == layer.name for c in layer.connections] == [False, True]
        for connection in layer.connections:
            weight = connection.synapse.weight
            assert 0 < np.count_nonzero(weight) < weight.size
    accuracy = made.report.accuracy
    assert accuracy.dense is not None
    assert accuracy.emulated is not None
    assert accuracy.emulated > accuracy.dense - 0.1
    assert accuracy.compressed == pytest.approx(accuracy.emulated, abs=0.01)


def test_what_rests_does_not_learn_and_the_loss_sees_integers() -> None:
    net = trainable(model(), torch.zeros(1, 64))
    pruning, parts = compression_of(net), parts_of(net, "layer0")
    for _ in range(6):  # multipliers first, then forms
        pruning.choose(1.0)
    own = [weight.detach().clone() for weight in parts]
    with pruning.in_force():
        for weight in parts:
            assert 0 < int((weight != 0).sum()) < weight.numel()
            assert len(weight.detach().unique()) <= 255
        run_model(net, torch.ones(2, 3, 64))[-1].square().sum().backward()
    masks = pruning.masks["layer0"]
    for part, was, mask in zip(parts, own, masks.split([64, 48], dim=1), strict=True):
        assert torch.equal(part, was)
        assert part.grad is not None
        assert not part.grad[~mask].any()


def test_a_neuron_that_its_layer_alone_hears_keeps_its_synapses() -> None:
    net = trainable(model(), torch.zeros(1, 64))
    (_, own), (next_layer, _) = parts_of(net, "layer0"), parts_of(net, "layer1")
    with torch.no_grad():
        next_layer[:, 7] = 0  # of the first layer's neurons the second does not hear this one
        own[:, 7] = 0
        own[3, 7] = 5.0
        next_layer[:, 8] = 0  # nor this one, which nobody hears
        own[:, 8] = 0
    pruning = compression_of(net)
    pruning.close()
    assert pruning.masks["layer0"][3, 64 + 7]
    assert pruning.masks["layer0"][7].any()
    assert not pruning.masks["layer0"][8].any()


def test_units_and_thresholds_are_those_of_the_cells_own_weights() -> None:
    cells = model()
    net, network = trainable(cells, torch.zeros(1, 64)), nd.extract(cells, torch.zeros(1, 64))
    found = thresholds_of(net)
    assert set(found) == {"layer0", "layer1"}
    share = network["layer0"].neuron.threshold / np.abs(network["layer0"].connections[1].synapse.weight).max()
    assert found["layer0"] / cells[0].recurrent_weights.detach().abs().max().item() == pytest.approx(float(share), rel=1e-5)


def test_recurrence_behind_an_image_fits_and_runs(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = SequentialState(
            torch.nn.Conv2d(1, 4, 3, bias=False), LIFCell(LIF), torch.nn.Flatten(), LIFRecurrentCell(144, 20, p=LIF),
            torch.nn.Linear(20, 10, bias=False), LICell(),
        )  # fmt: skip
    options, small, data = replace(OPTIONS, epochs_dense=4), chip(memory=15_000), nd.load_data("digits")
    made = nd.compress(net, torch.zeros(1, 1, 8, 8), small, data, options, out=tmp_path, cores=1, lava_samples=0)
    assert made.report.before is not None
    assert made.report.before.cores_used > 1
    assert made.placement.fits
    assert made.placement.cores_used == 1
    recurrent = next(layer for layer in made.quantized if layer.name == "layer3")
    assert [connection.source for connection in recurrent.connections] == ["layer0", "layer3"]
    for connection in recurrent.connections:
        assert 0 < np.count_nonzero(connection.synapse.weight) < connection.synapse.weight.size
    accuracy = made.report.accuracy
    assert accuracy.emulated is not None
    assert accuracy.emulated > 0.5
    assert accuracy.compressed == pytest.approx(accuracy.emulated, abs=0.02)

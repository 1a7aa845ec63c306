"""Networks of all kinds as parameters: they run as what they are, give a module its weights back, and compress into a core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import LI, LIF, LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from spiking import few
from torch import nn

import neurodeploy as nd
from neurodeploy.compression.module_weights import trainable, write_back
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import TrainingError
from neurodeploy.ir import network as ir
from neurodeploy.ir.graph import INPUT
from neurodeploy.mapping.delay_balancing import balance, relays_of
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.forward import run_model

ROW, IMAGE, SEQUENCE = torch.zeros(1, 16), torch.zeros(1, 1, 4, 4), torch.zeros(6, 1, 16)
OPTIONS = nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=1, n_steps=6, mask_interval=2, learning_rate=1e-2)


def parameters() -> LIFParameters:
    return LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.2))


def lif() -> LIFCell:
    return LIFCell(parameters())


def row(n_in: int, n_out: int, *, bias: bool = False) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=bias)


def image(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)


class Residual(nn.Module):
    """A block whose spikes, or whose currents, are added to those of what is before it."""

    def __init__(self, *, adds_spikes: bool) -> None:
        super().__init__()
        self.adds_spikes, self.first, self.second = adds_spikes, image(1, 6), image(6, 6)
        self.cells, self.head, self.out = nn.ModuleList([lif(), lif()]), row(24, 3), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b, c = (None,) * 3 if state is None else state
        before, a = self.cells[0](self.first(x), a)
        current = self.second(before) + (0 if self.adds_spikes else before * 0.3)
        spikes, b = self.cells[1](current, b)
        pooled = nn.functional.avg_pool2d(spikes + before if self.adds_spikes else spikes, 2)
        out, c = self.out(self.head(pooled.flatten(1)), c)
        return out, (a, b, c)


class Concatenated(nn.Module):
    """A readout of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = row(16, 20), row(20, 20), row(40, 3)
        self.cells, self.out = nn.ModuleList([lif(), lif()]), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b, c = (None,) * 3 if state is None else state
        before, a = self.cells[0](self.first(x), a)
        after, b = self.cells[1](self.second(before), b)
        out, c = self.out(self.head(torch.cat([before, after], dim=1)), c)
        return out, (a, b, c)


class SideBySide(nn.Module):
    """One population with filters, or rows, of two modules; or with the sum of both."""

    def __init__(self, join: str) -> None:
        super().__init__()
        n = 3 if join == "beside" else 6
        self.join, self.first, self.second = join, nn.Conv2d(1, n, 3, padding=1), nn.Conv2d(1, n, 1)
        self.cell, self.head, self.out = lif(), row(96, 3), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b = (None, None) if state is None else state
        first, second = self.first(x), self.second(x)
        spikes, a = self.cell(torch.cat([first, second], dim=1) if self.join == "beside" else first + second, a)
        out, b = self.out(self.head(spikes.flatten(1)), b)
        return out, (a, b)


class Loop(nn.Module):
    """It takes all steps at once, and keeps its states to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.head, self.out = row(16, 24), lif(), row(24, 3), LICell()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = b = None
        outputs = []
        for step in x:
            spikes, a = self.cell(self.first(step), a)
            out, b = self.out(self.head(spikes), b)
            outputs.append(out)
        return torch.stack(outputs).amax(0)


def normalised(channels: int) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(channels)
    assert module.running_var is not None
    module.running_var.copy_(torch.linspace(0.2, 0.5, channels))
    return module


def pruned() -> SequentialState:
    """A chain with neurons and inputs without a synapse, and biases of zero."""
    model = SequentialState(row(16, 24, bias=True), lif(), row(24, 3), LICell())
    with torch.no_grad():
        model[0].weight[3] = model[0].weight[:, 5] = model[2].weight[1] = 0
        model[0].bias.zero_()
    return model


KINDS: Mapping[str, tuple[Callable[[], nn.Module], torch.Tensor, Mapping[str, int]]] = {
    "dense": (lambda: SequentialState(row(16, 24), lif(), row(24, 20), lif(), row(20, 3), LICell()), ROW, {"memory": 3000}),
    "biases": (lambda: SequentialState(row(16, 24, bias=True), lif(), row(24, 3, bias=True), LICell()), ROW, {"memory": 2600}),
    "a normalisation": (
        lambda: SequentialState(image(1, 6), normalised(6), lif(), nn.Flatten(), row(96, 3), LICell()), IMAGE, {"neurons": 70}
    ),
    "two normalisations": (  # with the same statistics
        lambda: SequentialState(
            image(1, 6), nn.BatchNorm2d(6), lif(), image(6, 6), nn.BatchNorm2d(6), lif(), nn.Flatten(), row(96, 3), LICell()
        ), IMAGE, {"neurons": 140},
    ),
    "averages": (
        lambda: SequentialState(image(1, 6), lif(), nn.AvgPool2d(2), image(6, 8), lif(), nn.Flatten(), row(32, 3), LICell()),
        IMAGE, {"neurons": 100, "memory": 20_000},
    ),
    "largest": (
        lambda: SequentialState(image(1, 6), lif(), nn.MaxPool2d(2), image(6, 8), lif(), nn.Flatten(), row(32, 3), LICell()),
        IMAGE, {"neurons": 100, "memory": 20_000},
    ),
    "recurrent": (
        lambda: SequentialState(LIFRecurrentCell(16, 20, p=parameters()), row(20, 3), LICell()), ROW, {"memory": 3000}
    ),
    "spikes added": (lambda: Residual(adds_spikes=True), IMAGE, {"neurons": 150}),
    "currents added": (lambda: Residual(adds_spikes=False), IMAGE, {"neurons": 150}),
    "concatenated": (Concatenated, ROW, {"memory": 4000}),
    "filters beside others": (lambda: SideBySide("beside"), IMAGE, {"neurons": 70}),
    "filters and others": (lambda: SideBySide("added"), IMAGE, {"neurons": 70}),
    "without some synapses": (pruned, ROW, {"memory": 2600}),
    "averages of the input": (
        lambda: SequentialState(nn.AvgPool2d(2), nn.Flatten(), row(4, 24), lif(), row(24, 3), LICell()), IMAGE, {"memory": 2000}
    ),
    "a loop": (Loop, SEQUENCE, {"memory": 2000}),
    "a sequence": (lambda: SequentialState(row(16, 24), LIF(parameters()), row(24, 3), LI()), SEQUENCE, {"memory": 2000}),
    "flattened": (lambda: SequentialState(nn.Flatten(), row(16, 24), lif(), row(24, 3), LICell()), IMAGE, {"memory": 2000}),
}  # fmt: skip


def made(kind: str) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        make, sample, _ = KINDS[kind]
        model = make()
    with torch.no_grad():
        for weight in (parameter for parameter in model.parameters() if parameter.ndim > 1):
            weight.mul_(2)  # so that spikes reach the end
    return model.eval(), sample


def changed(network: TrainableNetwork) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=draw) + 0.5)


def outputs_of(network: nd.Network, spikes: torch.Tensor) -> torch.Tensor:
    """Membranes (n_steps, batch, n_out) of the readout."""
    v = run_reference(network, spikes.movedim(1, -1).numpy()).v[network.output.name]
    return torch.from_numpy(v).flatten(1, -2).movedim(-1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_as_the_network_that_was_read(kind: str) -> None:
    model, sample = made(kind)
    network, read = trainable(model, sample), nd.extract(model, sample)
    spikes = (torch.rand(5, 8, *read.input_shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    expected = outputs_of(read, spikes)
    assert expected.any()
    with torch.no_grad():
        assert torch.allclose(run_model(network, spikes).double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(outputs_of(network.to_network(), spikes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize("kind", [nd.Dense, nd.Sparse, nd.Conv])
def test_neurons_that_send_to_themselves_train_whatever_kind_of_synapse_they_do_it_by(
    kind: type[ir.Synapse], subtracts: bool
) -> None:
    model, _ = made("averages")
    read = nd.extract(model, IMAGE)
    first, n = read.layers[0], read.layers[0].n_neurons
    loops: dict[type[ir.Synapse], Callable[[], ir.Synapse]] = {
        nd.Dense: lambda: nd.Dense(weight=-0.2 * np.eye(n)),
        nd.Sparse: lambda: nd.Sparse(
            weight=np.full(n, -0.2), n_in=n, starts=np.arange(n + 1), sources=np.arange(n, dtype=np.int32)
        ),
        nd.Conv: lambda: nd.Conv(
            weight=np.full((first.shape[0], 1, 1, 1), -0.2), input_shape=first.shape, stride=(1, 1), padding=(0, 0),
            dilation=(1, 1), groups=first.shape[0],
        ),
    }  # fmt: skip
    neuron: Any = first.neuron
    if subtracts:
        neuron = nd.SubtractiveLIF(
            current_decay=neuron.current_decay,
            voltage_decay=neuron.voltage_decay,
            threshold=neuron.threshold,
            rest=neuron.rest,
            max_spikes=1,
        )
    own = replace(first, neuron=neuron, connections=(*first.connections, nd.Connection(source=first.name, synapse=loops[kind]())))
    network = replace(read, layers=(own, *read.layers[1:]))
    spikes = (torch.rand(5, 8, *IMAGE.shape[1:], generator=torch.Generator().manual_seed(0)) < 0.4).float()
    expected = outputs_of(network, spikes)
    assert not torch.allclose(expected, outputs_of(read, spikes), rtol=1e-2)
    assert torch.allclose(run_model(TrainableNetwork(network), spikes).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [nd.Dense, nd.Sparse])
def test_biases_that_relays_and_synapses_of_any_kind_bring_train_as_those_of_the_network_without(kind: type[ir.Synapse]) -> None:
    modules = (row(16, 24, bias=True), lif(), row(24, 12, bias=True), lif(), row(12, 3, bias=True), LICell())
    read = nd.extract(SequentialState(*modules), ROW)
    relayed, choices = balance(read, with_values(nd.load_profile("tiny"), max_delay_steps=0))
    relays = {"bias.relay1", "bias.relay2"}
    assert set(relays_of(choices)) == relays

    def brought(one: nd.Connection[ir.Synapse]) -> nd.Connection[ir.Synapse]:
        weight = one.synapse.weight
        if kind is nd.Dense or not one.source.startswith("bias") or weight.ndim == 1:
            return one
        n = len(weight)
        starts, sources = np.arange(n + 1), np.zeros(n, dtype=np.int32)
        return replace(one, synapse=nd.Sparse(weight=weight[:, 0], n_in=1, starts=starts, sources=sources))

    layers = tuple(replace(one, connections=tuple(map(brought, one.connections))) for one in relayed)
    network = TrainableNetwork(replace(relayed, layers=layers))
    assert network.bias_names == {"bias", *relays}
    assert [layer.brings_biases for layer in network] == [True] * 3
    spikes = (torch.rand(5, 8, 16, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    expected = outputs_of(read, spikes)
    assert torch.allclose(run_model(network, spikes).double(), expected, rtol=1e-4, atol=1e-5)
    changed(network)
    after = network.to_network()
    assert not torch.allclose(outputs_of(after, spikes), expected, rtol=1e-2)
    assert torch.allclose(run_model(network, spikes).double(), outputs_of(after, spikes), rtol=1e-4, atol=1e-5)
    network.load(after)
    assert torch.allclose(outputs_of(network.to_network(), spikes), outputs_of(after, spikes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_takes_other_weights_back(kind: str) -> None:
    model, sample = made(kind)
    network = trainable(model, sample)
    spikes = (torch.rand(5, 8, *network.network.input_shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    before = outputs_of(nd.extract(model, sample), spikes)
    changed(network)
    assert write_back(network, model, sample)
    after = outputs_of(nd.extract(model, sample), spikes)
    assert not torch.allclose(after, before, rtol=1e-2)
    assert torch.allclose(after, outputs_of(network.to_network(), spikes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("delays", [(0,), (2,), (0, 3, 7)])
def test_compiled_recurrence_has_the_spikes_and_gradients_of_torch(
    delays: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    draw = np.random.default_rng(0)
    decays = {"current_decay": np.float64(0.4), "voltage_decay": draw.uniform(0.2, 1, 12), "rest": np.float64(0)}
    neuron = ir.LIF(threshold=draw.uniform(0.5, 1, 12), **decays)
    loops = tuple(
        nd.Connection(source="a", synapse=nd.Dense(weight=draw.normal(0, 0.5, (12, 12))), delay_steps=delay) for delay in delays
    )
    inlet = nd.Connection(source=INPUT, synapse=nd.Dense(weight=draw.normal(0, 0.6, (12, 8))))
    layer = nd.Layer(name="a", shape=(12,), connections=(inlet, *loops), neuron=neuron, bias=np.zeros(12))
    network = TrainableNetwork(nd.Network(input_shape=(8,), layers=(layer,), timestep_s=1e-3))
    spikes = (torch.rand(5, 9, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()

    def run_both_ways() -> list[torch.Tensor]:
        network.zero_grad()
        outputs = run_model(network, spikes)
        (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
        assert outputs.any()
        return [outputs.detach(), *(parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None)]

    compiled = run_both_ways()
    monkeypatch.setattr("neurodeploy.training.forward.run_recurrent", lambda *_: None)
    in_torch = run_both_ways()
    assert len(compiled) == 2 + len(delays)
    for one, other in zip(compiled, in_torch, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """Two layers with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.cells, self.head, self.out = row(16, 16), nn.ModuleList([lif(), lif()]), row(16, 3), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b, c = (None,) * 3 if state is None else state
        spikes, a = self.cells[0](self.matrix(x), a)
        spikes, b = self.cells[1](self.matrix(spikes), b)
        out, c = self.out(self.head(spikes), c)
        return out, (a, b, c)


def test_a_module_whose_layers_share_a_matrix_stays_as_it_was_and_fit_says_so() -> None:
    model = Shared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = trainable(model, ROW)
    assert write_back(network, model, ROW)
    changed(network)
    assert not write_back(network, model, ROW)
    budget = nd.share_budget(network.network, nd.load_profile("tiny"), cores=2)
    with pytest.raises(TrainingError, match=r"cannot hold the weights of its network: 'matrix\.weight' of the model"):
        nd.fit(model, budget, few(n_in=16), OPTIONS)
    assert all(torch.allclose(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_are_equal_by_chance_are_trained_one_by_one() -> None:
    model = SequentialState(row(16, 24), lif(), row(24, 3), LICell())
    torch.nn.init.ones_(model[0].weight)
    network = trainable(model, ROW)
    shapes = [inlet.weight.shape for layer in network for inlet in layer.inlets if not inlet.is_fixed]
    assert shapes == [(24, 16), (3, 24)]


SECOND = ("a normalisation", "currents added", "filters beside others", "averages of the input", "flattened")
"""Kinds whose like is among the others, or among the models of tests/test_operators_compress.py: run with the slow tests."""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SECOND else kind for kind in KINDS])
def test_it_is_compressed_into_a_core_and_the_integers_answer_as_what_was_trained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurodeploy.report.html.write_page", lambda *_: None)  # most of the time, and no part of this
    model, sample = made(kind)
    shape, limits = nd.extract(model, sample).input_shape, KINDS[kind][2]
    train, test = (
        [(x.reshape(-1, *shape), y) for x, y in few(n, n_in=16, seed=seed)] for n, seed in ((50, 0), (60, 1))
    )  # fmt: skip
    chip = with_values(
        nd.load_profile("tiny"), synapse_memory_bits_per_core=limits.get("memory", 2**20),
        neurons_per_core=limits.get("neurons", 64), input_axons_per_core=4096, output_axons_per_core=4096,
    )  # fmt: skip
    data = DataSplit(train=train, test=test, input_shape=shape, n_classes=3)
    deployed = nd.compress(model, sample, chip, data, OPTIONS, out=tmp_path, cores=1, lava_samples=0)
    assert deployed.report.before is not None
    assert not deployed.report.before.fits
    assert deployed.placement.fits
    assert deployed.placement.cores_used == 1
    accuracy = deployed.report.accuracy
    assert accuracy.emulated is not None
    assert accuracy.compressed == pytest.approx(accuracy.emulated, abs=2 / 60)
    assert not any(deployed.report.overflows.values())
    assert np.count_nonzero(deployed.quantized.output.connections[0].synapse.weight)
    assert (tmp_path / "weights.safetensors").is_file()

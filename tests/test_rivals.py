"""The rivals of the compression benchmark: each ends within its budget, learnt, and in the chip's integers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import SequentialState
from recount import memory_of
from spiking import budget_for, build

from benchmarks.compression import runs
from benchmarks.compression.plans import TABLES, TableRequest, before
from benchmarks.compression.rivals import RIVALS
from benchmarks.compression.rivals.magnitude import OneShot
from benchmarks.compression.rivals.masked import Masked
from benchmarks.compression.rivals.threshold import Ranking
from benchmarks.compression.tasks import TASKS
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget import Budget
from neurodeploy.passes.dead_neurons import needed_neurons, without_neurons
from neurodeploy.passes.quantize import quantization_errors, quantize
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.checkpoint import load_state, save_state
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.encoders import in_levels
from neurodeploy.training.fit import fit
from neurodeploy.training.options import FitOptions

WIDTH = 6
MEMORY_BITS = 20_480
LEVELS = 15
OPTIONS = FitOptions(
    epochs_dense=0, epochs_compress=4, epochs_finetune=2, n_steps=6, encoder="direct", readout="mean", mask_interval=5,
    learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> DataSplit:
    return load_data("digits")


@pytest.fixture(scope="module")
def dense(digits: DataSplit) -> SequentialState:
    model = build(64, 100, 10)
    fit(model, None, digits.train, FitOptions(epochs_dense=5, n_steps=6, encoder="direct", readout="mean", learning_rate=1e-2))
    return model


@pytest.fixture(scope="module", params=RIVALS)
def fitted(request: Any, digits: DataSplit, dense: SequentialState, loihi1: HardwareProfile) -> Any:
    """A rival, the model that it fitted to a fiftieth of a core, the budget and what happened on the way."""
    model = trainable(dense, torch.zeros(1, 64))
    budget = budget_for(dense, with_values(loihi1, synapse_memory_bits_per_core=MEMORY_BITS), 1)
    rival = RIVALS[request.param](budget, model, width=WIDTH, thresholds=thresholds_of(model, LEVELS))
    _, history = fit(model, budget, digits.train, OPTIONS, test=digits.test, method=lambda *_: rival)
    return rival, model, budget, history


def in_integers(model: TrainableNetwork, rival: Masked) -> tuple[Any, QuantizedNetwork]:
    """As `neurodeploy.compress` brings a compressed model to the chip."""
    network = in_levels(model.to_network(), LEVELS)
    network = without_neurons(network, needed_neurons(network))
    return network, quantize(network, rival.budget.profile, bits=rival.widths)


# ---------------------------------------------------------------------------------------------- what all of them keep


def test_it_ends_within_the_core_counted_anew_from_integers(fitted: Any) -> None:
    rival, model, budget, _ = fitted
    _, quantized = in_integers(model, rival)
    used = 0
    for layer in quantized:
        (connection,) = layer.connections
        there = connection.synapse.weight != 0
        used += memory_of(connection, budget.of(layer.name)[0].region, there, WIDTH, budget.profile)
    assert 0 < used <= MEMORY_BITS
    assert max(rival.overruns().values()) <= 0


def test_it_learns(fitted: Any) -> None:
    history = fitted[3]
    assert history[-1].test_accuracy > 0.5  # chance is a tenth
    assert history[-1].connectivity < 0.35


def test_its_weights_are_the_chips(fitted: Any) -> None:
    rival, model, _, history = fitted
    network, quantized = in_integers(model, rival)
    for error in quantization_errors(network, quantized):
        assert error.weight_error < 1e-5
        assert error.synapses_lost == 0
    left = sum(int((module.weight != 0).sum()) for module in rival.layers.values())
    assert history[-1].connectivity == pytest.approx(left / 7400, abs=0.01)


def test_what_it_keeps_goes_through_a_checkpoint(fitted: Any, tmp_path: Path) -> None:
    rival, model, budget, _ = fitted
    save_state(rival.state_dict(), tmp_path / "state")
    thresholds = {name: form.grid.threshold for name, form in rival.formats.items() if form.grid.threshold is not None}
    other = type(rival)(budget, copy.deepcopy(model), width=WIDTH, thresholds=thresholds)
    other.load_state_dict(load_state(tmp_path / "state"))
    assert told(other.state_dict()) == told(rival.state_dict())
    with rival.in_force(), other.in_force():
        for name, module in rival.layers.items():
            assert torch.equal(other.layers[name].weight, module.weight)


def told(value: Any) -> Any:
    """A state whose parts compare."""
    if isinstance(value, dict):
        return {key: told(each) for key, each in value.items()}
    return np.asarray(value).tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value


# ---------------------------------------------------------------------------------------------- the threshold


@pytest.mark.parametrize("outgoing", [4.0, 1.0])
def test_the_threshold_is_the_lowest_that_fits(outgoing: float, loihi1: HardwareProfile) -> None:
    """Where outgoing weights are small many neurons die, and others get their memory."""
    model = build(40, 60, 10)
    chip = with_values(loihi1, synapse_memory_bits_per_core=8192)
    budget = budget_for(model, chip, 1)
    scores = {"layer0": model[0].weight.detach().abs(), "layer2": model[2].weight.detach().abs() * outgoing}
    masks, thresholds = Ranking(scores, [budget.slices], [8192], WIDTH, chip).masks()
    threshold = thresholds[budget.slices[0].name]

    def alive(level: float) -> dict[str, torch.Tensor]:
        above = {name: score >= level for name, score in scores.items()}
        live = above["layer0"].any(dim=1) & above["layer2"].any(dim=0)
        return {"layer0": above["layer0"] & live[:, None], "layer2": above["layer2"] & live}

    assert all(torch.equal(masks[name], mask) for name, mask in alive(threshold).items())
    assert 0 < int((~masks["layer0"].any(dim=1)).sum()) < 50
    assert bits_of(masks, budget) <= 8192 < bits_of(alive(threshold * 0.97), budget)


def bits_of(masks: dict[str, torch.Tensor], budget: Budget) -> int:
    network = extract(build(40, 60, 10), torch.zeros(1, 40))
    return sum(
        memory_of(network[part.layer].connections[0], part.region, masks[part.layer].numpy(), WIDTH, budget.profile)
        for part in budget.slices
    )


def test_caps_on_axons_are_kept_and_no_slice_is_emptied(make_chip: Callable[..., HardwareProfile]) -> None:
    model = build(40, 20, 3)
    chip = make_chip(input_axons_per_core=15, synapse_memory_bits_per_core=2048)
    rival = OneShot(budget_for(model, chip, 2), trainable(model, torch.zeros(1, 40)), width=8)
    with torch.no_grad():
        rival.layers["layer2"].weight.mul_(1e-6)  # below every threshold
    rival.close()
    assert max(rival.overruns().values()) <= 0
    assert all(mask.any() for mask in rival.masks.values())


@pytest.mark.parametrize("name", RIVALS)
def test_several_layers_on_several_cores_are_kept_within_each(name: str, make_chip: Callable[..., HardwareProfile]) -> None:
    model = build(40, 90, 30, 5)
    chip = make_chip(input_axons_per_core=40, synapse_memory_bits_per_core=8192)
    budget = budget_for(model, chip, 3)
    assert len({part.core for part in budget.slices}) > 1
    net = trainable(model, torch.zeros(1, 40))
    rival: Any = RIVALS[name](budget, net, width=4)
    for progress in (0.0, 0.6, 1.2):
        rival.choose(progress)
        with rival.in_force():
            for module in rival.layers.values():
                module.weight.grad = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(1))
        rival.after_step("compress", 1e-2)
    rival.close()
    assert max(rival.overruns().values()) <= 0
    network = net.to_network()
    kept = needed_neurons(network)
    budget.of_neurons(kept).check(without_neurons(network, kept), widths=rival.widths)
    assert all(mask.any() for mask in rival.masks.values())


def test_a_row_of_the_smoke_table_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["digits"]
    monkeypatch.setitem(TASKS, "digits", replace(task, dense=replace(task.dense, epochs_dense=1)))
    request = TableRequest(task="digits", methods=["minimax-saddle"], budgets=["1/256 core"], seeds=[0], epochs=(1, 1))
    (run,) = TABLES["smoke"](request, [])
    place = runs.Place(mnist=None, folder=tmp_path)
    for dense in before([run]):
        runs.train_dense(dense, place)
    row = runs.compress(run, place)
    assert (row["table"], row["method"]) == ("smoke", "minimax-saddle")
    assert 0 < row["synapse_memory_bits"] <= 2**20 / 256
    assert row["accuracy"] > 0.1

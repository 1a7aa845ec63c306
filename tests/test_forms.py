"""Widths and neurons by the chip's costs, and rounding in training that is the rounding of the quantiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spiking import SHORT, budget_for, build, few
from test_masks import a_slice

from neurodeploy.compression.bit_width import (
    LayerFormat,
    SliceSaliency,
    WeightGrid,
    best_grid,
    best_width,
    shared_thresholds,
    thresholds_of,
)
from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.module_weights import trainable, write_back
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LIF, Dense, Network
from neurodeploy.ir.quantized import QuantizedLIF
from neurodeploy.passes.dead_neurons import needed_neurons, without_neurons
from neurodeploy.passes.quantize import dequantize, quantize
from neurodeploy.training.encoders import in_levels
from neurodeploy.training.fit import fit


@given(seed=st.integers(0, 99), width=st.sampled_from([2, 3, 4, 5, 6, 8]), one_sign=st.booleans())
def test_the_grid_is_the_quantisers(
    seed: int, width: int, one_sign: bool, make_network: Callable[..., Network], tiny: HardwareProfile
) -> None:
    """Weights, and a threshold, as they are in the rounded network, up to a scale that the neuron does not notice."""
    network = make_network([12, 9, 3], seed=seed)
    (connection,) = network["layer1"].connections
    weight = np.abs(connection.synapse.weight) if one_sign else connection.synapse.weight
    layer = replace(network["layer1"], connections=(replace(connection, synapse=Dense(weight=weight)),))
    network = replace(network, layers=(layer, network["layer2"]))
    threshold = shared_thresholds(network)["layer1"]
    grid = WeightGrid(width=width, largest=float(np.abs(weight).max()), threshold=threshold)
    rounded = dequantize(quantize(network, tiny, bits=width))["layer1"]
    assert isinstance(rounded.neuron, LIF)
    ours = grid.fitted(weight.min(), weight.max()).round(torch.from_numpy(weight.copy())).numpy() / threshold
    assert np.allclose(ours, rounded.connections[0].synapse.weight / rounded.neuron.threshold, rtol=1e-9)


def test_thresholds_scale_in_each_layer_that_reads_the_input_alone(make_network: Callable[..., Network]) -> None:
    """Every branch from the input has its weights in units of a level; a layer that reads other neurons too has two units."""
    first = make_network([12, 9, 3])["layer1"]
    of_layer1 = Connection(source="layer1", synapse=Dense(weight=np.ones((9, 9))))
    from_input = first.connections[0]
    branch, deeper = replace(first, name="branch"), replace(first, name="deeper", connections=(of_layer1,))
    both = replace(first, name="both", connections=(from_input, of_layer1))
    network = Network(input_shape=(12,), layers=(first, branch, deeper, both), timestep_s=1e-3)
    assert shared_thresholds(network, 15) == {"layer1": 15.0, "branch": 15.0, "deeper": 1.0}
    assert shared_thresholds(network) == dict.fromkeys(["layer1", "branch", "deeper", "both"], 1.0)


@pytest.mark.parametrize("levels", [1, 15])
@pytest.mark.parametrize("ratio", [0.3, 30.0])
def test_the_loss_rounds_the_threshold_of_an_input_in_levels_as_the_quantiser(
    levels: int, ratio: float, make_network: Callable[..., Network], tiny: HardwareProfile
) -> None:
    """The first layer's weights are trained on intensities 0..1 and divided by the levels on the chip, its threshold is not.

    Three bits a weight make the threshold a small integer, so a wrong one shows in every weight.
    """
    network = make_network([12, 9, 3], seed=1)
    layer = network["layer1"]
    assert isinstance(layer.neuron, LIF)
    threshold = np.asarray(ratio * np.abs(layer.weight).max())
    network = replace(network, layers=(replace(layer, neuron=replace(layer.neuron, threshold=threshold)), network["layer2"]))
    seen = shared_thresholds(network, levels)["layer1"]
    grid = WeightGrid(width=3, largest=float(np.abs(layer.weight).max()), threshold=seen)
    loss_sees = grid.fitted(layer.weight.min(), layer.weight.max()).round(torch.from_numpy(layer.weight.copy())).numpy() / levels
    chip = quantize(in_levels(network, levels), tiny, bits=3)["layer1"]
    assert isinstance(chip.neuron, QuantizedLIF)
    assert np.allclose(loss_sees / float(threshold), chip.connections[0].synapse.weight / float(chip.neuron.vth), rtol=1e-12)


def test_worth_and_error_of_rounding_by_hand() -> None:
    grid = WeightGrid(width=3, largest=1.5)  # steps of a half
    weight = np.array([0.0, 0.2, 0.6, -1.0, 2.0])  # become 0, 0, 0.5, -1, 1.5
    assert np.allclose(grid.saliency(weight), [0, 0, 0.35, 1, 3.75])  # w^2 - (w - rounded)^2
    assert np.allclose(grid.squared_error(weight), [0, 0.04, 0.01, 0, 0.25])


def test_few_large_weights_are_clipped_where_that_serves_the_many() -> None:
    weight = np.append(np.linspace(-1, 1, 200), 2.0)
    assert best_grid(weight, WeightGrid(width=3)).largest < 1.5
    assert best_grid(weight, WeightGrid(width=8)).largest > 1.6


@pytest.mark.parametrize(("penalty", "width"), [(1.0, 3), (1e6, 8)])
def test_a_layer_takes_the_width_that_pays(penalty: float, width: int, tiny: HardwareProfile) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 40))
    part, form = a_slice(64, 40, 4096), LayerFormat(grid=WeightGrid(width=8))
    survives = np.abs(weight) > 1.5
    saliency = SliceSaliency(part=part, weight=weight, curvature=np.ones_like(weight), kept=survives, price=0.2)
    best = best_width(form, [saliency], tiny, penalty)
    assert best.width == width
    assert best.grid == best_grid(weight[survives], WeightGrid(width=width))


def test_synapses_that_the_loss_minds_are_worth_more_and_rounded_with_more_care(tiny: HardwareProfile) -> None:
    rng = np.random.default_rng(0)
    weight, part = rng.normal(size=(64, 40)), a_slice(64, 40, 4096)
    curvature, survives = np.where(rng.random(weight.shape) < 0.2, 5.0, 1e-3), np.abs(weight) > 1
    form = LayerFormat(grid=best_grid(weight[survives], WeightGrid(width=8)), is_rounded=True)
    minded = SliceSaliency(part=part, weight=weight, curvature=curvature, kept=survives, price=0.05)
    alike = replace(minded, curvature=np.ones_like(weight))
    assert np.allclose(minded.scores(form).score, curvature * alike.scores(form).score)
    dearer = replace(alike, curvature=10 * alike.curvature)
    widths = [best_width(form, [one], tiny, 30.0).width for one in (alike, dearer)]
    assert widths[0] < widths[-1] == 8


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("cores", [1, 2])
def test_what_was_trained_is_what_the_chip_gets(cores: int, idle: bool, make_chip: Callable[..., HardwareProfile]) -> None:
    """Widths chosen, idle neurons left out, weights on the grid: quantising changes no synapse, and the budget holds."""
    chip = make_chip(synapse_memory_bits_per_core=3500 // cores, neurons_per_core=128)
    model = build(12, 70, 3)
    net = trainable(model, torch.zeros(1, 12))
    budget = budget_for(model, chip, cores)
    options = MinimaxOptions(widths=True, idle=idle, rounding_penalty=1)
    method = MinimaxPruning(budget, net, options, thresholds=thresholds_of(net))
    fit(net, budget, few(), replace(SHORT, epochs_compress=6, epochs_finetune=2), method=lambda *_: method)
    assert write_back(net, model, torch.zeros(1, 12))
    network = extract(model, torch.zeros(1, 12))
    kept = needed_neurons(network)
    network = without_neurons(network, kept)
    quantized = quantize(network, chip, bits=method.widths)
    budget.of_neurons(kept).check(quantized)
    assert idle or set(method.widths.values()) != {8}
    for layer, rounded in zip(network, dequantize(quantized), strict=True):
        assert layer.weight.any()
        assert np.allclose(layer.weight, rounded.weight, atol=1e-6)


def test_limits_of_scales_are_in_the_scores_at_once_and_after_a_resume(tiny: HardwareProfile) -> None:
    """States are measured between two choices of formats: the grids of the first are limited from then on."""
    model = build(12, 70, 3)
    net, budget = trainable(model, torch.zeros(1, 12)), budget_for(model, tiny, 2)
    states = {layer.name: 1e6 for layer in net.network}
    first, second = (
        MinimaxPruning(budget, net, thresholds=thresholds_of(net), measure_states=lambda *_: states) for _ in range(2)
    )
    first.choose(0.5)
    free = {name: form.grid.scale for name, form in first.formats.items()}
    first.choose(1.0)
    second.load_state_dict(first.state_dict())
    for name, form in first.formats.items():
        assert form.grid.scale < free[name]
        assert second.formats[name].grid == form.grid

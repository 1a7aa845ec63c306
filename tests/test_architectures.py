"""The field's architectures, as torch modules, go all the way: read, inspected, rounded, placed, emulated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from lava_runs import assert_equal_to_emulator
from numpy.typing import NDArray

from neurodeploy.errors import PlacementError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.place import place
from neurodeploy.passes.quantize import quantize
from neurodeploy.pipeline.inspection import inspect
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.targets.loihi.lava_client import run_lava_jobs
from neurodeploy.targets.simulate import random_spikes, simulate

Model = Callable[[], tuple[torch.nn.Module, torch.Tensor]]

SMALL: dict[str, Model] = {
    "784-800-10": lambda: (architectures.Mlp(40), torch.zeros(3, 1, 1, 28, 28)),
    "6Conv+2FC": lambda: (architectures.conv6_fc2(6, 20, 8), torch.zeros(1, 3, 8, 8)),
    "VGG-16": lambda: (architectures.vgg16(32), torch.zeros(1, 3, 32, 32)),
    "VGGSNN": lambda: (architectures.vggsnn(64), torch.zeros(1, 2, 48, 48)),
    "ResNet-19": lambda: (architectures.resnet19(32), torch.zeros(1, 3, 8, 8)),
    "SEW-ResNet-18": lambda: (architectures.sew_resnet18(16, 10), torch.zeros(1, 3, 32, 32)),
}
WHOLE: dict[str, tuple[Model, str, int]] = {
    "784-800-10": (lambda: (architectures.Mlp(), torch.zeros(3, 1, 1, 28, 28)), "loihi2", 811),
    "6Conv+2FC": (lambda: (architectures.conv6_fc2(), torch.zeros(1, 3, 32, 32)), "hala_point", 1_067_118),
    "VGG-16": (lambda: (architectures.vgg16(), torch.zeros(1, 3, 32, 32)), "kapoho_point", 276_490),
    "VGGSNN": (lambda: (architectures.vggsnn(), torch.zeros(1, 2, 48, 48)), "hala_point", 921_610),
    "ResNet-19": (lambda: (architectures.resnet19(), torch.zeros(1, 3, 32, 32)), "hala_point", 1_376_522),
    "SEW-ResNet-18": (lambda: (architectures.sew_resnet18(), torch.zeros(1, 3, 224, 224)), "hala_point", 2_685_416),
}
"""Each with the board that it is placed on, and its neurons worked out by hand; 784-800-10 has one more, for its biases."""

TOO_LARGE = {"6Conv+2FC": "layer16", "VGGSNN": "classifier"}
"""Whose neurons no core holds by our figures: those of the first dense layer hear 16,384 axons, or 18,432, since the average
pooling in front of it folds in. Of 6Conv+2FC's random weights enough round to zero that its integers fit all the same."""


def read(make: Model) -> tuple[Network, torch.nn.Module, torch.Tensor]:
    model, sample = make()
    model = architectures.lively(model)
    return extract(model, sample), model, sample


def own_answers(model: torch.nn.Module, spikes: NDArray[np.uint8], shape: torch.Size) -> NDArray[Any]:
    """What the model's readout says at each step, in doubles, called as its user calls it."""
    steps = [torch.tensor(spikes[..., t]).double().reshape(shape) for t in range(spikes.shape[-1])]
    state, said = (), []
    with torch.no_grad():
        for x in steps:
            v, *state = model(x, *state)
            said.append(v)
    return torch.stack(said, dim=-1).numpy()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "VGGSNN" else name for name in SMALL])
def test_a_narrow_copy_goes_all_the_way(name: str) -> None:
    network, model, sample = read(SMALL[name])
    profile = load_profile("loihi2")
    spikes = random_spikes(network.input_shape, n_samples=1, n_steps=6)
    record = run_reference(network, spikes, record="all")
    fired = [record.spikes[layer.name].any() for layer in network.layers[:-1]]
    assert all(fired)
    if not isinstance(model, architectures.Mlp):
        theirs = own_answers(model.double(), spikes, sample.shape)
        np.testing.assert_allclose(record.v[network.output.name].reshape(theirs.shape), theirs, atol=1e-6)
    quantized = quantize(network, profile)
    placement = place(quantized, profile)
    assert placement.fits
    emulated = simulate(quantized, spikes, record="all")
    assert all(emulated.spikes[layer.name].any() for layer in network.layers[:-1])


def test_how_layers_hear_each_other() -> None:
    resnet, sew = (read(SMALL[name])[0] for name in ("ResNet-19", "SEW-ResNet-18"))
    assert len(resnet.layers) == 19  # as its name says: 17 convolutions and 2 of the head
    assert [c.source for c in resnet["blocks.3.conv2.0"].connections] == ["blocks.3.conv1.0", "blocks.2.conv2.0"]
    assert len(sew.layers) == 22
    assert [c.source for c in sew["head.0"].connections] == ["blocks.7.conv2.0", "blocks.6.conv2.0", "blocks.6.shortcut.0"]
    assert sum(len(layer.connections) for layer in sew) == 40


@pytest.mark.lava
@pytest.mark.slow
def test_narrow_copies_run_in_lava_as_in_the_emulator() -> None:
    jobs: list[tuple[QuantizedNetwork, NDArray[np.uint8]]] = []
    for name in ("784-800-10", "6Conv+2FC", "VGG-16", "VGGSNN", "ResNet-19", "SEW-ResNet-18"):
        network, _, _ = read(SMALL[name])
        quantized = quantize(network, load_profile("loihi2"))
        jobs.append((quantized, random_spikes(network.input_shape, n_samples=1, n_steps=3)))
    assert assert_equal_to_emulator(jobs, run_lava_jobs(jobs, record="all", time_limit_s=1800.0)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_goes_all_the_way(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, board, n_neurons = WHOLE[name]
    profile, seconds, start = load_profile(board), {}, time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal start
        seconds[stage] = round(time.perf_counter() - start, 1)
        start = time.perf_counter()

    network, _, _ = read(make)
    lap("extract")
    inspection = inspect(network, profile)
    lap("inspect")
    quantized = quantize(network, profile)
    lap("quantise")
    broken = {overrun.layer for overrun in inspection.placement.overruns()}
    assert TOO_LARGE[name] in broken if name in TOO_LARGE else not broken
    if name == "VGGSNN":
        with pytest.raises(PlacementError, match=r"^layer 'classifier': .* memory_bits on core .* It is one neuron"):
            place(quantized, profile)
    else:
        assert place(quantized, profile).fits
    lap("place")
    record = simulate(quantized, random_spikes(network.input_shape, n_samples=1, n_steps=3), record="all")
    lap("emulate")
    assert record.spikes[network.layers[-2].name].any()
    with capsys.disabled():
        print(f"\n{name}: {network.n_neurons:,} neurons, {inspection.placement.cores_used:,} cores, seconds {seconds}")
    assert network.n_neurons == n_neurons

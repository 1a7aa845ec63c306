"""Layers with several connections whose inputs and own neurons are more than a core's axons: whole axons are pruned."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_values
from hypothesis import given
from hypothesis import strategies as st
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from spiking import assert_resumes, few, weights
from torch import nn

import neurodeploy as nd
from neurodeploy.compression.minimax import COMPRESS_OPTIONS, MinimaxPruning
from neurodeploy.compression.minimax_saddle import COMPRESS_SADDLE_OPTIONS, MinimaxSaddlePruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.synapse_selection import SliceScores, choose_on_core
from neurodeploy.errors import BudgetError
from neurodeploy.mapping.budget import AxonCap, SliceBudget
from neurodeploy.resources.usage import Region
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.fit import fit

SAMPLE = torch.zeros(1, 12)
LIF = LIFParameters(v_th=torch.tensor(0.2), tau_mem_inv=torch.tensor(300.0), tau_syn_inv=torch.tensor(500.0))
OPTIONS = nd.FitOptions(epochs_dense=20, epochs_compress=6, epochs_finetune=3, n_steps=6, mask_interval=1, learning_rate=2e-2)
DATA = DataSplit(train=few(100), test=few(60, seed=1), input_shape=(12,), n_classes=3)


def chip(**limits: int) -> nd.HardwareProfile:
    few_cores = {"neurons_per_core": 64, "synapse_memory_bits_per_core": 10**6}
    return with_values(nd.load_profile("tiny"), **(few_cores | limits))


def loop() -> SequentialState:
    torch.manual_seed(0)
    return SequentialState(LIFRecurrentCell(12, 30, p=LIF), nn.Linear(30, 3, bias=False), LICell())


class Joined(nn.Module):
    """Two layers read the input, a third their sum, and the readout a concatenation of all three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(12, 20, bias=False), nn.Linear(12, 20)
        self.both = nn.Linear(20, 24)
        self.cells = nn.ModuleList(LIFCell(LIF) for _ in range(3))
        self.head, self.out = nn.Linear(20 + 20 + 24, 3, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        state = state or [None] * 4
        left, first = self.cells[0](self.left(x), state[0])
        right, second = self.cells[1](self.right(x), state[1])
        both, third = self.cells[2](self.both(left + right), state[2])
        out, last = self.out(self.head(torch.cat([left, right, both], dim=1)), state[3])
        return out, [first, second, third, last]


def used_axons(made: nd.Deployment) -> dict[str, int]:
    """Source neurons with a synapse, of all connections of each layer."""
    return {
        layer.name: sum(int(np.count_nonzero(c.synapse.weight.any(axis=0))) for c in layer.connections)
        for layer in made.quantized.layers
    }  # fmt: skip


@pytest.mark.parametrize(("method", "least"), [("minimax", 0.7), pytest.param("minimax-saddle", 0.5, marks=pytest.mark.slow)])
def test_a_recurrent_layer_with_more_sources_than_a_core_has_axons(method: str, least: float, tmp_path: Path) -> None:
    """12 inputs and 30 neurons of its own; the readout shares the core's 40 axons."""
    seen = nd.inspect(nd.extract(loop(), SAMPLE), chip(input_axons_per_core=40), cores=1)
    assert seen.compressible == "Compressible: yes."
    assert seen.budget is not None
    assert {layer.layer: layer.binds for layer in seen.budget.layers} == {"layer0": "input_axons", "layer1": "input_axons"}
    made = nd.compress(
        loop(), SAMPLE, chip(input_axons_per_core=40), DATA, OPTIONS, out=tmp_path, cores=1, method=method, lava_samples=0
    )
    assert made.placement.fits
    axons = used_axons(made)
    assert sum(axons.values()) <= 40
    # sources of both connections stay
    assert all(c.synapse.weight.any() for c in made.quantized.layers[0].connections)
    accuracy = made.report.accuracy
    assert accuracy.compressed == accuracy.emulated
    assert accuracy.emulated is not None
    assert accuracy.emulated > least  # of three classes


@pytest.mark.parametrize("limits", [
    {"input_axons_per_core": 50}, pytest.param({"output_axons_per_core": 60, "neurons_per_core": 30}, marks=pytest.mark.slow),
])  # fmt: skip
def test_sums_and_concatenations_keep_within_axons(limits: dict[str, int], tmp_path: Path) -> None:
    seen = nd.inspect(nd.extract(Joined(), SAMPLE), chip(**limits), cores=3)
    assert seen.compressible == "Compressible: yes."
    made = nd.compress(Joined(), SAMPLE, chip(**limits), DATA, OPTIONS, out=tmp_path, cores=3, lava_samples=0)
    assert made.placement.fits
    assert made.placement.cores_used <= 3
    assert made.report.accuracy.compressed == made.report.accuracy.emulated


@pytest.mark.parametrize("pooled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_dense_layer_behind_an_image_of_more_pixels_than_axons(pooled: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pool, convolution = [nn.AvgPool2d(2)] if pooled else [], nn.Conv2d(1, 2, 1, bias=False)
    nn.init.constant_(convolution.weight, 0.8)
    readout = nn.Linear(2 * 16 // (4 if pooled else 1), 3, bias=False)
    model = SequentialState(convolution, LIFCell(LIF), *pool, nn.Flatten(), readout, LICell())
    small = chip(input_axons_per_core=26)
    seen = nd.inspect(nd.extract(model, torch.zeros(1, 1, 4, 4)), small, cores=2)
    assert seen.compressible == "Compressible: yes; compress chooses how many channels are kept."
    images = DataSplit(
        train=[(x.reshape(-1, 1, 4, 4), y) for x, y in few(100, n_in=16)],
        test=[(x.reshape(-1, 1, 4, 4), y) for x, y in few(60, n_in=16, seed=1)], input_shape=(1, 4, 4), n_classes=3,
    )  # fmt: skip
    made = nd.compress(model, torch.zeros(1, 1, 4, 4), small, images, OPTIONS, out=tmp_path, cores=2, lava_samples=0)
    assert made.placement.fits
    accuracy = made.report.accuracy
    assert accuracy.compressed == accuracy.emulated
    assert accuracy.emulated is not None
    assert pooled or accuracy.emulated > 0.7  # pooled pixels tell less


def test_a_core_without_an_axon_for_each_layer_is_refused() -> None:
    seen = nd.inspect(nd.extract(loop(), SAMPLE), chip(input_axons_per_core=1), cores=1)
    assert isinstance(seen.infeasible, BudgetError)
    assert "input_axons" in seen.compressible
    seen = nd.inspect(nd.extract(loop(), SAMPLE), chip(input_axons_per_core=2), cores=1)
    assert seen.compressible == "Compressible: yes."


def part(n_in: int, axons: int, layer: str = "a") -> SliceBudget:
    return SliceBudget(
        layer=layer, core=0, region=Region.run(0, 4), synapse_memory_bits=0, input_axons=axons,
        sources=(AxonCap(start=0, stop=n_in, axons=n_in),),
    )  # fmt: skip


@pytest.mark.parametrize("memory", [100_000, 700])
def test_axons_of_most_value_stay_whatever_their_connection(memory: int) -> None:
    """The first connection's scores are ten times the second's, but for two axons of the second."""
    rng = np.random.default_rng(0)
    first, second = 10 + rng.random((4, 6)), rng.random((4, 8))
    second[:, [2, 5]] += 100
    scores = [SliceScores(score=score, part=part(score.shape[1], 5), bits=8) for score in (first, second)]
    one, other = choose_on_core(scores, memory, chip())
    assert np.flatnonzero(other.mask.any(axis=0)).tolist() == [2, 5]
    assert one.mask.any(axis=0).sum() == 3
    kept = np.sort(np.argsort(first.sum(axis=0))[-3:]) if memory == 100_000 else np.flatnonzero(one.mask.any(axis=0))
    assert np.flatnonzero(one.mask.any(axis=0)).tolist() == kept.tolist()
    assert one.prices["input_axons"] == other.prices["input_axons"] > 0


@given(seed=st.integers(0, 10**6), memory=st.integers(500, 3000), caps=st.tuples(*[st.integers(1, 12)] * 3))
def test_no_slice_has_more_axons_than_it_may(seed: int, memory: int, caps: tuple[int, ...]) -> None:
    """The memory that one slice's axons leave goes to the others, which have caps too."""
    rng = np.random.default_rng(seed)
    scores = [
        SliceScores(score=rng.random((4, 6)) ** 4 * 10.0 ** rng.integers(-1, 2), part=part(6, cap, name), bits=8)
        for name, cap in zip("abc", caps, strict=True) for _ in range(2)
    ]  # fmt: skip
    found = choose_on_core(scores, memory, chip())
    for n, cap in enumerate(caps):
        assert 1 <= sum(one.mask.any(axis=0).sum() for one in found[2 * n : 2 * n + 2]) <= cap


@pytest.mark.parametrize("method", [
    partial(MinimaxPruning, options=COMPRESS_OPTIONS), partial(MinimaxSaddlePruning, options=COMPRESS_SADDLE_OPTIONS),
])  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_weights(method: Any, tmp_path: Path) -> None:
    options = nd.FitOptions(epochs_dense=0, epochs_compress=4, epochs_finetune=1, n_steps=4, mask_interval=1)

    def run(**more: Any) -> list[np.ndarray[Any, Any]]:
        network = trainable(loop(), SAMPLE)
        budget = nd.narrow_budget(network.network, chip(input_axons_per_core=40), cores=1)
        fit(network, budget, few(), options, method=method, **more)
        return weights(network)

    assert_resumes(run, [("compress", 1, 1)], tmp_path)

"""Dense layers that lose neurons by plan: how many stay, which ones, and the whole way to the chip."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples, with_values
from hypothesis import given
from hypothesis import strategies as st
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from spiking import assert_resumes, build, few, weights
from test_infeasible import check
from torch import nn

import neurodeploy as nd
from neurodeploy.compression.minimax import COMPRESS_OPTIONS, MinimaxPruning
from neurodeploy.compression.minimax_saddle import COMPRESS_SADDLE_OPTIONS, MinimaxSaddlePruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.errors import BudgetError
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.report.text import as_text, layer_table
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.fit import fit

SAMPLE = torch.zeros(1, 12)
OPTIONS = nd.FitOptions(epochs_dense=20, epochs_compress=4, epochs_finetune=2, n_steps=6, mask_interval=1, learning_rate=2e-2)
LIF = LIFParameters(v_th=torch.tensor(0.2), tau_mem_inv=torch.tensor(300.0), tau_syn_inv=torch.tensor(500.0))


def chip(neurons: int, memory: int = 20_000, **more: Any) -> nd.HardwareProfile:
    return with_values(nd.load_profile("tiny"), neurons_per_core=neurons, synapse_memory_bits_per_core=memory, **more)


def split(n_classes: int) -> DataSplit:
    return DataSplit(train=few(100), test=few(60, seed=1), input_shape=(12,), n_classes=n_classes)


class Joined(nn.Module):
    """A recurrent layer and two layers whose spikes are added, read by one head together with the recurrent one's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loop = LIFRecurrentCell(12, 40, p=LIF)
        self.up, self.down, self.both = nn.Linear(40, 30), nn.Linear(12, 30, bias=False), nn.Linear(30, 24)
        self.cells = nn.ModuleList(LIFCell(LIF) for _ in range(3))
        self.head, self.out = nn.Linear(24 + 40, 50, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        state = state or [None] * 5
        looped, first = self.loop(x, state[0])
        up, second = self.cells[0](self.up(looped), state[1])
        down, third = self.cells[1](self.down(x), state[2])
        both, fourth = self.cells[2](self.both(up + down), state[3])
        out, last = self.out(self.head(torch.cat([both, looped], dim=1)), state[4])
        return out, [first, second, third, fourth, last]


def kept(deployment: nd.Deployment) -> dict[str, int]:
    return {layer.name: layer.n_neurons for layer in deployment.quantized.layers}


# ------------------------------------------------------------------------------------------------------- how many


def test_neurons_go_only_where_synapses_are_not_enough(make_network: Callable[..., nd.Network]) -> None:
    network = make_network([12, 60, 80])
    fits, narrow = narrow_budget(network, chip(70), cores=2), narrow_budget(network, chip(30), cores=3)
    assert all(part.kept_neurons == part.neurons for part in fits.slices)
    assert fits.removals({"layer1": 60, "layer2": 80}) == ""
    stay = sum(part.kept_neurons for part in narrow.of("layer1"))
    assert 1 <= stay <= 90 - 80
    # regions are of the whole row, and those of a reader's axons too
    assert narrow.grid("layer1") == (60,)
    assert all(part.sources[-1].stop == 60 for part in narrow.of("layer2"))
    assert sum(part.kept_neurons for part in narrow.of("layer2")) == 80
    assert narrow.removals({"layer1": 60, "layer2": 80}) == f"neurons: layer1 keeps {stay} of 60"


@examples(25)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=5), neurons=st.integers(4, 20), axons=st.integers(2, 30),
    memory=st.sampled_from([70, 130, 400, 2000]), cores=st.integers(1, 4),
)  # fmt: skip
def test_what_a_refusal_names_helps(
    make_network: Callable[..., nd.Network], sizes: list[int], neurons: int, axons: int, memory: int, cores: int
) -> None:
    values = {"output_axons_per_core": axons, "cores_per_chip": 30}
    check(make_network(sizes), chip(neurons, memory, **values, tile_mesh=None), cores, narrow_budget)


def test_inspect_says_so_and_compress_refuses_before_training(tmp_path: Path) -> None:
    model = build(12, 40, 100)
    seen = nd.inspect(nd.extract(model, SAMPLE), chip(30), cores=4)
    assert seen.budget is not None
    assert seen.compressible.startswith("Compressible: yes; neurons: layer0 ")
    (kept,) = re.findall(r"layer0 keeps (\d+) of 40", seen.compressible)
    assert re.search(rf"^ layer0 +40 / {kept} +100\.0%", as_text(layer_table(seen.layers)), re.MULTILINE)
    assert re.search(r"^ layer2 +100 +100\.0%", as_text(layer_table(seen.layers)), re.MULTILINE)  # all of them may stay
    refused = nd.inspect(nd.extract(model, SAMPLE), chip(30), cores=3)
    assert refused.compressible == (
        "Compressible: no. layer 'layer2': 101 neurons of the network on 3 cores (this layer alone has 100), with one neuron of "
        f"each hidden layer kept, > 90 ({refused.infeasible and refused.infeasible.source}). Pruning synapses does not help. "
        "Allow 4 cores or remove neurons."
    )
    with pytest.raises(BudgetError, match=r"101 neurons .* > 90 .*Allow 4 cores"):
        nd.compress(model, SAMPLE, chip(30), split(100), OPTIONS, out=tmp_path / "no", cores=3)
    assert not list((tmp_path / "no").glob("checkpoint*"))


# ---------------------------------------------------------------------------------------------- which


def test_neurons_that_change_nothing_go_first() -> None:
    """The first half has the largest weights, but no gradient."""
    network = trainable(build(12, 40, 100), SAMPLE)
    pruning = MinimaxPruning(narrow_budget(network.network, chip(30), cores=4), network)
    (choice,) = pruning.channels.choices
    (reader,) = choice.readers
    with torch.no_grad():
        reader.weight[:, :20] *= 100
    reader.weight.grad = torch.ones_like(reader.weight)
    reader.weight.grad[:, :20] = 0
    pruning.after_step("compress", 0.0)
    pruning.choose(1.0)
    assert 1 <= choice.mask.sum() == choice.keep <= 20
    assert not choice.mask[:20].any()
    assert max(pruning.overruns().values()) <= 0
    removed = ~choice.mask
    assert not pruning.masks["layer0"][removed].any()
    assert not pruning.masks["layer2"][:, removed].any()


def test_the_number_in_force_falls_to_that_of_the_plan() -> None:
    network = trainable(build(12, 40, 100), SAMPLE)
    pruning = MinimaxPruning(narrow_budget(network.network, chip(30), cores=4), network)
    (choice,) = pruning.channels.choices
    numbers = []
    for progress in (0.0, 0.3, 0.6, 1.0):
        pruning.choose(progress)
        numbers.append(int(choice.mask.sum()))
    assert numbers[0] == 40
    assert numbers[-1] == choice.keep
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == 4


def test_summands_keep_the_same_neurons_though_they_are_cut_in_different_places() -> None:
    network = trainable(Joined(), SAMPLE)
    budget = narrow_budget(network.network, chip(17, 40_000, cores_per_chip=6, tile_mesh=None), cores=6)
    pruning = MinimaxPruning(budget, network)
    pruning.choose(1.0)
    tied = next(choice for choice in pruning.channels.choices if len(choice.layers) == 2)
    assert set(tied.layers) == {"up", "down"}
    for name in tied.layers:
        for part in budget.of(name):
            assert 0 < tied.mask[part.start : part.stop].sum() <= part.max_neurons


# ---------------------------------------------------------------------------------------------- the whole way


@pytest.mark.parametrize("method", ["minimax", pytest.param("minimax-saddle", marks=pytest.mark.slow)])
def test_a_head_too_wide_for_its_hidden_layer_is_compressed(method: str, tmp_path: Path) -> None:
    news = list[str]()
    made = nd.compress(
        build(12, 40, 100), SAMPLE, chip(30), split(100), OPTIONS, out=tmp_path, cores=4, method=method, lava_samples=0,
        say=news.append,
    )  # fmt: skip
    assert made.placement.fits
    assert made.placement.cores_used == 4
    assert 1 <= kept(made)["layer0"] <= 20
    assert kept(made)["layer2"] == 100
    assert any(line.startswith("The chip limits neurons: layer0 ") for line in news)
    accuracy = made.report.accuracy
    assert accuracy.compressed == accuracy.emulated
    assert accuracy.emulated is not None
    assert accuracy.emulated > 0.8  # of three classes
    assert nd.read_netx(tmp_path / "model.net") == made.quantized


def test_recurrence_sums_concatenations_and_biases_lose_neurons(tmp_path: Path) -> None:
    model, small = Joined(), chip(17, 40_000, cores_per_chip=6, tile_mesh=None)
    made = nd.compress(model, SAMPLE, small, split(50), OPTIONS, out=tmp_path, cores=6, lava_samples=0)
    assert made.placement.fits
    assert made.placement.cores_used <= 6
    numbers = kept(made)
    assert sum(numbers.values()) <= 6 * 17
    assert numbers["up"] == numbers["down"] < 30
    accuracy = made.report.accuracy
    assert accuracy.compressed == accuracy.emulated


def test_a_wide_head_behind_convolutions(tmp_path: Path) -> None:
    """Not even one channel for each convolution leaves enough neurons for the dense layers."""
    torch.manual_seed(0)
    model = SequentialState(
        nn.Conv2d(1, 4, 3, bias=False), LIFCell(LIF), nn.Flatten(), nn.Linear(16, 60, bias=False), LIFCell(LIF),
        nn.Linear(60, 40, bias=False), LICell(),
    )  # fmt: skip
    images = DataSplit(
        train=[(x.reshape(-1, 1, 4, 4), y) for x, y in few(50, n_in=16)],
        test=[(x.reshape(-1, 1, 4, 4), y) for x, y in few(50, n_in=16, seed=1)], input_shape=(1, 4, 4), n_classes=40,
    )  # fmt: skip
    made = nd.compress(model, torch.zeros(1, 1, 4, 4), chip(30), images, OPTIONS, out=tmp_path, cores=2, lava_samples=0)
    assert made.placement.fits
    assert sum(kept(made).values()) <= 60
    assert made.report.accuracy.compressed == made.report.accuracy.emulated


@pytest.mark.parametrize("method", [
    partial(MinimaxPruning, options=COMPRESS_OPTIONS), partial(MinimaxSaddlePruning, options=COMPRESS_SADDLE_OPTIONS),
])  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_weights(method: Any, tmp_path: Path) -> None:
    options = nd.FitOptions(epochs_dense=0, epochs_compress=4, epochs_finetune=1, n_steps=4, mask_interval=1)

    def run(**more: Any) -> list[np.ndarray[Any, Any]]:
        network = trainable(build(12, 40, 100), SAMPLE)
        budget = narrow_budget(network.network, chip(30), cores=4)
        fit(network, budget, few(), options, method=method, **more)
        return weights(network)

    assert_resumes(run, [("compress", 0, 1), ("compress", 2, 1), ("finetune", 0, 1)], tmp_path)


def test_slices_of_a_layer_that_loses_neurons_may_have_more_than_an_index_can_name(tmp_path: Path) -> None:
    chip = with_values(nd.load_profile("tiny"), index_bits=(6,), neurons_per_core=64)
    model = SequentialState(nn.Linear(8, 300, bias=False), LIFCell(), nn.Linear(300, 3, bias=False), LICell())
    sample, data = torch.zeros(1, 8), few(n_in=8)
    assert nd.inspect(nd.extract(model, sample), chip, cores=2).budget is not None
    options = nd.FitOptions(n_steps=3, epochs_dense=0, epochs_compress=1, epochs_finetune=0)
    halves = DataSplit(train=data, test=data, input_shape=(8,), n_classes=3)
    made = nd.compress(model, sample, chip, halves, options, cores=2, out=tmp_path, lava_samples=0)
    assert made.placement.fits


@pytest.mark.slow  # 15 s: a refusal has tried all levels
def test_inspect_refuses_what_compress_refuses_where_kernels_are_not_pruned() -> None:
    chip = with_values(nd.load_profile("loihi1"), cores_per_chip=8, synapse_memory_bits_per_core=8192, tile_mesh=None)
    pooled = SequentialState(
        nn.Conv2d(1, 16, 3, padding=1), LIFCell(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1, groups=4), LIFCell(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10), LICell(),
    )  # fmt: skip
    seen = nd.inspect(nd.extract(pooled, torch.zeros(1, 1, 8, 8)), chip, cores=8)
    assert seen.budget is None
    assert "remain however much is pruned > 8" in seen.compressible

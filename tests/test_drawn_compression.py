"""Drawn modules on the whole way: extracted, compressed while they train, quantised, placed, emulated, and run in Lava."""

from __future__ import annotations

from collections import Counter
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from conftest import with_values
from lava_runs import LONG_S, assert_equal_to_emulator
from norse.torch import LIBoxCell, LICell, LIFCell, LIFParameters, LIFRecurrentCell, LIParameters, SequentialState
from spiking import few
from torch import nn

import neurodeploy as nd
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.minimax import make_minimax
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.pruning_method import PruningSetup
from neurodeploy.errors import BudgetError
from neurodeploy.ir.network import LIF, Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.place import lay_out
from neurodeploy.passes.quantize import dequantize, state_scale
from neurodeploy.pipeline.compress import in_integers
from neurodeploy.targets import default_weight_bits
from neurodeploy.targets.loihi.lava_client import Job, run_lava_jobs
from neurodeploy.training.encoders import in_levels
from neurodeploy.training.fit import fit

OPTIONS = nd.FitOptions(epochs_dense=0, epochs_compress=2, epochs_finetune=1, n_steps=5, mask_interval=1, learning_rate=1e-2)


class Drawn(nn.Module):
    """Blocks of cells that read one or two earlier ones: as a sum or a concatenation, of this step or the one before.

    Images come first; a pooling, groups of channels, biases, a batch norm and recurrence are drawn for each block.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.kinds = Counter[str]()
        self.shapes: list[tuple[int, ...]] = [(2, 4, 4)] if rng.random() < 0.6 else [(16,)]
        self.reads: list[tuple[int, ...]] = []
        self.joins: list[str] = []
        self.weights, self.before, self.cells = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number in range(int(rng.integers(1, 4))):
            newest = self.shapes[-1]
            others = [n for n, shape in enumerate(self.shapes[:-1]) if shape[1:] == newest[1:]]
            reads = (number, int(rng.choice(others))) if others and rng.random() < 0.7 else (number,)
            join = str(rng.choice(["sum", "concatenation", "late"])) if len(reads) == 2 else "one"
            self.reads.append(reads)
            self.joins.append(join)
            self.kinds[join] += 1
            self._add_block(rng, [self.shapes[n] for n in reads], join)
        self.head, self.out = nn.Linear(int(np.prod(self.shapes[-1])), 3, bias=bool(rng.random() < 0.3)), LICell(LIParameters(
            tau_syn_inv=torch.tensor(500.0), tau_mem_inv=torch.tensor(250.0)))  # fmt: skip
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(seed)
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape) * (1.5 / max(parameter[0].numel(), 1) ** 0.5))

    def _add_block(self, rng: np.random.Generator, sources: list[tuple[int, ...]], join: str) -> None:
        weights, before = nn.ModuleList(), nn.Sequential()
        is_image = len(sources[0]) == 3 and rng.random() < 0.75
        n_out = int(rng.choice([4, 6] if is_image else [10, 14]))
        sizes = [sum(shape[0] for shape in sources)] if join == "concatenation" else [shape[0] for shape in sources]
        plane = sources[0][1:]
        if is_image:
            if min(plane) > 1 and rng.random() < 0.4:
                pool = nn.AvgPool2d(2) if join != "one" or rng.random() < 0.5 else nn.MaxPool2d(2)
                self.kinds[type(pool).__name__] += 1
                before.append(pool)
                plane = (plane[0] // 2, plane[1] // 2)
            for n_in in sizes:
                groups = 2 if n_in % 2 == 0 and rng.random() < 0.3 else 1
                self.kinds["groups"] += groups - 1
                weights.append(nn.Conv2d(n_in, n_out, 3, padding=1, groups=groups, bias=bool(rng.random() < 0.3)))
            self.shapes.append((n_out, *plane))
        else:
            if len(sources[0]) == 3:
                before.append(nn.Flatten())
            weights.extend(nn.Linear(n * int(np.prod(plane)), n_out, bias=bool(rng.random() < 0.3)) for n in sizes)
            self.shapes.append((n_out,))
        p = LIFParameters(tau_syn_inv=torch.tensor(500.0), tau_mem_inv=torch.tensor(250.0), v_th=torch.tensor(0.25))
        if not is_image and len(weights) == 1 and rng.random() < 0.3:
            self.kinds["recurrent"] += 1
            n_in = sizes[0] * int(np.prod(plane))
            weights = nn.ModuleList([nn.Identity()])
            self.cells.append(LIFRecurrentCell(n_in, n_out, p=p))
        else:
            self.cells.append(LIFCell(p))
        self.weights.append(weights)
        self.before.append(before)

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        cells = [None] * (len(self.cells) + 1) if state is None else state[0]
        earlier = [None] * len(self.shapes) if state is None else state[1]
        spikes, new = [x], []
        for n, cell in enumerate(self.cells):
            first, *second = self.reads[n]
            sources = [spikes[first], *(spikes[one] for one in second)]
            if self.joins[n] == "late":
                late = earlier[second[0]]
                sources[1] = torch.zeros_like(sources[1]) if late is None else late
            if self.joins[n] == "concatenation":
                sources = [torch.cat(sources, dim=1)]
            current = sum(weight(self.before[n](one)) for weight, one in zip(self.weights[n], sources, strict=True))
            fired, after = cell(current, cells[n])
            spikes.append(fired)
            new.append(after)
        out, after = self.out(self.head(spikes[-1].flatten(1)), cells[-1])
        return out, ([*new, after], spikes)


AXONS = {"input_axons_per_core": 4096, "output_axons_per_core": 4096}


def assert_same_weights(network: Network, quantized: QuantizedNetwork) -> None:
    """What was trained are the integers: each layer's weights are the same multiple of them, or of its threshold."""
    for trained, rounded in zip(network, dequantize(quantized), strict=True):
        if not any(one.synapse.weight.any() for one in trained.connections if not one.is_fixed):
            continue  # a pooling, or the neuron that brings biases
        pairs = [
            (one.synapse.weight.ravel(), other.synapse.weight.ravel())
            for one, other in zip(trained.connections, rounded.connections, strict=True)
            if not one.is_fixed
        ]
        biases, whole = trained.bias, rounded.bias
        weights, integers = (np.concatenate(side) for side in zip(*pairs, strict=True))
        if isinstance(trained.neuron, LIF) and isinstance(rounded.neuron, LIF):
            # the chip's threshold is rounded too, and its error is in the trained weights
            threshold, on_chip = trained.neuron.threshold.max(), rounded.neuron.threshold.max()
            weights, integers, biases, whole = weights / threshold, integers / on_chip, biases / threshold, whole / on_chip
        assert np.allclose(weights, integers, rtol=1e-5, atol=1e-6 * np.abs(weights).max(initial=0.0)), trained.name
        assert np.allclose(biases, whole, rtol=1e-5, atol=1e-6 * np.abs(weights).max(initial=0.0)), trained.name


def compressed(seed: int) -> tuple[Job, Counter[str]] | None:
    """A drawn module on its way to the integers; None where the plan is refused. What has to hold on the way is asserted."""
    model = Drawn(seed).eval()
    network = trainable(model, torch.zeros(1, *model.shapes[0]))
    rng = np.random.default_rng(seed)
    cores = int(rng.integers(1, 4))
    roomy = with_values(nd.load_profile("tiny"), synapse_memory_bits_per_core=2**20, neurons_per_core=1024, **AXONS)
    whole = lay_out(network.network, roomy, bits=8)
    resources = ("synapse_memory_bits", "neurons", "input_axons")
    used = {key: sum(whole.on_core(core)[key] for core in range(whole.cores_used)) for key in resources}
    chip = with_values(
        roomy, synapse_memory_bits_per_core=int(used["synapse_memory_bits"] * rng.uniform(0.4, 0.9) / cores),
        neurons_per_core=int(used["neurons"] * rng.uniform(0.5, 1.5) / cores) + 4,
        input_axons_per_core=int(used["input_axons"] * rng.uniform(0.6, 1.8) / cores) + 4,
    )  # fmt: skip
    try:
        _, balances = balance(network.network, chip, bits=default_weight_bits(chip))
        budget = narrow_budget(network.network, chip, cores=cores, bits=default_weight_bits(chip), balances=balances)
        pruning = make_minimax(budget, network, PruningSetup(thresholds=thresholds_of(network)))
    except BudgetError:
        return None
    fit(network, budget, few(50, n_in=int(np.prod(model.shapes[0]))), OPTIONS, method=lambda *_: pruning)
    spikes = (rng.random((2, *model.shapes[0], 8)) < 0.5).astype(np.uint8)
    kept, quantized, plan, _ = in_integers(network.to_network(), budget, pruning.widths, spikes)
    placement = lay_out(quantized, chip, cores=cores, plan=plan.cuts)
    assert placement.fits
    assert placement.cores_used <= cores
    assert_same_weights(kept, quantized)
    model.kinds["relays"] += len(budget.relays)
    return (quantized, spikes), model.kinds


def block(channels: int) -> torch.nn.Module:
    """A residual block with folded normalisations, whose biases are larger than any weight, and a fixed skip."""
    head = SequentialState(torch.nn.Linear(channels, 3), LIBoxCell())
    model = architectures.ResNet(
        architectures.ResidualBlock, architectures.conv_bn(1, channels), channels, [(channels, 1, 1)], head
    )
    model = architectures.lively(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.uniform_(-2.0, 3.0, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("levels", [1, 15])
def test_skips_biases_in_registers_and_limited_scales_are_in_the_loss(levels: int) -> None:
    network, chip = trainable(block(4), torch.zeros(1, 1, 6, 6)), nd.load_profile("loihi1")
    budget = narrow_budget(network.network, chip, cores=4, bits=8)
    assert any(inlet.is_fixed for layer in network for inlet in layer.inlets)
    # states on which each layer's scale is about half of what its weights allow
    whole = {layer.name: float(np.max(layer.scale)) for layer in nd.quantize(in_levels(network.network, levels), chip)}
    halved = {name: state_scale(1.0, chip) / (0.5 * scale) for name, scale in whole.items()}
    setup = PruningSetup(thresholds=thresholds_of(network, levels), measure_states=lambda *_: halved)
    pruning = make_minimax(budget, network, setup)
    fit(network, budget, few(50, n_in=36), OPTIONS, method=lambda *_: pruning)
    assert pruning.largest_states == halved
    spikes = np.zeros((1, 1, 6, 6, 2), dtype=np.uint8)
    trained = in_levels(network.to_network(), levels)
    kept, quantized, _, _ = in_integers(trained, budget, pruning.widths, spikes, pruning.largest_states)
    assert_same_weights(kept, quantized)
    for layer in quantized:
        assert float(np.max(layer.scale)) <= 0.5001 * whole[layer.name]
    # weights do not clip biases
    assert any(np.abs(layer.bias).max() > np.abs(layer.connections[0].synapse.weight).max() for layer in kept)


def test_a_sign_that_rounding_leaves_nothing_of_has_no_values_in_the_loss_either() -> None:
    """The one negative weight of this readout rounds to zero: the chip then has the finer values of weights of one sign."""
    assert compressed(502)


@pytest.mark.lava
def test_drawn_modules_go_the_whole_way() -> None:
    check(range(39, 60))  # each kind is among them


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("seeds", [range(first, first + 50) for first in range(100, 600, 50)], ids=str)
def test_hundreds_of_drawn_modules_go_the_whole_way(seeds: range) -> None:
    check(seeds)


def check(seeds: range) -> None:
    found = [compressed(seed) for seed in seeds]
    jobs, kinds = [one[0] for one in found if one], sum((one[1] for one in found if one), Counter[str]())
    assert len(jobs) >= 0.8 * len(seeds)
    of_all = ("sum", "concatenation", "late", "groups", "recurrent", "AvgPool2d", "MaxPool2d", "relays")
    assert all(kinds[kind] for kind in of_all)
    records = run_lava_jobs(jobs, record="all", time_limit_s=LONG_S)
    assert assert_equal_to_emulator(jobs, records) > 100
